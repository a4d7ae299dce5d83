from __future__ import annotations

import errno
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from captune import files
from captune.errors import UserError
from captune.files import (
    check_writable,
    home_path,
    lines_of,
    partial_path,
    private_folder,
    read_text,
    real_path,
    whole_file,
)
from captune_metrics.display import named
from captune_metrics.files import read_bytes
from tests.processes import ended, pipe, start


def test_the_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as file:
        file.write("half")
        file.flush()
        assert not path.exists()
    assert path.read_text() == "half"


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_or_an_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"), whole_file(tmp_path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), whole_file(tmp_path / "file" / "x"):
        pass
    with pytest.raises(UserError, match="cannot be written"), whole_file(tmp_path / ("x" * 300)):
        pass


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with whole_file(tmp_path / "link.txt") as file:
        file.write("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on Windows")
def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("link")
    assert real_path(link) == link
    with whole_file(link) as file:
        file.write("a")
    assert link.read_text() == "a"


def test_a_pipe_or_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with whole_file(pipe) as file:
            file.write("some")
        assert os.read(reader, 9) == b"some"
    finally:
        os.close(reader)
    with pytest.raises(UserError, match="nobody reads this pipe"), whole_file(pipe):
        pass
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_an_impossible_place_is_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path, "is a folder"),
        (Path("a\0b"), "cannot be the"),
        (tmp_path / "file" / "x", "cannot be"),
    ):
        with pytest.raises(UserError, match=message):
            check_writable(path)
    check_writable(tmp_path / "new" / "folder" / "a.csv")
    assert not (tmp_path / "new").exists()


def test_refusals_are_safe_for_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J").write_text("")
    place = tmp_path / "\x1b[2J" / "a.csv"
    for refused in (check_writable, lambda path: whole_file(path).__enter__()):
        with pytest.raises(UserError) as refusal:
            refused(place)
        assert "\\x1b[2J" in str(refusal.value)
        assert str(refusal.value).isprintable()


def test_a_sentence_names_three_and_counts_the_rest() -> None:
    assert named(["a"], "image") == 'image "a"'
    assert named(["a", "b"], "image") == 'images "a", "b"'
    assert named(["a", "b", "c"]) == '"a", "b", "c"'
    assert named([f"{i}" for i in range(1234)]) == '"0", "1", "2" and 1,231 more'
    assert named(["\x1b[2J", "x" * 999]) == f'"\\x1b[2J", "{"x" * 79}…"'


_LEFT = ".a.csv.0123456789ab.partial"


def _write_and_hang(path: Path, told: Any) -> None:
    with whole_file(path) as file:
        file.write("half")
        file.flush()
        told.send("written")
        time.sleep(60)


def _write(path: Path) -> None:
    with whole_file(path) as file:
        file.write("whole")


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_stays(
    tmp_path: Path,
) -> None:
    killed, living = (tmp_path / name for name in ("killed.csv", "living.csv"))
    writers = []
    for path in (killed, living):
        hears, told = pipe()
        writers.append(start(_write_and_hang, path, told))
        assert hears.recv() == "written"
    writers[0].kill()
    ended(writers[0])
    try:
        assert len(list(tmp_path.iterdir())) == 2
        again = start(_write, tmp_path / "b.csv")
        assert ended(again) == 0
        first, second = sorted(path.name for path in tmp_path.iterdir())
        assert first.startswith(".living.csv.")
        assert second == "b.csv"
    finally:
        writers[1].kill()
        ended(writers[1])


def test_only_partial_files_of_ours_are_swept(tmp_path: Path) -> None:
    for name in (_LEFT, ".a.csv.partial", "a.csv", ".a.0123.partial"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".link.ba9876543210.partial").symlink_to("a.csv")
    (tmp_path / ".folder.ba9876543210.partial").mkdir()
    mine = partial_path(tmp_path / "figure.png")
    mine.write_text("a library writes it")
    _write(tmp_path / "b.csv")
    assert {path.name for path in tmp_path.iterdir()} == {
        *(".a.csv.partial", "a.csv", ".a.0123.partial", "b.csv", mine.name),
        *(".link.ba9876543210.partial", ".folder.ba9876543210.partial"),
    }


@pytest.mark.parametrize("mark", ["run.json", ".records.jsonl.ba9876543210.partial"])
def test_a_run_folder_is_left_to_its_writer(mark: str, tmp_path: Path) -> None:
    for name in (_LEFT, mark):
        (tmp_path / name).write_text("x")
    _write(tmp_path / "b.csv")
    assert {path.name for path in tmp_path.iterdir()} == {_LEFT, mark, "b.csv"}


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals on Windows")
def test_a_terminal_as_a_file_shows_text(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = os.openpty()
    with whole_file(Path(os.ttyname(theirs))) as file:
        file.write("a,\x1b]52;c;x\x07\nb\n")
    assert os.read(ours, 99) == b"a,\\x1b]52;c;x\\x07\r\nb\r\n"


@pytest.mark.skipif(os.name != "posix", reason="locks are others here")
def test_a_private_folder_sweeps_those_of_killed_processes_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "captune-test-left"
    (left / "images").mkdir(parents=True)
    (left / "images" / "x.jpg").write_bytes(b"x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    (tmp_path / "captune-test-link").symlink_to(elsewhere)
    (tmp_path / "captune-test-file").write_text("x")
    with private_folder("captune-test-") as first:
        assert not left.exists()
        (first / "x").write_text("x")
        with private_folder("captune-test-") as second:
            assert (first / "x").exists()
            assert second != first
        assert not second.exists()
    assert not first.exists()
    assert (elsewhere / "kept").exists()
    assert (tmp_path / "captune-test-file").exists()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give away")
def test_a_folder_of_another_user_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    theirs = tmp_path / "captune-test-theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with private_folder("captune-test-"):
        assert theirs.exists()


def test_a_text_may_be_smaller_than_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a string it takes up to four times as much."""
    path = tmp_path / "a.txt"
    path.write_text("12345")
    monkeypatch.setattr(files, "LARGEST_TEXT", 4)
    with pytest.raises(UserError, match=r"a\.txt cannot be read .*over the limit"):
        read_text(str(path))
    assert read_bytes(str(path)) == b"12345"


@pytest.mark.parametrize("text", ["", "a", "a\n", "\n\n", "a\rb\r\nc\n\rd", "\r", "a\u2028b\x85\n"])
def test_lines_are_those_that_a_text_file_has(text: str) -> None:
    assert list(lines_of(text)) == list(io.StringIO(text, newline=""))


def test_a_folder_goes_again_where_its_file_cannot_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*how: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "open", no_room, raising=False)
    with pytest.raises(UserError, match="No space left"), whole_file(tmp_path / "a" / "b" / "c"):
        pass
    assert not any(tmp_path.iterdir())


def test_half_a_character_is_nobodys_home() -> None:
    assert home_path("~\ud83d") == Path("~\ud83d")
    assert home_path("~\0") == Path("~\0")
