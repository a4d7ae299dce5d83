from __future__ import annotations

import csv
import json
import re
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
    from captune_metrics.ptb import tokenize

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
    assert main(["score", files[0], "--references", files[1], "--no-interval"]) == 0
    assert "interval" not in capsys.readouterr().out


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
        (["score", "CANDIDATES", "--references", "REFS", "--metrics", "clipscore"], "--images"),
        (["score", "CANDIDATES", "--references", "REFS", "--df", "nowhere.gz"], "nowhere.gz"),
        (["score", "CANDIDATES", "--references", "nowhere.json"], "nowhere.json"),
        (["score", "CANDIDATES", "--references", "REFS", "--resamples", "1"], "from 100 to"),
        (["score", "CANDIDATES", "--references", "REFS", "--resamples", "9" * 12], "10,000,000"),
        (["score", "CANDIDATES", "--references", "REFS", "--seed", "-1"], "0 or more"),
        (["score", "CANDIDATES", "--save-df", "x.gz", "--images", "."], "--references"),
        (["score", "", "--references", "REFS"], "is empty"),
        (["score", "CANDIDATES", "--references", ""], "is empty"),
        (["score", "CANDIDATES", "--references", "REFS", "--save-df", "corpus.gz"], "another name"),
        (["score", "nowhere", "--references", "REFS", "--save-df", "corpus.gz"], "another name"),
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


def test_a_subset_is_scored_and_said_everywhere(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer, alone, out = (tmp_path / name for name in ("fewer.json", "alone.json", "run"))
    ids = ["7_0", "8_1"]
    fewer.write_text(json.dumps({"x": "a horse", **{id: CANDIDATES[id] for id in ids}}))
    alone.write_text(json.dumps({id: REFERENCES[id] for id in ids}))
    words = ["score", str(fewer), "--references", files[1], "--subset"]
    assert main(words) == 2
    assert "--subset settles 4 images" in (said := capsys.readouterr().err)
    assert 'remains: 1 candidate without references ("x"); leave it out with --ignore' in said
    words.append("--ignore-extra")
    assert main([*words, "--out", str(out)]) == 0
    assert "\n2 of 6 images\n" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert re.search(r">2</data> of <data [^>]*/images_of\">6</data> images", page)
    found = _json(capsys, *words)
    whole = _json(capsys, "score", str(fewer), "--references", str(alone), "--ignore-extra")
    assert (found["images"], found["images_of"], whole["images_of"]) == (2, 6, None)
    for id, metric in found["metrics"].items():
        assert metric["corpus"] == whole["metrics"][id]["corpus"]
        assert metric["recipe"]["subset_of"] == 6
        assert metric["name"].endswith(", 2 of 6 images]")
    assert any('left out: "x"' in note for note in found["notes"])
    assert main(["verify", str(out)]) == 0
    assert main([*words, "--allow-missing"]) == 2
    assert "give one of the two" in capsys.readouterr().err


def test_document_frequencies_are_saved_and_used(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(tmp_path / "mine.df.gz")
    words = ["score", files[0], "--references", files[1], "--metrics", "cider"]
    own = _json(capsys, *words, "--save-df", table)
    frozen = _json(capsys, *words, "--df", table)
    assert frozen["metrics"]["cider"]["corpus"] == own["metrics"]["cider"]["corpus"]
    assert frozen["metrics"]["cider"]["recipe"] != own["metrics"]["cider"]["recipe"]


def test_clipscore_of_images(
    colours: Any, colour_images: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, "score", files[0], "--images", str(colour_images), "--prefix", "")
    assert list(found["metrics"]) == ["clipscore"]
    assert found["metrics"]["clipscore"]["recipe"]["prefix"] == ""
    twin = colour_images / "8_1.jpg"
    twin.write_bytes((colour_images / "8_1.png").read_bytes())
    assert main(["score", files[0], "--images", str(colour_images)]) == 2
    assert '"8_1" could be "8_1.jpg", "8_1.png"' in capsys.readouterr().err
    twin.unlink()
    (colour_images / "8_1.png").unlink()
    assert main(["score", files[0], "--images", str(colour_images)]) == 2
    said = capsys.readouterr().err
    assert 'no image for image "8_1" of' in said
    assert "could be" not in said


def _tables_of_one_name(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    names = []
    for folder, references in (("a", REFERENCES), ("b", {**REFERENCES, "9_1": ["A red wall."]})):
        counted, table = tmp_path / f"{folder}.json", tmp_path / folder / "mine.df.gz"
        counted.write_text(json.dumps(references))
        _json(capsys, "score", files[0], "--references", str(counted), "--save-df", str(table))
        words = ["score", files[0], "--references", files[1], "--df", str(table)]
        names.append(_json(capsys, *words)["metrics"]["cider"]["name"])
    return names


def test_tables_of_one_name_make_two_recipe_lines(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = _tables_of_one_name(files, tmp_path, capsys)
    assert first.startswith("CIDEr-D[ptb, df=mine@")
    assert first != second


def test_missing_candidates_stand_in_every_recipe(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps({id: CANDIDATES[id] for id in ("7_0", "7_1")}))
    words = ["--references", files[1], "--allow-missing"]
    for metric in _json(capsys, "score", str(fewer), *words)["metrics"].values():
        assert metric["recipe"]["missing"] == 4
        assert metric["name"].endswith(", 4 missing]")
    for metric in _json(capsys, "score", files[0], *words)["metrics"].values():
        assert "missing" not in metric["recipe"]
        assert "missing" not in metric["name"]


def test_intervals_of_few_images_are_doubted(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", files[0], "--references", files[1], "--metrics", "rouge_l"]
    found = _json(capsys, *words)
    assert any("with 6 images the interval is wider in truth" in note for note in found["notes"])
    assert found["metrics"]["rouge_l"]["interval"] is not None
    assert _json(capsys, *words, "--no-interval")["notes"] == []
    many = {f"{id}{n}": caption for n in range(2) for id, caption in CANDIDATES.items()}
    more = {f"{id}{n}": captions for n in range(2) for id, captions in REFERENCES.items()}
    (tmp_path / "c.json").write_text(json.dumps(many))
    (tmp_path / "r.json").write_text(json.dumps(more))
    words = ["score", str(tmp_path / "c.json"), "--references", str(tmp_path / "r.json")]
    assert _json(capsys, *words, "--metrics", "rouge_l")["notes"] == []


def test_a_score_run_as_references_gives_its_references(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["--metrics", "rouge_l,bleu_4"]
    before = _json(capsys, "score", files[0], "--references", files[1], "--out", str(run), *words)
    for place in (run, run / "records.jsonl"):
        found = _json(capsys, "score", files[0], "--references", str(place), *words)
        assert found["metrics"] == before["metrics"]
    found = _json(capsys, "score", str(run), "--references", str(run), *words)
    assert found["metrics"] == before["metrics"]
    assert not any("same file" in note for note in found["notes"])


def test_a_score_run_without_references_is_none(
    colours: Any,
    colour_images: Path,
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    _json(capsys, "score", files[0], "--images", str(colour_images), "--out", str(run))
    assert main(["score", files[0], "--references", str(run)]) == 2
    err = capsys.readouterr().err
    assert 'is a score run without references for images "7_0", "7_1", "8_0" and 3 more' in err


def test_candidates_scored_against_themselves_are_noted(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(Path(files[0]).read_bytes())
    found = _json(capsys, "score", files[0], "--references", str(copy))
    assert any("scored against itself" in note for note in found["notes"])
    found = _json(capsys, "score", files[0], "--references", files[1])
    assert not any("scored against itself" in note for note in found["notes"])


@pytest.mark.parametrize("token", ["<|endoftext|>", "</s>", "[SEP]", "<end>", "<EOS>"])
def test_leftover_special_tokens_are_noted(
    token: str, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", files[0], "--references", files[1], "--metrics", "rouge_l"]
    assert not any("special token" in note for note in _json(capsys, *words)["notes"])
    Path(files[0]).write_text(
        json.dumps({**CANDIDATES, "7_1": f"a red dog {token}", "8_0": f"{token} grass"})
    )
    (note,) = (note for note in _json(capsys, *words)["notes"] if "special token" in note)
    assert f'2 of 6 captions hold a special token such as {token} ("a red dog {token}")' in note


def test_paths_and_names_are_printed_as_they_are(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[b] :dog: \x1b[2J [/b]"
    words = ["score", files[0], "--references", files[1], "--metrics", "cider"]
    assert main([*words, "--out", str(folder), "--per-image", f"{folder} scores.csv"]) == 0
    out = capsys.readouterr().out
    assert out.count("[b] :dog: \\x1b[2J [/b]") == 3
    assert "CIDEr-D[ptb, df=corpus of 6]" in out
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "[b] :dog: \\x1b[2J [/b]: holds, 6 images" in out


def test_captions_are_scored_from_a_folder_that_is_gone(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, out = tmp_path / "gone", tmp_path / "run"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        words = ["score", files[0], "--references", files[1], "--out", str(out)]
        assert main([*words, "--metrics", "rouge_l"]) == 0
    finally:
        monkeypatch.chdir(tmp_path)
    assert read_run(out).root == out.resolve()


def test_metrics_json_holds_what_decides_the_score(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    _json(capsys, "score", files[0], "--references", files[1], "--out", str(run))
    options = json.loads((run / "metrics.json").read_text())["options"]
    assert {"tokenizer", "df", "seed", "resamples", "prefix"} <= options.keys()
    assert not {"workers", "batch_size", "no_cache", "device"} & options.keys()


@pytest.mark.parametrize(
    "more",
    [
        ["--per-image", "CANDIDATES"],
        ["--per-image", "REFS"],
        ["--save-df", "REFS"],
        ["--save-df", "LINK"],
        ["--save-df", "TABLE", "--df", "TABLE"],
        ["--per-image", "X", "--save-df", "X"],
        ["--out", "RUN", "--per-image", "RUN/metrics.json"],
        ["--out", "RUN", "--per-image", "RUN/scores.csv"],
        ["--out", "RUN", "--save-df", "RUN"],
        ["--out", "RUN/inner", "--per-image", "RUN"],
        ["--images", "IMAGES", "--per-image", "IMAGES/7_0.png"],
    ],
)
def test_outputs_do_not_overwrite_inputs_nor_each_other(
    more: list[str],
    files: tuple[str, str],
    colour_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "link.json").symlink_to(files[1])
    table = tmp_path / "table.gz"
    _json(capsys, "score", files[0], "--references", files[1], "--save-df", str(table))
    places = {"CANDIDATES": files[0], "REFS": files[1], "IMAGES": str(colour_images)}
    places |= {"TABLE": str(table), "LINK": str(tmp_path / "link.json")}
    places |= {"RUN": str(tmp_path / "run"), "X": str(tmp_path / "x")}
    for name, path in places.items():
        more = [word.replace(name, path) if word.split("/")[0] == name else word for word in more]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["score", files[0], "--references", files[1], *more]) == 2
    assert "choose another place" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_is_not_written_over_the_run_that_is_scored(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    words = ["--references", files[1], "--out", run]
    _json(capsys, "score", files[0], *words)
    for candidates in (run, f"{run}/records.jsonl"):
        assert main(["score", candidates, *words]) == 2
        assert "holds what is read (candidates)" in capsys.readouterr().err
    _json(capsys, "score", files[0], *words)  # the same run again is no mistake


def test_text_metrics_start_without_torch(files: tuple[str, str]) -> None:
    code = (
        "import sys; from captune.cli import main;"
        f"status = main(['score', {files[0]!r}, '--references', {files[1]!r}]);"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules);"
        "sys.exit(status or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
