"""Figures: nothing clipped, nothing overlapping, the same bytes every time, whatever the labels."""

import logging
import subprocess
import sys
import threading
import warnings
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib import style
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from captune import plots
from captune.errors import UserError
from captune.models.encoders import Floats, normalise
from captune.plots import Top5, save_figure, top5_grid_figure
from captune.plots.canvas import Tone, clean, fitted, house_style, measured
from captune.runs.metrics import NegationProbe
from captune.zeroshot.template_comparison import (
    TemplateComparison,
    compare_templates,
    probe_negation,
)

LONG = "a photo of an extraordinarily long class name, of the kind that curated lists contain, "
ODD = ["猫 🐱", "$x_1^2$ {object} \\frac", "tab\tand\nline", "\udcff\x00\u200d", "عربى हिन्दी", ""]


def image(width: int = 320, height: int = 240) -> Image.Image:
    shade = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Image.fromarray(shade.astype(np.uint8))


def logits(image_features: Floats, text_features: Floats) -> Floats:
    return 20 * normalise(image_features) @ normalise(text_features).T


def comparison(
    templates: list[str],
    images: int = 80,
    labels: int = 10,
    truth: bool = True,
    name: str = "class",
    calibration: bool = False,
) -> TemplateComparison:
    random = np.random.default_rng(0)
    base = random.normal(size=(labels, 24))
    right = random.integers(labels, size=images)
    features = (base[right] + random.normal(size=(images, 24)) * 1.2).astype(np.float32)
    texts = [
        (template, (base + random.normal(size=base.shape) * 0.15 * (i + 1)).astype(np.float32))
        for i, template in enumerate(templates)
    ]
    names = [f"{name} {i}" for i in range(labels)]
    return compare_templates(
        texts, features, names, logits, truth=right if truth else None, calibration=calibration
    )


def probe(template: str) -> NegationProbe:
    random = np.random.default_rng(0)
    images, texts, denied = random.normal(size=(3, 10, 8)).astype(np.float32)
    return probe_negation(template, f"not {template}", images, texts, denied, logits, np.arange(10))


def texts_of(figure: Figure) -> list[Text]:
    with house_style():
        figure.canvas.draw()
        return [
            text
            for text in figure.findobj(Text)
            if text.get_text().strip() and text.get_visible() and text.get_window_extent().width > 0
        ]


def assert_tidy(figure: Figure) -> None:
    """All words inside the paper, and none on others."""
    width, height = figure.canvas.get_width_height()
    boxes = [(text, text.get_window_extent()) for text in texts_of(figure)]
    assert boxes
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (one, a), (two, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        # lines of neighbouring labels may touch by the space between their letters
        assert across <= 2 or down <= 4, f"{one.get_text()!r} on {two.get_text()!r}"


def bars(figure: Figure) -> list[str]:
    """Colours of the bars, top to bottom, without the pale ground behind them."""
    axes = figure.axes[1]
    return [to_hex(bar.get_facecolor()).upper() for bar in axes.patches[1::2]]


PROBABILITIES = [0.05, 0.5, 0.3, 0.1, 0.03, 0.02]
LABELS = ["cat", "dog", "fish", "bird", "frog", "deer"]


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        (1, [Tone.GREEN, Tone.BLUE, Tone.BLUE, Tone.BLUE, Tone.BLUE]),
        (2, [Tone.ORANGE, Tone.GREEN, Tone.BLUE, Tone.BLUE, Tone.BLUE]),
        (5, [Tone.ORANGE, Tone.BLUE, Tone.BLUE, Tone.BLUE, Tone.BLUE]),
        (None, [Tone.BLUE] * 5),
        ("dog", [Tone.GREEN, Tone.BLUE, Tone.BLUE, Tone.BLUE, Tone.BLUE]),
        ("whale", [Tone.ORANGE, Tone.BLUE, Tone.BLUE, Tone.BLUE, Tone.BLUE]),
    ],
)
def test_green_is_the_truth_and_orange_a_wrong_first_answer(
    truth: int | str | None, expected: list[str]
) -> None:
    figure = top5_grid_figure([Top5(image(), LABELS, PROBABILITIES, truth, "a.jpg")])
    assert bars(figure) == expected
    words = [text.get_text() for text in texts_of(figure)]
    assert {"a.jpg", "dog", "50.0 %", "fish", "30.0 %"} <= set(words)
    assert "deer" not in words
    told = [word for word in words if word.startswith("truth, not among these")]
    assert bool(told) == (truth in (5, "whale"))
    image_axes, bar_axes = figure.axes
    assert image_axes.get_position().x1 < bar_axes.get_position().x0
    assert bar_axes.get_xlim() == (0, 100)


@pytest.mark.parametrize(
    ("size", "labels"),
    [
        ((320, 240), ["cat"]),
        ((30, 900), ["cat", "dog"]),
        ((2000, 40), [LONG * 3] * 7),
        ((1, 1), ["x" * 900, "y"]),
        ((300, 500), ODD),
    ],
)
def test_top5_is_tidy(size: tuple[int, int], labels: list[str]) -> None:
    shares = np.linspace(1, 0, len(labels))
    panel = Top5(image(*size), labels, shares, "n" * 300, "folder/" * 40 + "end.jpg")
    assert_tidy(top5_grid_figure([panel]))


def test_grid_is_tidy() -> None:
    shares = np.linspace(1, 0, 6)
    labels = [f"{LONG} {i}" for i in range(6)]
    panels = [
        Top5(image(320, 240), labels, shares, 0, "a" * 200),
        Top5(image(30, 900), LABELS, shares, 5, "portrait"),
        Top5(image(900, 30), LABELS, shares, "a truth that is not among the labels at all", "wide"),
    ]
    figure = top5_grid_figure(panels)
    assert_tidy(figure)
    assert len(figure.axes) == 6


@pytest.mark.parametrize(
    ("templates", "name"),
    [
        (["This is a photo of {object}", "This is not a photo of {object}"], "class"),
        (["a photo of a {}.", *(f"{i} {LONG}{{}}" for i in range(9))], LONG),
        (["{}"], ""),
        ([*ODD[:5], "{}"], "🐱 猫"),
    ],
)
def test_prompt_figures_are_tidy(templates: list[str], name: str) -> None:
    found = comparison(templates, name=name)
    assert_tidy(plots.prompt_comparison_figure(found))
    assert_tidy(plots.agreement_figure(found))
    assert_tidy(plots.negation_figure([probe(template) for template in templates]))
    for index in range(len(templates)):
        if index != found.best:
            assert_tidy(plots.class_change_figure(found, index))
            break


def test_many_prompts_are_cut_and_counted() -> None:
    figure = plots.prompt_comparison_figure(comparison([f"{i} {{}}" for i in range(40)]), limit=20)
    assert_tidy(figure)
    words = " ".join(text.get_text().replace("\n", " ") for text in texts_of(figure))
    assert "21 more prompts are in the table" in words
    assert_tidy(plots.agreement_figure(comparison([f"{i} {{}}" for i in range(40)])))


def test_the_best_is_marked_and_the_rest_are_judged() -> None:
    found = comparison(["good {}", "as good {}", *(f"bad {i} {{}}" for i in range(12))], 400)
    words = [text.get_text() for text in texts_of(plots.prompt_comparison_figure(found))]
    assert words.count("best") == 2  # the note and the legend
    assert "p < 0.001" in words
    assert "worse" in words
    assert any("Holm-adjusted for 14 comparisons" in word.replace("\n", " ") for word in words)


def test_few_images_have_a_reliability_without_temperature() -> None:
    found = comparison(["{}"], images=7, calibration=True)
    calibration = found.results[0].calibration
    assert calibration is not None
    figure = plots.reliability_figure(calibration)
    assert_tidy(figure)
    assert len(figure.axes) == 2


def test_reliability_names_ece_and_temperature() -> None:
    calibration = comparison(["{}"], images=300, calibration=True).results[0].calibration
    assert calibration is not None
    assert calibration.temperature is not None
    figure = plots.reliability_figure(calibration, 3 * LONG)
    assert_tidy(figure)
    words = " ".join(text.get_text() for text in texts_of(figure))
    assert f"ECE {100 * calibration.raw.ece:.1f} %" in words
    assert f"temperature {calibration.temperature:.3g}" in words


def test_what_cannot_be_drawn_is_refused() -> None:
    without = comparison(["a {}", "b {}"], truth=False)
    with pytest.raises(ValueError, match="truth"):
        plots.prompt_comparison_figure(without)
    with pytest.raises(ValueError, match="truth"):
        plots.class_change_figure(without, 0)
    with pytest.raises(ValueError, match="at least one"):
        plots.negation_figure([])
    with pytest.raises(ValueError, match="at least one"):
        top5_grid_figure([])
    with pytest.raises(ValueError, match="one probability per label"):
        top5_grid_figure([Top5(image(), ["cat"], [0.5, 0.5])])


def test_a_class_that_never_changes_has_a_figure_too() -> None:
    found = comparison(["a {}", "b {}"], images=10, labels=2)
    assert found.best is not None
    assert_tidy(plots.class_change_figure(found, next(i for i in range(3) if i != found.best)))


def odd_figure() -> Figure:
    shares = np.linspace(0.5, 0, len(ODD)).tolist()
    return top5_grid_figure([Top5(image(64, 64), ODD, shares, "猫", "表\udcff\n.jpg")])


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".PNG"])
def test_the_same_figure_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    first = save_figure(odd_figure(), tmp_path / f"new/first{suffix}").read_bytes()
    second = save_figure(odd_figure(), tmp_path / f"second{suffix}").read_bytes()
    assert first == second
    assert len(first) > 1000
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"first{suffix}"]


def test_svg_keeps_its_words(tmp_path: Path) -> None:
    path = save_figure(odd_figure(), tmp_path / "a.svg")
    drawing = ElementTree.parse(path)  # raises where a label breaks the XML
    words = {node.text for node in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"猫 🐱", "$x_1^2$ {object} \\frac", "tab and line"} <= words
    text = path.read_text(encoding="utf-8")
    assert "dc:date" not in text
    assert "sans-serif" in text


def test_png_is_as_wide_as_a_page(tmp_path: Path) -> None:
    with Image.open(save_figure(odd_figure(), tmp_path / "a.png")) as image:
        assert image.width == 1120
        assert image.getpixel((0, 0))[:3] == (255, 255, 255)  # type: ignore[index]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png, \.svg or \.pdf"):
        save_figure(odd_figure(), tmp_path / "a.bmp")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = odd_figure()
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(figure, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_odd_signs_raise_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if "Last Resort High-Efficiency" not in matplotlib.font_manager.get_font_names():
        pytest.skip("matplotlib before 3.11 warns of signs that no font has")
    matplotlib.font_manager.fontManager._findfont_cached.cache_clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for suffix in (".png", ".svg", ".pdf"):
            save_figure(odd_figure(), tmp_path / f"a{suffix}")
    assert caplog.records == []


def test_the_users_style_and_ours_stay_apart(tmp_path: Path) -> None:
    plain = save_figure(odd_figure(), tmp_path / "plain.png").read_bytes()
    with style.context(["dark_background", "classic", "ggplot"]):
        matplotlib.rcParams["font.size"] = 30
        matplotlib.rcParams["savefig.bbox"] = "tight"
        before = dict(matplotlib.rcParams)
        styled = save_figure(odd_figure(), tmp_path / "styled.png").read_bytes()
        assert dict(matplotlib.rcParams) == before
    assert styled == plain


def test_threads_draw_the_same(tmp_path: Path) -> None:
    expected = save_figure(odd_figure(), tmp_path / "alone.svg").read_bytes()

    def draw(number: int) -> None:
        save_figure(odd_figure(), tmp_path / f"{number}.svg")

    threads = [threading.Thread(target=draw, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((tmp_path / f"{n}.svg").read_bytes() == expected for n in range(6))


def test_figures_need_neither_pyplot_nor_torch() -> None:
    code = "import sys, captune.plots; print({'matplotlib.pyplot', 'torch'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_text_is_broken_where_it_fits() -> None:
    width = measured(9.0)
    lines = fitted(2 * LONG, 2.0, 3)
    assert len(lines) == 3
    assert all(width(line) <= 2.0 for line in lines)
    assert lines[-1].endswith("…")
    assert fitted("short", 2.0, 3) == ["short"]
    assert fitted("", 2.0) == [""]
    unbroken = fitted("w" * 100, 1.0, 2)
    assert len(unbroken) == 2
    assert all(width(line) <= 1.0 for line in unbroken)
    assert fitted("wide", 0.0) == ["w…"]


def test_clean_text_is_one_line_that_xml_can_hold() -> None:
    assert clean(" a\n\tb\x07\udc80\u202e ") == r"a b\x07\udc80\u202e"
