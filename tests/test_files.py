from __future__ import annotations

import os
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.files import check_writable, named, open_regular, read_bytes, read_regular, whole_file


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
    assert pipe.is_fifo()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_an_impossible_place_is_known_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "x", "cannot be")):
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
    assert named(["\x1b[2J", "x" * 999]) == f'"\\x1b[2J", "{"x" * 77}..."'


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("/dev/zero")
    for place in (pipe, link, Path("/dev/tty")):
        with pytest.raises(OSError, match="pipe or socket"):
            open_regular(place)
        with pytest.raises(UserError, match="pipe or socket"):
            read_bytes(str(place))
    with pytest.raises(IsADirectoryError, match="a folder"):
        open_regular(tmp_path)


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="over the limit"):
        read_regular(path, 4)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_what_the_kernel_makes_up_is_not_read() -> None:
    assert read_regular("/proc/self/status") == b""


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="this system has no /dev/fd")
def test_a_stream_that_the_shell_names_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"cat")
    os.close(writing)
    assert read_bytes(f"/dev/fd/{reading}") == b"cat"
    os.close(reading)
