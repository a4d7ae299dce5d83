from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.report_runs import (
    HOSTILE,
    HOSTILE_NAME,
    Options,
    caption_run,
    classify_run,
    explain_run,
    images,
    tune_run,
)

import captune
from captune.runs import RunWriter, read_run
from captune_metrics.scores import Scores

NAMES = [HOSTILE_NAME, *(f"{n}.jpg" for n in range(11))]
CAPTIONS = {name: f"{HOSTILE} {i}" for i, name in enumerate(NAMES)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return images(tmp_path / "images", NAMES)


def check(html: str) -> str:
    """It stays inside its place in the notebook, and every text is text."""
    assert html.startswith('<div class="captune"')
    for markup in ("<script", "<style", "<b ", "<i>", "<img src=x"):
        assert markup not in html
    return html


def test_a_run_shows_its_answer_and_its_first_images(root: Path, tmp_path: Path) -> None:
    run = read_run(classify_run(tmp_path / "run", root, NAMES))
    html = check(run._repr_html_())
    assert "lite recognises 9 of 12 images" in html
    assert "46.8 %" in html
    assert "91.1 %" in html
    assert html.count("data:image/jpeg") == 8
    assert "and 4 more" in html
    assert "red &lt;i&gt;one&lt;/i&gt;" in html


def test_every_kind_of_run_shows_itself(root: Path, tmp_path: Path) -> None:
    captions = read_run(caption_run(tmp_path / "captions", root, CAPTIONS))
    assert "described 12 images" in check(captions._repr_html_())
    tune = read_run(tune_run(tmp_path / "tune", root, {"adapter": CAPTIONS, "lora": CAPTIONS}))
    assert "lora has the highest CIDEr-D" in check(tune._repr_html_())
    maps = read_run(explain_run(tmp_path / "maps", root, CAPTIONS))
    assert "A map shows what the model used" in check(maps._repr_html_())
    with RunWriter(tmp_path / "odd", kind="odd", options=Options(), root=root) as run:
        run.metrics = {"images": 0}
    assert "a run of captune odd" in check(read_run(tmp_path / "odd")._repr_html_())


def test_a_image_outside_the_folder_of_a_run_is_not_shown(root: Path, tmp_path: Path) -> None:
    images(tmp_path, ["private.jpg"])
    run = caption_run(tmp_path / "run", root, {"../private.jpg": "x"})
    assert "data:image" not in read_run(run)._repr_html_()


def test_results_show_themselves(colours: Any, colour_images: Path, tmp_path: Path) -> None:
    prediction = next(iter(captune.ZeroShotClassifier(["red", "green"]).classify([colour_images])))
    html = check(prediction._repr_html_())
    assert "data:image/jpeg" in html
    assert "red" in html
    scores = Scores("cider", 0.5, {f"{HOSTILE}{n}": n / 10 for n in range(11)}, {}, title="CIDEr-D")
    html = check(scores._repr_html_())
    assert "CIDEr-D: 0.500" in html
    assert "and 3 more" in html


def test_a_result_that_was_written_shows_its_run(root: Path, tmp_path: Path) -> None:
    from captune.jobs.classify import ClassifyResult
    from captune.zeroshot.labels import Labels

    result = ClassifyResult(
        labels=Labels(("7",), ("red",)), model={"spec": "lite"}, device="cpu", images=3, scored=3
    )
    result.prompts = [{"template": "a {}", "accuracy": 0.5, "interval": [0.25, 0.75]}]
    assert "50.0 % [25.0 %, 75.0 %]" in check(result._repr_html_())
    result.written["run"] = classify_run(tmp_path / "run", root, NAMES)
    assert "lite recognises 9 of 12 images" in check(result._repr_html_())


def test_anything_else_is_refused() -> None:
    with pytest.raises(TypeError, match="int is neither a run nor a result"):
        captune.as_html(3)
