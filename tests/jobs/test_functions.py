"""The jobs as functions of Python, and the page that each leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import captune
from captune import UserError
from captune.jobs import PAGE_IMAGES, Result
from captune.runs import RunWriter, read_run
from captune.runs.kinds import KINDS

LABELS = ["red", "green", "blue"]
PROMPTS = ["a photo of {}", "red, green or blue, that is {}"]


def test_classify_returns_every_prediction_and_leaves_a_page(
    colours: Any, colour_images: Path, tmp_path: Path
) -> None:
    result = captune.classify(str(colour_images), LABELS, truth=None, out=str(tmp_path / "run"))
    assert [one.label for one in result] == ["red", "red", "green", "green", "blue", "blue"]
    assert (len(result), result.images, result.skipped) == (6, 6, [])
    assert result.run == tmp_path / "run"
    assert result.written["page"].is_file()
    assert [table.name for table in result.tables()] == ["images"]
    assert result.summary()["written"]["page"] == str(tmp_path / "run" / "report.html")
    assert "lies outside" not in result._repr_html_()


def test_images_in_memory(colours: Any, colour_images: Path, tmp_path: Path) -> None:
    from PIL import Image

    files = sorted(colour_images.iterdir())
    held: dict[str, Any] = {file.name: file.read_bytes() for file in files}
    held["9_1.png"] = Image.open(files[-1])
    held["a page.png"] = b"<html>"
    csv = tmp_path / "labels.csv"
    result = captune.classify(held, LABELS, csv=csv)
    in_files = captune.classify(colour_images, LABELS)
    for one, other in zip(result, in_files, strict=True):
        assert (one.image.name, one.top(3)) == (other.image.name, other.top(3))
    assert [(one.path, one.reason) for one in result.skipped] == [
        ("a page.png", "not an image: a web page")
    ]
    assert csv.read_text().splitlines()[1] == "7_0.png,red"
    assert result._repr_html_().count("data:image") == 6
    (one,) = captune.classify(files[0].read_bytes(), LABELS)
    assert one.answer()["image"] == "image 1"
    own = captune.prompts(held, LABELS, prompt=PROMPTS)
    assert (own.images, own.skipped) == (6, result.skipped)
    features = captune.embed(held, tmp_path / "f.npz")
    assert features.names == [file.name for file in files]
    with pytest.raises(UserError, match="--out needs images that lie in files"):
        captune.classify(held, LABELS, out=tmp_path / "run")
    with pytest.raises(UserError, match="shards are cut of files"):
        captune.classify(held, LABELS, shard_size=2, to="x.csv")
    assert not (tmp_path / "run").exists()


def test_a_model_stays_loaded_within_a_block(
    colours: Any, colour_images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads: list[str] = []

    def load(spec: str, **how: Any) -> Any:
        loads.append(spec)
        return colours

    monkeypatch.setattr("captune.zeroshot.classifier.load_image_text_model", load)
    monkeypatch.setattr("captune.jobs.prompts.load_image_text_model", load)
    with captune.keep_models():
        first = captune.classify(colour_images, LABELS, model="one")
        captune.prompts(colour_images, LABELS, prompt=PROMPTS, model="one")
        assert [one.top(3) for one in captune.classify(colour_images, LABELS, model="one")] == [
            one.top(3) for one in first
        ]
        captune.classify(colour_images, LABELS, model="two")
        captune.classify(colour_images, LABELS, model="one", device="cpu")
        assert loads == ["one", "two", "one"]
    captune.classify(colour_images, LABELS, model="two")
    assert loads[3:] == ["two"]


def test_prompts_are_compared_and_leave_a_page(
    colours: Any, colour_images: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('{"7": "red", "8": "green", "9": "blue"}')
    result = captune.prompts(
        [colour_images], labels, prompt=PROMPTS, truth="from-name", out=tmp_path / "run"
    )
    assert result.comparison.best == 0
    assert result.written["page"].is_file()
    assert [table.name for table in result.tables()] == ["prompts-1", "negation-1"]
    assert len(result) == 0
    assert "100.0 %" in result._repr_html_()


def test_embed_returns_the_features(colours: Any, colour_images: Path, tmp_path: Path) -> None:
    result = captune.embed(colour_images, tmp_path / "f.npz")
    assert result.features.shape == (6, 3)
    assert result.names[0] == str(colour_images / "7_0.png")
    assert (tmp_path / "f.npz").is_file()


def test_report_of_runs(colours: Any, colour_images: Path, tmp_path: Path) -> None:
    captune.classify(colour_images, LABELS, out=tmp_path / "run")
    result = captune.report(tmp_path / "run", tmp_path / "page.html", title="Colours")
    assert result.summary()["title"] == "Colours"
    assert result.images == 6
    assert "Colours" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_leaves_its_page(kind: str) -> None:
    """As the golden outputs have it, which are made by running every command."""
    files = (Path(__file__).parents[1] / "golden" / "expected" / kind / "files.txt").read_text()
    assert f"runs/{kind}/report.html" in files


@pytest.mark.parametrize("keywords", [{"labels": "a,b", "label": "c"}, {}])
def test_a_wrong_keyword_is_a_type_error(keywords: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        captune.classify(tmp_path, **keywords)


def test_the_page_that_a_job_leaves_shows_some_images_of_many(tmp_path: Path) -> None:
    from tests.report_runs import Options

    with RunWriter(
        tmp_path / "run", kind="classify", options=Options(), root=tmp_path, models=[{"spec": "x"}]
    ) as run:
        for n in range(3 * PAGE_IMAGES):
            run.record({"path": f"{n}.jpg", "top": [{"id": "a", "name": "a", "probability": 1.0}]})
        run.metrics = {
            "images": 3 * PAGE_IMAGES, "labels": 1, "scored": 0, "correct": 0,
            "prompts": [{"template": "{}", "accuracy": None, "interval": None}],
            "activation": "softmax",
        }  # fmt: skip
    page = Result().finish(read_run(tmp_path / "run").folder).read_text()
    assert page.count(".jpg") < 2 * PAGE_IMAGES + 50
