"""The figure of a caption's maps: nothing clipped, nothing overlapping, the right colours."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captune.options.captioning import COLOURS
from captune.plots import save_figure
from captune.plots.maps import MEANING, MapPanel, maps_figure, scaled_map, why_flat
from tests.test_pairs_figure import HOSTILE, assert_tidy, image, words_of


def panels(count: int, **what: object) -> list[MapPanel]:
    over = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    given: dict[str, object] = {"mark": "no better than chance", **what}
    return [MapPanel(HOSTILE[i % len(HOSTILE)] or "x", over, **given) for i in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12, 23])
@pytest.mark.parametrize("size", [(320, 240), (240, 320), (900, 90), (60, 700)])
def test_tidy_for_any_image_and_number_of_words(count: int, size: tuple[int, int]) -> None:
    figure = maps_figure(image(*size), panels(count), caption="so " * 90, subtitle="map: x")
    assert_tidy(figure)
    words = words_of(figure)
    assert words.count("no better than chance") == count
    assert "image" in words


def test_what_stands_in_it() -> None:
    one = MapPanel("dog", np.eye(3, dtype=np.float32), "better than chance", is_true=True)
    words = words_of(maps_figure(image(), [one], caption="a dog", subtitle="map: attention"))
    assert words[:2] == ["a dog", "map: attention"]
    assert "●" in words
    assert "better than chance" in words
    unmarked = words_of(maps_figure(image(), panels(2, mark=""), caption="a dog"))
    assert not {"●", "○"} & set(unmarked)
    with pytest.raises(ValueError, match="at least one word"):
        maps_figure(image(), [], caption="a dog")


@pytest.mark.parametrize("colours", COLOURS)
def test_the_brightest_colour_lies_on_the_largest_value(tmp_path: object, colours: str) -> None:
    over = np.zeros((6, 8), dtype=np.float32)
    over[4:, 6:] = 1.0
    grey = Image.new("RGB", (320, 240), (128, 128, 128))
    panel = MapPanel("dog", over)
    figure = maps_figure(grey, [panel], caption="a dog", colours=colours)
    axes = figure.axes[1].images[0].get_array()
    height, width = axes.shape[:2]
    hot, cold = axes[-2, -2], axes[1, 1]
    assert np.abs(hot - cold).max() > 0.2
    assert np.allclose(axes[height // 2, width // 4], cold, atol=1e-3)


def test_where_nothing_was_seen_the_image_is_grey() -> None:
    over = np.full((6, 8), np.nan, dtype=np.float32)
    over[2:4] = [[0, 1, 0, 1, 0, 1, 0, 1]] * 2
    figure = maps_figure(
        Image.new("RGB", (320, 240), (200, 100, 50)), [MapPanel("dog", over)], caption="a dog"
    )
    shown = figure.axes[1].images[0].get_array()
    assert np.ptp(shown[0, 0]) < 1e-6  # grey
    assert np.ptp(shown[shown.shape[0] // 2, shown.shape[1] * 3 // 16]) > 0.1
    assert np.allclose(figure.axes[0].images[0].get_array()[0, 0], (200, 100, 50), atol=1)


def test_maps_are_scaled_by_their_own_values() -> None:
    scaled = scaled_map(np.array([[-3.0, 0.0], [1.0, 2.0]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[0, 0], [0.5, 1]])
    np.testing.assert_allclose(scaled_map(np.full((2, 2), 0.3, dtype=np.float32)), 0)
    np.testing.assert_allclose(scaled_map(np.full((2, 2), -1, dtype=np.float32)), 0)
    holes = scaled_map(np.array([[np.nan, 1.0], [3.0, 2.0]], dtype=np.float32))
    assert np.isnan(holes[0, 0])
    np.testing.assert_allclose(holes[1], [1, 0.5])


def test_a_panel_without_colour_says_why() -> None:
    nowhere, alike = np.full((6, 8), -0.1), np.full((6, 8), 0.3)
    shown = [MapPanel("of", one.astype(np.float32)) for one in (nowhere, alike)]
    figure = maps_figure(Image.new("RGB", (320, 240), (200, 100, 50)), shown, caption="of")
    said = " ".join(" ".join(words_of(figure)).split())
    assert "no map: no part of the image makes this word more probable" in said
    assert "no map: all parts of the image count alike" in said
    assert MEANING in said
    for axes in figure.axes[1:3]:
        assert np.ptp(axes.images[0].get_array()[0, 0]) < 1e-6  # grey
    assert not why_flat(np.eye(3, dtype=np.float32))


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_files(tmp_path: object, ending: str) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / f"maps{ending}"
    save_figure(maps_figure(image(), panels(3), caption="a dog"), path)
    assert path.stat().st_size > 1000
