from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.captioning.caption_job import (
    use_encoder,
    use_map_methods,
    write_captioner,
    write_images,
)

from captune.attribution.methods import read_default
from captune.cli import main
from captune.runs import check_run_folder

COUNT = 8  # of fewer than five that have a word to judge there is no figure
WORDS = ["w20", "w22"]


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    use_encoder(monkeypatch)


@pytest.fixture(autouse=True)
def few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are in the tests of the methods, and would take their time here."""
    use_map_methods(monkeypatch, "attention", "gradient", "occlusion")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, captions of tiny words, and a box in each image for two of them."""
    folder = tmp_path_factory.mktemp("data")
    names = sorted(path.name for path in write_images(folder / "images", COUNT).iterdir())
    captions = {
        name.split(".")[0]: [" ".join(WORDS[n % 2 :] + WORDS[: n % 2])]
        for n, name in enumerate(names)
    }
    (folder / "captions.json").write_text(json.dumps(captions))
    boxes = {
        "images": [
            {"id": n, "file_name": name, "width": 18, "height": 18} for n, name in enumerate(names)
        ],
        "annotations": [
            {"image_id": n, "category_id": c, "bbox": [6 * (n % 3), 6 * c, 6, 6]}
            for n in range(COUNT)
            for c in (0, 1)
        ],
        "categories": [{"id": 0, "name": "w20"}, {"id": 1, "name": "w22"}],
    }
    (folder / "boxes.json").write_text(json.dumps(boxes))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_captioner(tmp_path / "model" / "run")


def words(data: Path, model: Path, out: Path, *more: str) -> list[str]:
    return [
        *("faithful", str(model), "--images", str(data / "images")),
        *("--captions", str(data / "captions.json"), "--out", str(out), "--max-tokens", "4"),
        *("--device", "cpu", *more),
    ]


def test_a_whole_leaderboard(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    boxes, captions = str(data / "boxes.json"), str(data / "captions.json")
    told = words(data, model, out, "--boxes", boxes, "--minutes", "0.01", "--json")
    assert main([*told, "--val-captions", captions, "--val-boxes", boxes]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    assert found["command"] == "faithful"
    assert (found["run"], found["images"], found["skipped"]) == (str(out), 2 * COUNT, [])
    row = found["rows"][0]
    for name in ("insertion", "deletion", "pointing", "pointing_centre"):
        low, high = row[f"{name}_interval"]
        assert low <= row[name] <= high
    assert {row["method"] for row in found["rows"]} >= {"random", "centre", "attention"}
    titles = [report["title"] for report in found["reports"]]
    assert titles[0] == "reference captions, images held back"
    assert titles[1] == "generated captions, images held back"
    assert titles[2].endswith("pixels -> blur")
    assert {one["method"] for one in found["screened"]} > {"attention", "gradient", "occlusion"}
    assert "among those that are reported on" in " ".join(found["notes"])
    assert any(note.startswith("takes at most 0.6 s") for note in found["notes"])
    default = read_default(model)
    assert default is not None
    assert default == read_default(out)
    chosen = found["default"]
    assert (default.method, default.layer_head.layer) == (chosen["method"], chosen["layer"])
    assert default.sentence == chosen["sentence"] == found["sentences"][0]
    assert default.figures["pointing_centre"] == pytest.approx(row["pointing_centre"], abs=1e-4)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["rows"] == found["rows"]
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert len(records) == COUNT
    assert {"path", "caption", "words"} == set(records[0])
    with (out / "leaderboard.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {line["images_and_captions"] for line in table} > set(titles)
    for name in ("leaderboard", "curves"):
        with Image.open(out / "plots" / f"{name}.png") as figure:
            assert figure.width > 500
        assert (out / "plots" / f"{name}.svg").exists()


def test_a_quick_look_without_boxes_or_other_images(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(words(data, model, out, "--quick")) == 0
    captured = capsys.readouterr()
    # the next one may be written over it
    check_run_folder(out)
    assert "which flatters the map that was chosen" in captured.err
    assert "maps of 2 methods are screened" in captured.err
    assert "insertion" in captured.out
    assert "the images chosen on" in captured.out
    assert "pixels ->" not in captured.out


def test_bad_images_are_named_and_skipped(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images", COUNT)
    (images / "image_001.png").write_bytes(b"GIF89a")
    out = tmp_path / "out"
    told = ["faithful", str(model), "--images", str(images), "--out", str(out), "--quick", "--json"]
    assert main([*told, "--captions", str(data / "captions.json"), "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [item["path"] for item in found["skipped"]] == ["image_001.png"]
    assert found["images"] == COUNT - 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--val-boxes", "BOXES"], "--val-boxes is for --val-captions"),
        (["--minutes", "0"], "minutes must be above 0, not 0.0"),
        (["--limit", "-1"], "limit must be 0 or more, not -1"),
        (["--boxes", "CAPTIONS"], "captions go to --captions"),
        (["--boxes", "OTHERS"], f"knows none of the {COUNT} images"),
        (["--out", "MODEL"], "is the captioner's own run"),
    ],
)
def test_mistakes_are_a_sentence(
    data: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    said: str,
) -> None:
    others = tmp_path / "others.json"
    others.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    places = {
        "BOXES": data / "boxes.json",
        "CAPTIONS": data / "captions.json",
        "OTHERS": others,
        "MODEL": model,
    }
    asked = [str(places.get(word, word)) for word in more]
    assert main(words(data, model, tmp_path / "out", "--quick", *asked)) == 2
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert said in last
    assert not (tmp_path / "out").exists()
