"""The files of --to hold the same answers in every form."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from captune import answer_files as module
from captune.answer_files import check_ending, row_files
from captune.errors import UserError

MODEL = {"spec": "lite", "weights_id": "c0", "licence": "MIT"}
TOP = [{"label": "=cat", "probability": 0.75}, {"label": "d, og", "probability": 0.25}]
ANSWERS = [{"image": f"a/\u00e9 {n}.jpg", "label": "=cat", "top": TOP} for n in range(5)]


def written(folder: Path, *endings: str, **how: Any) -> list[Path]:
    paths = [folder / "new" / f"answers{ending}" for ending in endings]
    with row_files([str(path) for path in paths], MODEL, **how) as add:
        for answer in ANSWERS:
            add(answer)
            assert not any(path.exists() for path in paths)  # they appear whole
    return paths


def test_every_form_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(module, "_GROUP", 2)  # several groups in the Parquet file
    one, lines, array, columns = written(tmp_path, ".csv", ".jsonl", ".json", ".PARQUET")
    told = [{**answer, "model": "lite", "weights_id": "c0"} for answer in ANSWERS]
    assert [json.loads(line) for line in lines.read_text().splitlines()] == told
    assert json.loads(array.read_text()) == told
    flat = {"label_1": "=cat", "probability_1": 0.75, "label_2": "d, og", "probability_2": 0.25}
    expected = [
        {"image": row["image"], "label": "=cat", **flat, "model": "lite", "weights_id": "c0"}
        for row in ANSWERS
    ]
    table = pyarrow.parquet.read_table(columns)
    assert table.to_pylist() == expected
    assert json.loads(table.schema.metadata[b"captune"]) == MODEL
    with one.open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    # a spreadsheet does not run the label
    safe = {"label": "'=cat", "label_1": "'=cat"}
    assert read == [{name: str(cell) for name, cell in (row | safe).items()} for row in expected]


def test_what_a_row_lacks_is_an_empty_cell(tmp_path: Path) -> None:
    with row_files([str(tmp_path / "rows.csv")], MODEL) as add:
        add({"image": "a", "read": "cat"})
        add({"image": "b"})
    assert (tmp_path / "rows.csv").read_text().splitlines()[1:] == ["a,cat,lite,c0", "b,,lite,c0"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    paths = [tmp_path / f"a{ending}" for ending in (".csv", ".jsonl", ".json", ".parquet")]
    with pytest.raises(RuntimeError), row_files([str(path) for path in paths], MODEL) as add:
        add(ANSWERS[0])
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_no_answers_are_files_too(tmp_path: Path) -> None:
    for ending, content in ((".csv", ""), (".jsonl", ""), (".json", "[]")):
        path = tmp_path / f"a{ending}"
        with row_files([str(path)], MODEL):
            pass
        assert path.read_text().strip() == content


def test_other_endings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.xlsx", "a", ""):
        with pytest.raises(UserError, match=r"must end in \.csv, \.jsonl, \.parquet or \.json"):
            written(tmp_path, name)
    with pytest.raises(UserError, match=r"--csv x\.parquet writes CSV; use --to x\.parquet"):
        check_ending("--csv", Path("x.parquet"), ".csv")
    others = r"\(--to writes \.csv, \.jsonl, \.parquet and \.json\)"
    with pytest.raises(UserError, match=rf"--csv x\.txt writes CSV; name it \*\.csv {others}$"):
        check_ending("--csv", Path("x.txt"), ".csv")
    with pytest.raises(UserError, match=r"--csv x\.txt writes CSV; name it \*\.csv$"):
        check_ending("--csv", Path("x.txt"), ".csv", instead="")
    for name in ("x.csv", "x.CSV", "x", "/dev/stdout"):
        check_ending("--csv", Path(name), ".csv")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    with pytest.raises(UserError, match=r"needs an extra: pip install 'captune\[parquet\]'"):
        written(tmp_path, ".parquet")
