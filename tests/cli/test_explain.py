from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.captioning.caption_job import (
    use_encoder,
    with_agreement,
    write_captioner,
    write_images,
)

import captune
import captune.jobs.explain as jobs_explain
from captune.attribution.methods import DefaultMap
from captune.captioning import any_captioner
from captune.captioning.checkpoint import write_beside
from captune.captioning.settings import EXPLAIN
from captune.cli import main
from captune.errors import UserError
from captune.pages.checking import check_page
from captune.runs import read_run
from captune.runs.maps import read_maps


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    use_encoder(monkeypatch)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", 3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_captioner(tmp_path_factory.mktemp("captioner") / "run"))


def words(images: Path, model: str, *more: str) -> list[str]:
    return [
        *("explain", str(images), "--model", model, "--max-tokens", "8", "--device", "cpu"),
        *more,
    ]


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_a_run(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "image_001.png").write_bytes(b"GIF89a")
    out = tmp_path / "out"
    found = printed(capsys, *words(images, model, "--out", str(out)))
    assert found["command"] == "explain"
    assert (found["run"], found["images"]) == (str(out), 2)
    assert [item["path"] for item in found["skipped"]] == ["image_001.png"]
    assert found["map"] == {"method": "attention", "layer": 2, "head": "mean"}
    assert [item["path"] for item in found["explanations"]] == ["image_000.png", "image_002.png"]
    assert sum(found["marks"].values()) == found["words"] > 4
    run = read_run(out)
    assert run.kind == "explain"
    records = list(run.records())
    assert records == found["explanations"]
    for record in records:
        assert record["caption"] == " ".join(word["word"] for word in record["words"])
        assert not record["given"]
        file = out / record["maps"]
        with np.load(file, allow_pickle=False) as arrays:
            assert sorted(arrays) == ["maps", "words"]
            assert arrays["maps"].dtype == np.float32
        named, maps = read_maps(run, record)
        assert named == [word["word"] for word in record["words"]]
        assert maps.shape == (len(named), 3, 3)
        for word, one in zip(record["words"], maps, strict=True):
            assert word["log_probability"] < 0
            assert word["faithfulness"]["mark"] in found["marks"]
            assert word["on_image"] == pytest.approx(float(one.sum()), abs=1e-3)
            assert 0 < word["on_image"] <= 1
    names = sorted(path.name for path in (out / "plots").iterdir())
    assert names == [f"words-image_00{n}.{kind}" for n in (0, 2) for kind in ("png", "svg")]
    assert sorted(Path(path).name for path in found["figures"]) == names
    with Image.open(out / "plots" / "words-image_000.png") as figure:
        assert figure.width > 1000
    # the same images again: what the first run wrote does not stay
    (images / "image_000.png").unlink()
    again = printed(capsys, *words(images, model, "--out", str(out), "--faithfulness", "none"))
    assert [path.name for path in (out / "maps").iterdir()] == ["image_002.npz"]
    assert again["marks"] == {}
    assert {word["faithfulness"] for word in again["explanations"][0]["words"]} == {None}


def test_a_probability_of_one_has_no_minus() -> None:
    word = {"word": "a", "log_probability": -0.001, "faithfulness": None}
    record = {"path": "a.jpg", "caption": "a", "given": True, "words": [word]}
    (row,) = jobs_explain._word_table(record).rows
    assert [str(cell) for cell in row] == ["a", "0.00", ""]


def test_for_a_person(images: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(images, model, "--caption", "a w6 w7", "--words", "W6, a")) == 0
    captured = capsys.readouterr()
    assert "image_000.png: a w6 w7 (given)" in captured.out
    lines = [line.split()[0] for line in captured.out.splitlines() if line]
    assert lines.count("w6") == 3
    assert "w7" not in lines
    assert "6 maps of 3 images by attention, layer 2, mean" in captured.out
    assert "--out RUN writes the maps" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize("method", ["gradient", "relevance", "occlusion", "pixel-occlusion"])
def test_methods(
    images: Path, model: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    more = ("--method", method, "--caption", "a w6", "--special", "--faithfulness", "full")
    found = printed(capsys, *words(images, model, *more, "--colours", "jet", "--out", out))
    assert found["map"] == {"method": method, "layer": None, "head": None}
    for record in found["explanations"]:
        assert record["given"]
        assert [word["word"] for word in record["words"]] == ["a", "w6", "<|endoftext|>"]
        assert all("on_image" not in word for word in record["words"])
        assert "random_insertion" in record["words"][0]["faithfulness"]


def test_against_another_word(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--caption", "a w6 w7", "--words", "w6", "--against", "w9", "--method", "occlusion")
    out = tmp_path / "out"
    found = printed(capsys, *words(images, model, *more, "--out", str(out)))
    assert [w["faithfulness"] for p in found["explanations"] for w in p["words"]] == [None] * 3
    assert found["map"]["against"] == "w9"
    assert "map: occlusion, against w9" in (out / "plots" / "words-image_000.svg").read_text()


def test_the_most_faithful_map_is_the_default(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_captioner(tmp_path / "own")
    write_beside(folder / EXPLAIN, DefaultMap("gradient-attention", 1, None))
    found = printed(capsys, *words(images, str(folder), "--faithfulness", "none"))
    assert found["map"] == {"method": "gradient-attention", "layer": 1, "head": None}


def test_a_bridge_without_cross_attention(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(write_captioner(tmp_path / "own", bridge="prefix"))
    found = printed(capsys, *words(images, folder, "--faithfulness", "none"))
    assert found["map"]["method"] == "gradient"
    assert main(words(images, folder, "--method", "attention")) == 2
    assert "has no cross-attention" in capsys.readouterr().err


def test_a_word_that_one_caption_lacks(images: Path, model: str, capsys: Any) -> None:
    one = min(images.iterdir())
    assert main(words(one, model, "--caption", "a w6", "--words", "zebra")) == 2
    assert "--words zebra: the caption has no such word" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--words", "zebra"], "--words zebra: none of 3 captions has such a word"),
        (["--caption", "a zebra"], '"zebra": the captioner cannot write it'),
        (["--caption", " "], "the caption is empty"),
        (["--against", "w9"], "--against: say with --words"),
        (["--method", "guess"], 'method "guess" is not known'),
        (["--layer", "12"], "has no map of layer 12"),
        (["--words", "a", "--caption", "a w6", "--against", "a", "--method", "gradient"], "begin"),
        (["--labels", "red,blue", "--special"], "--labels: explains a classifier"),
    ],
)
def test_mistakes_are_one_sentence(
    images: Path, model: str, more: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(images, model, *more)) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_nothing_is_left_where_nothing_could_be_done(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(words(images, model, "--words", "zebra", "--out", str(out))) == 2
    assert not out.exists()
    for image in images.iterdir():
        image.write_bytes(b"no image")
    assert main(words(images, model, "--out", str(out))) == 2
    assert "none of 3 files could be read" in capsys.readouterr().err
    assert not out.exists()


def test_images_without_the_word_are_left_out(
    images: Path,
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = jobs_explain.captioned_images
    captions = ["a w6", "a w7", "w6 b w6"]
    monkeypatch.setattr(
        jobs_explain, "captioned_images", lambda *given, **how: own(*given[:2], captions, **how)
    )
    assert main(words(images, model, "--words", "w6")) == 0
    captured = capsys.readouterr()
    assert "3 maps of 2 images" in captured.out
    assert captured.err == "1 image is left out: its caption has none of w6\n"


def test_in_python(images: Path, model: str, tmp_path: Path) -> None:
    found = captune.explain(images, model=model, caption="a w6", out=str(tmp_path / "out"))
    assert [one.image.name for one in found] == [f"image_00{n}.png" for n in range(3)]
    assert all(isinstance(one, captune.Explanation) for one in found)
    assert found[0].caption == "a w6"
    assert found[0].maps.shape == (2, 3, 3)
    assert found[0].words[1].mark is not None
    assert found[0].maps_file == "maps/image_000.npz"
    # whatever was imported before
    from captune import explain

    assert [one.caption for one in explain([images], model=model, caption="a w6")] == ["a w6"] * 3


def test_a_captioner_stays_loaded_within_a_block(
    images: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [{"method": "occlusion"}, {"method": "relevance"}] * 2

    def maps(asked: dict[str, str]) -> list[Any]:
        found = captune.explain(images, model=model, device="cpu", **asked)
        return [word.map.tolist() for one in found for word in one.words]

    def captions(_: object) -> list[str]:
        return [one.caption for one in captune.caption(images, model=model, device="cpu")]

    alone, said = [maps(asked) for asked in settings], captions(None)
    loads: list[object] = []
    load = any_captioner.load_captioner

    def counting(*of: Any) -> Any:
        loads.append(of)
        return load(*of)

    monkeypatch.setattr(any_captioner, "load_captioner", counting)
    with captune.keep_models(), ThreadPoolExecutor(4) as threads:
        explained, captioned = threads.map(maps, settings), threads.map(captions, range(4))
        assert list(explained) == alone
        assert list(captioned) == [said] * 4
        assert len(loads) == 1
        with pytest.raises(UserError, match="--max-tokens 4096"):
            captune.explain(images, model=model, device="cpu", max_tokens=4096)


def test_a_classifier(
    colours: object,
    colour_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.attribution.test_classes import cropping_model

    import captune.zeroshot.classifier

    monkeypatch.setattr(
        captune.zeroshot.classifier, "load_image_text_model", lambda spec, **where: cropping_model()
    )
    (colour_images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    command = ["explain", str(colour_images), "--labels", "red,green,blue", "--out", str(out)]
    found = printed(capsys, *command, "--no-cache")
    assert found["images"] == 6
    assert [item["path"] for item in found["skipped"]] == ["broken.png"]
    assert found["map"] == {"method": "gradient", "layer": None, "head": None}
    assert [record["words"][0]["word"] for record in found["explanations"]] == [
        *("red", "red", "green", "green", "blue", "blue")
    ]
    record = found["explanations"][0]
    assert record["caption"].startswith("red ")
    assert record["frame"] == pytest.approx((5, 0, 35, 30), abs=1)
    named, maps = read_maps(read_run(out), record)
    assert (named, maps.shape) == (["red"], (1, 4, 4))
    assert len(found["figures"]) == 12
    assert main([*command, "--words", "purple"]) == 2
    assert '"purple" is not among the labels' in capsys.readouterr().err
    assert main([*command, "--layer", "2"]) == 2
    assert "are for maps of a captioner" in capsys.readouterr().err


def test_columns_of_the_chance_and_of_maps_no_better_than_chance(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = captune.caption(images, model=model, max_tokens=8, device="cpu")
    centre = sorted(one.mean_log_probability for one in before)[1]
    judged = str(with_agreement(Path(model), tmp_path / "judged", centre))
    captions = {}
    for one in captune.caption(images, model=judged, max_tokens=8, device="cpu"):
        captions[str(images / one.image.name)] = one.agreement
    below = sorted(captions.values())[1]
    rows, out = tmp_path / "rows.csv", tmp_path / "out"
    more = ("--flag-below", str(below), "--to", str(rows), "--out", str(out))
    assert main(words(images, judged, *more, "--jsonl")) == 0
    printed_rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["image"]: row["agreement"] for row in printed_rows} == captions
    assert sum(row["flagged"] for row in printed_rows) == sum(c < below for c in captions.values())
    records = list(read_run(out).records())
    for row, record in zip(printed_rows, records, strict=True):
        assert row.keys() == {
            *("image", "caption", "agreement", "flagged"),
            "no_better_than_chance",
        }
        doubtful = [
            word["word"]
            for word in record["words"]
            if word["faithfulness"]["mark"] == "no better than chance"
        ]
        assert row["no_better_than_chance"] == " ".join(doubtful)
        assert (record["agreement"], record["flagged"]) == (row["agreement"], row["flagged"])
    header = rows.read_text().splitlines()[0]
    columns = "image,caption,agreement,flagged,no_better_than_chance,model,weights_id"
    assert header == columns
    page = (out / "report.html").read_text()
    doubted = any(row["no_better_than_chance"] for row in printed_rows)
    assert ("Words whose map is no better than chance" in page) == doubted
    assert ("flagged only" in page) == any(row["flagged"] for row in printed_rows)
    assert check_page(out / "report.html").holds


def test_what_cannot_be_flagged(
    images: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(images, model, "--flag-below", "0.5")) == 2
    assert "nothing was fitted for" in capsys.readouterr().err
    assert main(words(images, model, "--flag-below", "0.5", "--caption", "a w6")) == 2
    assert "leave out --caption and --labels" in capsys.readouterr().err
