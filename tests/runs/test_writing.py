from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from captune import runs
from captune.errors import UserError
from captune.runs import RunWriter, check_run_folder, read_run


@dataclass
class _Options:
    images: list[str]
    out: Path
    seed: int = 3


def _write(folder: Path, records: int = 2) -> None:
    options = _Options(["images"], folder)
    with RunWriter(
        folder, kind="baking", options=options, root=folder.parent, command=["captune", "x"]
    ) as run:
        for n in range(records):
            run.record({"path": f"{n}\udcff.jpg", "value": np.float32(0.5)})
        run.metrics = {"accuracy": np.float64(0.25), "loss": np.float64("nan")}


def test_round_trip(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert read_run(str(tmp_path / "run"), images=str(tmp_path)).folder == run.folder
    assert run.kind == "baking"
    assert run.about["schema"] == 1
    assert run.about["options"]["images"] == ["images"]
    assert run.about["seed"] == 3
    assert run.about["versions"]["captune"]
    assert run.metrics == {"accuracy": 0.25, "loss": None}
    assert [record["path"] for record in run.records()] == ["0\udcff.jpg", "1\udcff.jpg"]


def test_a_run_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with (
        pytest.raises(KeyboardInterrupt),
        RunWriter(
            tmp_path / "run",
            kind="baking",
            options=_Options([], tmp_path),
            root=tmp_path,
        ) as run,
    ):
        run.record({"path": "other.jpg"})
        raise KeyboardInterrupt
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


_KILLED = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
from captune.runs import RunWriter

@dataclass
class Options:
    pass

replaced, stop_after, folder = Path.replace, sys.argv[1], Path(sys.argv[2])
def replace(self, target):
    done = replaced(self, target)
    if Path(target).name == stop_after:
        os.kill(os.getpid(), 9)
    return done
Path.replace = replace
with RunWriter(folder, kind="baking", options=Options(), root=folder.parent) as run:
    run.record({"path": "new.jpg"})
    run.file_path("probabilities.npy").write_text("new")
    run.metrics = {"accuracy": 0.75}
"""


def _write_and_die(folder: Path, after: str) -> int:
    """Replace a run in another process, killed when the file `after` has taken its place."""
    words = [sys.executable, "-c", _KILLED, after, str(folder)]
    return subprocess.run(words, check=False).returncode


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on Windows")
@pytest.mark.parametrize("after", ["probabilities.npy", "records.jsonl", "metrics.json"])
def test_a_run_that_is_killed_half_replaced_is_no_run(tmp_path: Path, after: str) -> None:
    folder = tmp_path / "run"
    _write(folder)
    (folder / "report.html").write_text("of the first run")
    assert _write_and_die(folder, after) == -signal.SIGKILL
    with pytest.raises(UserError, match="not a finished run folder"):
        read_run(folder)
    assert list(folder.glob(".*.partial"))
    time.sleep(0.05)  # clocks of file systems are coarse
    _write(folder)
    assert [record["value"] for record in read_run(folder).records()] == [0.5, 0.5]
    assert {p.name for p in folder.iterdir()} == {"run.json", "metrics.json", "records.jsonl"}


def test_a_full_disk_leaves_the_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    real, calls = os.fsync, iter(range(9))

    def full(number: int) -> None:
        real(number)
        if next(calls):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"could not be written \(no space left on device\)"):
        _write(tmp_path / "run", records=3)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_only_what_killed_writers_left_is_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _write(folder)
    (folder / "plots").mkdir()
    left = [".run.json.0123456789ab.partial", "plots/.top5.png.0123456789ab.partial"]
    kept = [".partial", ".mine.partial", "x.0123456789ab.partial", ".x.0123456789AB.partial"]
    for name in (*left, *kept):
        (folder / name).write_text("")
        os.utime(folder / name, (1e9, 1e9))
    another = folder / ".records.jsonl.ba9876543210.partial"
    another.write_text("")
    os.utime(another, (time.time() + 60,) * 2)  # of a writer that is at work
    _write(folder)
    assert {path.name for path in folder.glob("*.partial")} == {*kept, another.name}
    assert not list((folder / "plots").iterdir())


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("")
    with pytest.raises(UserError, match="not a run"):
        _write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.docx"]


def test_what_the_earlier_run_left_beside_goes_and_own_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _write(folder)
    (folder / "plots").mkdir()
    for name in ("probabilities.npy", "report.html", "plots/top5.png", "plots/mine.txt"):
        (folder / name).write_text("earlier")
    with RunWriter(folder, kind="baking", options=_Options([], folder), root=tmp_path) as run:
        run.file_path("probabilities.npy").write_text("own")
    assert (folder / "probabilities.npy").read_text() == "own"
    assert [path.name for path in (folder / "plots").iterdir()] == ["mine.txt"]
    assert not (folder / "report.html").exists()


def test_an_impossible_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose another place"):
        _write(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not a finished run"), ("{", "not JSON"), ('{"schema": 99}', "schema 99")],
)
def test_what_is_no_run_is_one_sentence(tmp_path: Path, content: str | None, message: str) -> None:
    _write(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "[]", r"run\.json is damaged \(it holds a list"),
        ("run.json", "[" * 100_000, "nested more than 64 deep"),
        ("run.json", {"kind": None}, "kind: expected a text, found nothing"),
        ("run.json", {"options": None}, "options: expected an object, found nothing"),
        ("run.json", {"root": 3}, "root: expected a text, found a whole number"),
        ("run.json", {"versions": []}, "versions: expected an object, found a list"),
        ("run.json", {"command": [1]}, r"command\[0\]: expected a text, found a whole number"),
        ("metrics.json", "[]", r"metrics\.json is damaged \(it holds a list"),
        ("metrics.json", '{"a":' * 100_000, "nested more than 64 deep"),
        ("metrics.json", "9" * 5000, "not JSON|a number"),
        ("metrics.json", None, r"it has no metrics\.json"),
    ],
)
def test_a_damaged_run_is_one_sentence(
    tmp_path: Path, name: str, content: str | dict[str, object] | None, message: str
) -> None:
    _write(tmp_path / "run")
    path = tmp_path / "run" / name
    if content is None:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(UserError, match=message):
        read_run(tmp_path / "run")


def test_a_place_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        check_run_folder(tmp_path / "file" / "run")
    _write(tmp_path / "run")
    check_run_folder(tmp_path / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for folder in (tmp_path / "run", tmp_path / "new" / "run"):
        with pytest.raises(UserError, match="cannot be written to; choose another place"):
            check_run_folder(folder)


def test_no_sentence_carries_control_characters(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31mred"
    folder.mkdir()
    (folder / "thesis.docx").write_text("")
    for refused in (check_run_folder, read_run):
        with pytest.raises(UserError) as refusal:
            refused(folder)
        assert "\\x1b[31mred" in str(refusal.value)
        assert str(refusal.value).isprintable()


def test_versions_name_what_can_change_a_figure() -> None:
    assert {"python", "captune", "torch", "numpy", "scipy", "rapidfuzz"} <= runs.versions().keys()


def test_files_are_plain_json(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"path": "0\udcff.jpg", "value": 0.5}
