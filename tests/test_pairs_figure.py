"""The gallery as a figure: nothing clipped, nothing overlapping, whatever the captions."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from captune.plots import PairPanel, pairs_figure
from captune.plots.canvas import Tone, full_rows
from tests.test_plots import assert_tidy as assert_tidy_words
from tests.test_plots import texts_of

HOSTILE = [
    "猫 🐱",
    "$x_1^2$ \\frac",
    "tab\tand\nline",
    "\udcff\x00",
    "عربى",
    "",
    "x" * 3000,
    "so " * 900,
]


def image(width: int = 320, height: int = 240) -> Image.Image:
    shade = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(shade.astype(np.uint8))


def panels(count: int, **what: object) -> list[PairPanel]:
    given: dict[str, object] = {
        "score": "1.234",
        "place": "5 of 5,000",
        "image": image(),
        "others": ["CLIPScore 0.712", "BLEU-4 0.000"],
        **what,
    }
    return [PairPanel(HOSTILE[i % len(HOSTILE)], **given) for i in range(count)]  # type: ignore[arg-type]


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in texts_of(figure)]


def assert_tidy(figure: Figure) -> None:
    """As of other figures, and none on a picture (but those in its place)."""
    assert_tidy_words(figure)
    boxes = [(text, text.get_window_extent()) for text in texts_of(figure)]
    for axes in figure.axes:
        picture = axes.get_window_extent()
        for text, box in boxes:
            if text.axes is axes:
                continue
            across = min(picture.x1, box.x1) - max(picture.x0, box.x0)
            down = min(picture.y1, box.y1) - max(picture.y0, box.y0)
            assert across <= 2 or down <= 4, f"{text.get_text()!r} on a picture"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("pictures", [True, False])
def test_figures_are_tidy(count: int, pictures: bool) -> None:
    figure = pairs_figure(
        panels(count, references=["a reference", "long " * 200]),
        panels(count, image=None, missing="truncated JPEG, and " * 20),
        "CIDEr-D: best and worst of 5,000 " + "long title " * 20,
        "CIDEr-D[ptb, df=corpus of 5000]: 0.886",
        remarks=("", "an arbitrary choice among 1,240 images with 0.000 " + "x" * 200),
        pictures=pictures,
    )
    assert_tidy(figure)
    assert len(figure.axes) == (2 * count if pictures else 0)


def test_best_stand_above_worst() -> None:
    best = [PairPanel("a dog", "2.000", "1 of 9", image())]
    worst = [PairPanel("a cat", "0.100", "9 of 9", image(90, 300))]
    figure = pairs_figure(best, worst, "title", "subtitle", remarks=("", "one of 3"))
    assert_tidy(figure)
    tops = {text.get_text(): text.get_window_extent().y1 for text in texts_of(figure)}
    order = ["title", "subtitle", "best", "a dog", "worst", "a cat"]
    assert sorted(order, key=lambda word: -tops[word]) == order
    assert "one of 3" in tops
    colours = {text.get_text(): text.get_color() for text in texts_of(figure)}
    markers = [text.get_color() for text in texts_of(figure) if text.get_text() == "■"]
    assert markers == [Tone.GREEN, Tone.ORANGE]
    assert colours["2.000"] == colours["0.100"]


def test_one_pair_is_neither_best_nor_worst() -> None:
    words = words_of(pairs_figure([PairPanel("a dog", "2.000", image=image())], []))
    assert "the only pair" in words
    assert not {"best", "worst"} & set(words)


def test_references_stand_beside_a_picture_that_has_the_row() -> None:
    alone = [PairPanel("a dog", "2", image=image(), references=["my dog", "his dog"])]
    assert {"references", "– my dog", "– his dog"} <= set(words_of(pairs_figure(alone, [])))
    assert "references" not in words_of(pairs_figure(alone * 2, []))
    many = [PairPanel("a dog", "2", image=image(), references=["dog " * 40] * 50)]
    assert_tidy(pairs_figure(many, many))


def test_a_pair_alone_in_its_row_shows_every_other_score() -> None:
    others = [f"CLIPScore of a long name {n} 0.712" for n in range(5)]
    figure = pairs_figure(panels(1, others=others), [])
    assert " ".join(words_of(figure)).count("0.712") == 5
    assert_tidy(figure)


def test_a_missing_image_says_why() -> None:
    figure = pairs_figure([PairPanel("a dog", "2", missing="truncated JPEG")] * 2, [])
    assert words_of(figure).count("truncated JPEG") == 2


@pytest.mark.parametrize(
    ("pairs", "columns"), [(1, 1), (4, 4), (5, 5), (6, 3), (7, 4), (8, 4), (9, 3), (10, 5), (20, 5)]
)
def test_rows_are_as_even_as_can_be(pairs: int, columns: int) -> None:
    assert full_rows(pairs, 5, 3) == columns


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        pairs_figure([], [])
