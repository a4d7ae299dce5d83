from __future__ import annotations

from pathlib import Path

import pytest

from captune.attribution.faithful.measure import DELETION, INSERTION, POINTING, RANDOM, MapId
from captune.attribution.faithful.results import EvalReport, eval_report
from captune.attribution.methods import LayerHead
from captune.plots import save_figure
from captune.plots.maps import effect_curves_figure, leaderboard_figure
from tests.attribution.test_measure import MAP, measurements_of

LAST = MapId("attention", LayerHead(5, "mean"))


@pytest.fixture(scope="module")
def report() -> EvalReport:
    tally = measurements_of()
    for number, word in enumerate(tally.words):
        for measure in (INSERTION, DELETION):
            tally.put(LAST, measure, number, 0.6 * word.gain)
    for name in (MAP, LAST, RANDOM):
        tally.add_curve(name, INSERTION, [0, 0.5, 1], [0, 0.7, 1], 1)
        tally.add_curve(name, DELETION, [0, 0.5, 1], [1, 0.3, 0], 1)
    return eval_report(tally, MAP, LAST, "reference captions, images held back")


def test_the_leaderboard_draws_every_map_with_its_interval(
    report: EvalReport, tmp_path: Path
) -> None:
    figure = leaderboard_figure([report, report], str(MAP))
    written = [text.get_text() for text in figure.texts]
    assert written.count(str(MAP)) == 2
    assert written.count(str(LAST)) == 2
    assert "reference captions, images held back (20 images)" in written
    assert len(figure.axes) == 6  # two blocks, three measures
    first, _, pointing = figure.axes[:3]
    assert len(first.lines) == 1 + 2 * 2  # random, then an interval and a dot a map
    assert figure.axes[3].get_xlim() == first.get_xlim()
    assert POINTING in pointing.get_xlabel()
    path = save_figure(figure, tmp_path / "leaderboard.svg")
    assert str(LAST) in path.read_text()


def test_without_boxes_there_is_no_panel_of_pointing(report: EvalReport) -> None:
    tally = measurements_of()
    tally = type(tally)(tally.words, {k: v for k, v in tally._found.items() if k[1] != POINTING})
    figure = leaderboard_figure([eval_report(tally, MAP, None, "images")], str(MAP))
    assert len(figure.axes) == 2


def test_curves_go_from_one_to_the_other_end(report: EvalReport, tmp_path: Path) -> None:
    figure = effect_curves_figure(report, str(MAP), "patch tokens -> zeros")
    deletion, insertion = figure.axes
    assert [line.get_ydata()[0] for line in deletion.lines[:3]] == [1, 1, 1]
    assert [line.get_ydata()[-1] for line in insertion.lines[:3]] == [1, 1, 1]
    assert "patch tokens -> zeros" in [text.get_text() for text in figure.texts]
    assert save_figure(figure, tmp_path / "curves.png").stat().st_size > 1000
