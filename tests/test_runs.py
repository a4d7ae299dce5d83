from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from captune.errors import UserError
from captune.runs import RunWriter, read_run


@dataclass
class _Options:
    photos: list[str]
    out: Path
    seed: int = 3


def _write(folder: Path, records: int = 2) -> None:
    options = _Options(["photos"], folder)
    with RunWriter(
        folder, kind="classify", options=options, root=folder.parent, command=["captune", "x"]
    ) as run:
        for n in range(records):
            run.record({"path": f"{n}\udcff.jpg", "value": np.float32(0.5)})
        run.metrics = {"accuracy": np.float64(0.25)}


def test_round_trip(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    run = read_run(tmp_path / "run")
    assert run.kind == "classify"
    assert run.about["schema"] == 1
    assert run.about["options"]["photos"] == ["photos"]
    assert run.about["seed"] == 3
    assert run.about["versions"]["captune"]
    assert run.metrics == {"accuracy": 0.25}
    assert [record["path"] for record in run.records()] == ["0\udcff.jpg", "1\udcff.jpg"]


def test_a_run_that_fails_leaves_the_earlier_one(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with (
        pytest.raises(KeyboardInterrupt),
        RunWriter(
            tmp_path / "run",
            kind="classify",
            options=_Options([], tmp_path),
            root=tmp_path,
        ) as run,
    ):
        run.record({"path": "other.jpg"})
        raise KeyboardInterrupt
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


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
    with RunWriter(folder, kind="classify", options=_Options([], folder), root=tmp_path) as run:
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


def test_files_are_plain_json(tmp_path: Path) -> None:
    _write(tmp_path / "run")
    lines = (tmp_path / "run" / "records.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"path": "0\udcff.jpg", "value": 0.5}
