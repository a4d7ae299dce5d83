"""The jobs score, compare and rank as functions of Python, and what they leave and load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_score import CANDIDATES, REFERENCES

import captune
from captune.errors import UserError
from captune.runs import read_run


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    content: dict[str, Any] = {
        "good": CANDIDATES,
        "poor": dict.fromkeys(CANDIDATES, "a red square"),
        "references": REFERENCES,
    }
    for name, captions in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(captions))
    return {name: str(tmp_path / f"{name}.json") for name in content}


def test_score_leaves_a_run_with_its_page(files: dict[str, str], tmp_path: Path) -> None:
    result = captune.score(
        files["good"], references=files["references"], metrics="cider,rouge_l", out=tmp_path / "run"
    )
    assert result.run == tmp_path / "run"
    assert result.written["page"].is_file()
    assert list(result.metrics) == ["cider", "rouge_l"]
    assert result.metrics["cider"].ends == result.intervals["cider"]
    (table,) = result.tables()
    assert [row[0] for row in table.values()] == ["metric", "CIDEr-D", "ROUGE-L"]
    printed = json.loads(json.dumps(result.summary()))
    assert printed["metrics"] == read_run(tmp_path / "run").metrics["metrics"]
    assert "CIDEr-D" in captune.score(files["good"], references=files["references"])._repr_html_()


def test_captions_in_memory(files: dict[str, str], tmp_path: Path) -> None:
    options = {"metrics": "rouge_l", "resamples": 200, "out": tmp_path / "run"}
    result = captune.score(CANDIDATES, references=REFERENCES, **options)
    told = captune.score(files["good"], references=files["references"], metrics="rouge_l")
    assert result.metrics["rouge_l"].corpus == told.metrics["rouge_l"].corpus
    run = read_run(tmp_path / "run")
    assert run.about["options"]["candidates"] == "captions in memory"
    assert run.metrics["inputs"]["references"]["path"] == "captions in memory"
    page = result.written["page"].read_text()
    assert "The captions in memory come to" in page
    with pytest.raises(UserError, match="were in memory, not in a file; give a file"):
        captune.verify(tmp_path / "run")
    again = {"candidates": files["good"], "references": files["references"]}
    assert captune.verify(tmp_path / "run", **again).differing == []
    both = captune.compare(CANDIDATES, files["poor"], references=REFERENCES, metrics="rouge_l")
    assert both.comparison.metrics["rouge_l"].difference < 0
    with pytest.raises(UserError, match='in memory: the caption of image "1" is a number'):
        captune.score({"1": 7, "2": "a"}, references=REFERENCES)


def test_compare_leaves_a_run_with_figures_and_page(files: dict[str, str], tmp_path: Path) -> None:
    options = {"references": files["references"], "metrics": "cider", "resamples": 200}
    result = captune.compare(files["poor"], files["good"], **options, out=str(tmp_path / "run"))
    assert result.written["page"].is_file()
    assert (result.written["plots"] / "differences.png").is_file()
    assert result.comparison.metrics["cider"].difference > 0
    assert result.sentences()[0] == "6 images, 6 with different captions"
    assert not (tmp_path / "run" / ".captune.lock").exists()


def test_rank_leaves_a_gallery(files: dict[str, str], tmp_path: Path) -> None:
    captune.score(files["good"], references=files["references"], out=tmp_path / "run")
    result = captune.rank(tmp_path / "run", by="CIDEr-D", top=2, out=tmp_path / "gallery")
    assert result.written["page"].parent == tmp_path / "gallery"
    assert [table.name for table in result.tables()] == ["best", "worst"]
    assert len(result.ranking.pairs) == result.images == 6
    assert result.run is None
    assert result.summary()["run"] == str(tmp_path / "run")


@pytest.mark.parametrize("command", ["score", "compare"])
def test_text_metrics_load_no_torch(files: dict[str, str], tmp_path: Path, command: str) -> None:
    captions = [files["good"]] if command == "score" else [files["poor"], files["good"]]
    words = [command, *captions, "--references", files["references"], "--json"]
    words += ["--out", str(tmp_path / "run")]
    code = (
        "import sys; from captune.cli import main; "
        f"status = main({words!r}); sys.exit(status or ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
