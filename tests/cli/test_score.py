from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captune.cli import main
from captune.runs import read_run

CANDIDATES = {
    "7_0": "a red square on a white wall",
    "7_1": "a red picture",
    "8_0": "a green square in the grass",
    "8_1": "a dog runs over the grass",
    "9_0": "a blue square under the sky",
    "9_1": "",
}
REFERENCES = {
    "7_0": ["A red square on a wall.", "A wall with a red square."],
    "7_1": ["A red picture.", "Something red."],
    "8_0": ["A green square.", "The grass has a green square."],
    "8_1": ["A green picture.", "Green paint, and nothing else."],
    "9_0": ["A blue square.", "The sky is blue."],
    "9_1": ["A blue picture.", "A picture that is blue."],
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    candidates, references = tmp_path / "captions.json", tmp_path / "references.json"
    candidates.write_text(json.dumps(CANDIDATES))
    references.write_text(json.dumps(REFERENCES))
    return str(candidates), str(references)


def _json(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    assert main([*words, "--json"]) == status
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result: dict[str, Any] = json.loads(out)
    return result


def test_json_gives_every_metric_with_interval_and_recipe(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, "score", files[0], "--references", files[1])
    assert found["command"] == "score"
    assert found["images"] == 6
    assert list(found["metrics"]) == ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"]
    for metric in found["metrics"].values():
        low, high = metric["interval"]
        assert low <= metric["corpus"] <= high
        assert metric["recipe"]["tokenizer"].startswith("ptb")
    assert found["metrics"]["cider"]["name"].startswith("CIDEr-D[")


def test_figures_are_those_of_pycocoevalcap(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    from captune.metrics.ptb import tokenize

    found = _json(capsys, "score", files[0], "--references", files[1], "--metrics", "cider")
    expected, _ = scorer.compute_score(
        {id: tokenize(captions) for id, captions in REFERENCES.items()},
        {id: tokenize([caption]) for id, caption in CANDIDATES.items()},
    )
    assert found["metrics"]["cider"]["corpus"] == pytest.approx(float(expected), abs=1e-12)


def test_the_csv_has_a_row_an_image_and_every_digit(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "scores.csv"
    words = ["--metrics", "cider,rouge_l", "--per-image", str(path), "--out", str(tmp_path / "run")]
    _json(capsys, "score", files[0], "--references", files[1], *words)
    rows = list(csv.DictReader(path.open()))
    assert [row["image"] for row in rows] == list(CANDIDATES)
    assert list(rows[0]) == ["image", "cider", "rouge_l"]
    records = list(read_run(tmp_path / "run").records())
    assert [float(row["cider"]) for row in rows] == [r["scores"]["cider"] for r in records]
    assert records[0]["references"] == REFERENCES["7_0"]
    assert records[5]["caption"] == ""


def test_a_table_for_people(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", files[0], "--references", files[1]]) == 0
    out, err = capsys.readouterr()
    assert "CIDEr-D" in out
    assert "95 % interval" in out
    assert "6 images" in out
    assert "coco-val2017" in err, "few images: CIDEr over their own frequencies is called out"


def test_no_interval(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, "score", files[0], "--references", files[1], "--no-interval")
    assert {metric["interval"] for metric in found["metrics"].values()} == {None}
    assert found["agreement"] is None


def test_one_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.json").write_text('{"a": "a dog"}')
    (tmp_path / "r.json").write_text('{"a": ["a dog"]}')
    words = ["score", str(tmp_path / "c.json"), "--references", str(tmp_path / "r.json")]
    alone = _json(capsys, *words)
    assert alone["metrics"]["cider"]["corpus"] == 0
    assert any("coco-val2017" in note for note in alone["notes"])
    assert alone["metrics"]["cider"]["interval"] is None
    table = _json(capsys, *words, "--df", "coco-val2017")
    assert table["metrics"]["cider"]["corpus"] > 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["score"], "name a file"),
        (["score", "CANDIDATES"], "nothing to score against"),
        (["score", "CANDIDATES", "--metrics", "cider"], "--references"),
        (["score", "CANDIDATES", "--references", "REFS", "--metrics", "spice"], '"spice"'),
        (["score", "CANDIDATES", "--references", "REFS", "--metrics", "clipscore"], "--photos"),
        (["score", "CANDIDATES", "--references", "REFS", "--df", "nowhere.gz"], "nowhere.gz"),
        (["score", "CANDIDATES", "--references", "nowhere.json"], "nowhere.json"),
        (["score", "CANDIDATES", "--references", "REFS", "--resamples", "1"], "100 or more"),
        (["score", "CANDIDATES", "--references", "REFS", "--seed", "-1"], "0 or more"),
        (["score", "CANDIDATES", "--save-df", "x.gz", "--photos", "."], "--references"),
        (["score", "--verify", "REFS"], "is not the metrics.json of a score"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str],
    sentence: str,
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"CANDIDATES": files[0], "REFS": files[1]}
    assert main([named.get(word, word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert sentence in err


def test_an_image_without_candidate_is_an_error_unless_allowed(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps({"7_0": "a red square"}))
    assert main(["score", str(fewer), "--references", files[1]]) == 2
    err = capsys.readouterr().err
    assert "7_1" in err
    assert "5" in err
    words = ["score", str(fewer), "--references", files[1], "--allow-missing"]
    found = _json(capsys, *words)
    assert found["images"] == 6
    assert any("5" in note for note in found["notes"])


def test_document_frequencies_are_saved_and_used(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "mine.df.gz")
    words = ["score", files[0], "--references", files[1], "--metrics", "cider"]
    own = _json(capsys, *words, "--save-df", table)
    frozen = _json(capsys, *words, "--df", table)
    assert frozen["metrics"]["cider"]["corpus"] == own["metrics"]["cider"]["corpus"]
    assert frozen["metrics"]["cider"]["recipe"] != own["metrics"]["cider"]["recipe"]


def test_clipscore_of_photos(
    colours: Any, colour_photos: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, "score", files[0], "--photos", str(colour_photos), "--prefix", "")
    assert list(found["metrics"]) == ["clipscore"]
    assert found["metrics"]["clipscore"]["recipe"]["prefix"] == ""
    (colour_photos / "8_1.png").unlink()
    assert main(["score", files[0], "--photos", str(colour_photos)]) == 2
    assert "8_1" in capsys.readouterr().err


def test_verify_holds_until_something_changes(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    _json(capsys, "score", files[0], "--references", files[1], "--out", str(run))
    recorded = str(run / "metrics.json")
    assert main(["score", "--verify", recorded]) == 0
    assert "holds" in capsys.readouterr().out
    assert _json(capsys, "score", "--verify", str(run))["holds"] is True

    content = json.loads((run / "metrics.json").read_text())
    content["metrics"]["cider"]["corpus"] += 0.01
    (run / "metrics.json").write_text(json.dumps(content))
    assert main(["score", "--verify", recorded]) == 2
    assert "cider came out otherwise" in capsys.readouterr().err

    Path(files[1]).write_text(json.dumps({**REFERENCES, "9_1": ["Blue."]}))
    found = _json(capsys, "score", "--verify", recorded, status=2)
    assert found["holds"] is False
    assert any("references are others" in sentence for sentence in found["changed"])


def test_verify_finds_inputs_that_moved(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    _json(capsys, "score", files[0], "--references", files[1], "--out", str(run))
    moved = Path(files[1]).rename(tmp_path / "moved.json")
    assert main(["score", "--verify", str(run)]) == 2
    assert "references.json" in capsys.readouterr().err
    assert main(["score", "--verify", str(run), "--references", str(moved)]) == 0


def test_text_metrics_start_without_torch(files: tuple[str, str]) -> None:
    code = (
        "import sys; from captune.cli import main;"
        f"status = main(['score', {files[0]!r}, '--references', {files[1]!r}]);"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules);"
        "sys.exit(status or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
