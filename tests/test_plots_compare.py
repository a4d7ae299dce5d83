"""Figures of a comparison: tidy, in the colours that they explain, for any scores and names."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from captune.plots import difference_figure, image_difference_figure, save_figure
from captune.plots.canvas import Tone
from captune.scoring.compare import Comparison, compare_scores
from captune_metrics.scores import Scores
from tests.test_plots import ODD, assert_tidy, texts_of

SHIFTS = {"better": 0.3, "worse": -0.3, "alike": 0.0}


def comparison(n: int = 60, scale: float = 1.0, shifts: dict[str, float] = SHIFTS) -> Comparison:
    random = np.random.default_rng(0)
    sides: list[dict[str, Scores]] = [{}, {}]
    for metric, shift in shifts.items():
        a = random.gamma(1.0, 1.0, size=n)
        noise = random.normal(scale=0.2, size=n)
        b = a + noise - noise.mean() + shift
        for side, values in zip(sides, (a, b), strict=True):
            per_image = {str(i): float(scale * value) for i, value in enumerate(values)}
            corpus = scale * float(values.mean())
            side[metric] = Scores(metric, corpus, per_image, {}, title=metric)
    images = [str(i) for i in range(n)]
    captions = dict.fromkeys(images, "a"), dict.fromkeys(images, "b")
    metrics = compare_scores(sides[0], sides[1], resamples=500)
    return Comparison("runs/a", "runs/b", *captions, {}, metrics)


def colours(figure: Figure) -> list[str]:
    return [to_hex(axes.lines[-1].get_color()).upper() for axes in figure.axes]


def test_blue_is_b_orange_is_a_and_grey_is_neither() -> None:
    figure = difference_figure(comparison())
    assert_tidy(figure)
    assert colours(figure) == [Tone.BLUE, Tone.ORANGE, Tone.GREY]
    words = [text.get_text() for text in texts_of(figure)]
    answers = {"B is better", "A is better", "not significantly different"}
    assert {*answers, "A: runs/a", "B: runs/b"} <= set(words)
    for axes in figure.axes:  # 0 lies in the middle of every strip
        low, high = axes.get_xlim()
        assert low == -high


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
@pytest.mark.parametrize("n", [2, 60, 900])
def test_figures_are_tidy_on_any_scale(n: int, scale: float) -> None:
    found = comparison(n, scale)
    assert_tidy(difference_figure(found))
    assert_tidy(image_difference_figure(found, "better"))


def test_long_and_odd_names_fit() -> None:
    shifts = {name or "-": 0.1 for name in [*ODD, 3 * "a long name, "]}
    found = dataclasses.replace(
        comparison(shifts=shifts), a="folder/" * 60 + "a.json", b="猫 \udcff"
    )
    assert_tidy(difference_figure(found))
    for metric in found.metrics:
        assert_tidy(image_difference_figure(found, metric))


def test_equal_scores_are_drawn_and_counted() -> None:
    per_image = {str(i): i / 10 for i in range(10)}
    scores = {"rouge_l": Scores("rouge_l", 0.45, per_image, {}, title="ROUGE-L")}
    metrics = compare_scores(scores, scores, resamples=200)
    captions = dict.fromkeys(per_image, "a")
    found = Comparison("a", "b", captions, captions, {}, metrics)
    assert_tidy(difference_figure(found))
    figure = image_difference_figure(found, "rouge_l")
    assert_tidy(figure)
    words = [text.get_text() for text in texts_of(figure)]
    assert "equal: 10" in words
    assert "images (10 equal, not drawn)" in words


def test_the_histogram_counts_every_image_that_differs() -> None:
    found = comparison(300)
    _, histogram = image_difference_figure(found, "better").axes
    metric = found.metrics["better"]
    heights = {Tone.BLUE: 0.0, Tone.ORANGE: 0.0}
    for bar in histogram.patches:
        heights[to_hex(bar.get_facecolor()).upper()] += bar.get_height()
    assert heights == {Tone.BLUE: metric.images.b_better, Tone.ORANGE: metric.images.a_better}


def test_of_one_image_only_its_scores_are_drawn(tmp_path: Path) -> None:
    scores = [{"m": Scores("m", value, {"x": value}, {})} for value in (0.2, 0.5)]
    found = Comparison("a", "b", {"x": "a"}, {"x": "b"}, {}, compare_scores(scores[0], scores[1]))
    with pytest.raises(ValueError, match="two images"):
        difference_figure(found)
    figure = image_difference_figure(found, "m")
    assert_tidy(figure)
    assert save_figure(figure, tmp_path / "one.png").stat().st_size > 0
