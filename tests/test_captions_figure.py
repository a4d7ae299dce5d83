"""The images with their captions as a figure: tidy, whatever the captions."""

from __future__ import annotations

import pytest
from benchmarks.captions_figure import CaptionPanel, captions_figure

from tests.test_pairs_figure import HOSTILE, assert_tidy, image, words_of


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12])
def test_every_number_of_images_is_tidy(count: int) -> None:
    panels = [
        CaptionPanel(HOSTILE[i % len(HOSTILE)], image(320, 100 + 60 * i), f"CIDEr-D {i}")
        for i in range(count)
    ]
    assert_tidy(captions_figure(panels, "a title", "what it is " * 30))


def test_it_says_the_captions_and_what_stands_below() -> None:
    shown = words_of(captions_figure([CaptionPanel("a dog runs", image(), "CIDEr-D 1.20")], "lora"))
    assert shown == ["lora", "a dog runs", "CIDEr-D 1.20"]
    assert "(empty caption)" in words_of(captions_figure([CaptionPanel("", image())]))


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="at least one"):
        captions_figure([])
