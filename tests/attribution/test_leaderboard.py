"""The whole contest on models whose truth is known: the measures are tested before they judge."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.attribution.planted import SHAPE, bright_subject, planted_captioner

from captune.attribution import leaderboard
from captune.attribution.boxes import Box
from captune.attribution.cases import Case, case_of
from captune.attribution.leaderboard import (
    LEAST,
    chosen,
    contest_of,
    follow,
    reported,
    screen,
    shuffled,
)
from captune.attribution.masking import token_masking
from captune.attribution.measure import (
    CENTRE,
    DELETION,
    INSERTION,
    OVERLAP,
    POINTING,
    RANDOM,
    Judge,
    MapName,
    Tally,
)
from captune.attribution.methods import Choice
from captune.attribution.results import report_of, rows_of, verdicts_of
from captune.captioning.model import Captioner
from captune.errors import UserError

ATTENTION = MapName("attention", Choice(0, "mean"))
SIDE = 2
# never in the middle, where the centre map would be right as well
CORNERS = [(0, 0), (0, 3), (4, 1), (3, 4), (1, 4), (4, 0), (0, 4), (4, 4)]


def cases_of(captioner: Captioner) -> list[Case]:
    """Images with a bright square, a box around it, and a word for it."""
    found = []
    for number, (row, column) in enumerate(CORNERS):
        subject = bright_subject(captioner, row, column, words=2, side=SIDE)
        box = Box(
            "w20",
            column / SHAPE.columns,
            row / SHAPE.rows,
            (column + SIDE) / SHAPE.columns,
            (row + SIDE) / SHAPE.rows,
        )
        found.append(case_of(number, subject, [box], ["w20"]))
    return found


def hide(captioner: Captioner) -> object:
    return lambda case: token_masking(captioner, case.subject)


class Clock:
    """Time that passes only where a test says so."""

    now = 1000.0

    def taking(self, work: Any, seconds: Any) -> Any:
        """`work` of a Judge, which takes so many seconds; a function is told its method's name."""

        def slow(judge: Judge, *args: Any, **named: Any) -> Any:
            self.now += seconds if isinstance(seconds, float) else seconds(args[1])
            return work(judge, *args, **named)

        return slow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(leaderboard.time, "monotonic", lambda: found.now)
    return found


@pytest.fixture(scope="module")
def planted() -> tuple[Captioner, list[Case]]:
    captioner = planted_captioner()
    return captioner, cases_of(captioner)


@pytest.fixture(scope="module")
def followed(planted: tuple[Captioner, list[Case]]) -> Tally:
    captioner, cases = planted
    return follow(captioner, [cases], [ATTENTION], hide(captioner)).tallies[0]


def test_a_planted_model_is_near_perfect_by_every_measure(followed: Tally) -> None:
    found = {m: followed.figure(ATTENTION, m) for m in (INSERTION, DELETION, POINTING, OVERLAP)}
    values = {measure: figure.value for measure, figure in found.items() if figure}
    assert values[INSERTION] > 0.9
    assert values[DELETION] < 0.15
    assert values[POINTING] == 1
    assert values[OVERLAP] == pytest.approx(1)
    assert verdicts_of(followed, ATTENTION)[0].answer == "better"


def test_the_controls_beside_it_are_at_chance(followed: Tally) -> None:
    random = followed.figure(RANDOM, POINTING)
    assert random is not None
    assert random.value == pytest.approx(SIDE * SIDE / SHAPE.tokens)
    centre = followed.figure(CENTRE, POINTING)
    assert centre is not None
    assert centre.value < 0.3
    better = followed.difference(ATTENTION, CENTRE, POINTING)
    assert better is not None
    assert better.verdict == "better"


def test_a_constant_map_is_no_better_than_random(planted: tuple[Captioner, list[Case]]) -> None:
    captioner, cases = planted
    tally, constant = Tally(), MapName("constant")
    for case in cases:
        judge = Judge(case, token_masking(captioner, case.subject), tally)
        judge.follow_controls(seeds=1)
        judge.follow({constant: torch.full((len(judge.words), 6, 6), 0.3)})
    for measure in (INSERTION, DELETION, POINTING, OVERLAP):
        own, random = tally.figure(constant, measure), tally.figure(RANDOM, measure)
        assert own is not None
        assert own == random


def test_a_map_of_something_else_is_at_chance(planted: tuple[Captioner, list[Case]]) -> None:
    captioner, cases = planted
    tally, noise = Tally(), MapName("noise")
    chance = torch.Generator().manual_seed(0)
    for case in cases:
        judge = Judge(case, token_masking(captioner, case.subject), tally)
        judge.follow_controls(seeds=20)
        judge.follow({noise: torch.rand(len(judge.words), 6, 6, generator=chance)})
    for measure in (INSERTION, DELETION):
        found = tally.difference(noise, RANDOM, measure)
        assert found is not None
        assert abs(found.value) < 0.2


def test_screening_finds_the_true_map_among_all(planted: tuple[Captioner, list[Case]]) -> None:
    captioner, cases = planted
    contest = contest_of(captioner, quick=True)
    assert contest.baseline == ATTENTION
    tally, done = screen(captioner, cases, contest, hide(captioner))
    assert done == dict.fromkeys(contest.methods, len(cases))
    rows = rows_of(tally)
    by_name = {row.name: row for row in rows}
    assert by_name[ATTENTION].worth > 1
    assert by_name[ATTENTION].worth == pytest.approx(max(row.worth for row in rows))
    names = chosen(rows, contest.baseline, count=2)
    assert ATTENTION in names
    assert RANDOM not in names
    assert CENTRE not in names


def test_a_slow_method_is_screened_on_fewer_images(
    planted: tuple[Captioner, list[Case]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods share the time evenly, but for the least number of images that each has."""
    captioner, cases = planted
    many = [dataclasses.replace(case, image=n) for n, case in enumerate(cases * 3)]
    contest = contest_of(captioner, quick=True)
    slow = dict.fromkeys(contest.methods, 1.0) | {"gradient": 10.0}
    monkeypatch.setattr(Judge, "maps_of", clock.taking(Judge.maps_of, lambda method: slow[method]))
    until = clock.now + len(many) * (len(slow) - 1) + 135
    tally, done = screen(captioner, many, contest, hide(captioner), until=until)
    assert done["gradient"] == 14
    assert all(done[name] == len(many) for name in slow if name != "gradient")
    gradient = next(name for name in tally.names() if name.method == "gradient")
    figure = tally.figure(gradient, POINTING)
    assert figure is not None
    assert figure.images == done["gradient"]
    _, least = screen(captioner, many, contest, hide(captioner), until=clock.now)
    assert least == dict.fromkeys(contest.methods, LEAST)


def test_a_blind_captioner_is_named() -> None:
    captioner = planted_captioner()
    with torch.no_grad():
        for layer in captioner.bridge.attending:
            layer.out.weight.zero_()
    cases = cases_of(captioner)
    with pytest.raises(UserError, match="this captioner ignores its images"):
        screen(captioner, cases, contest_of(captioner, quick=True), hide(captioner))
    [tally] = follow(captioner, [cases], [ATTENTION], hide(captioner)).tallies
    assert tally.figure(ATTENTION, INSERTION) is None
    assert all(one.answer == "unknown" for one in verdicts_of(tally, ATTENTION))


def test_what_is_reported(followed: Tally, planted: tuple[Captioner, list[Case]]) -> None:
    """The best, what points best at boxes, and the map usually drawn."""
    captioner, cases = planted
    noise, worse = MapName("noise"), MapName("gradient")
    [found] = follow(captioner, [cases], [ATTENTION, worse], hide(captioner)).tallies
    rows = rows_of(found)
    assert rows[0].name == ATTENTION
    assert reported(rows, ATTENTION) == [ATTENTION]
    assert reported(rows, worse) == [ATTENTION, worse]
    row = dataclasses.replace(rows[1], name=noise, figures=rows[0].figures)
    first = dataclasses.replace(rows[0], figures={})
    assert reported([first, row, *rows[2:]], worse) == [ATTENTION, noise, worse]


def test_boxes_are_compared_on_images_that_have_no_curves(
    planted: tuple[Captioner, list[Case]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the time is kept for them; curves of both captions are of the same images."""
    captioner, cases = planted
    monkeypatch.setattr(Judge, "maps_of", clock.taking(Judge.maps_of, lambda method: 1.0))
    monkeypatch.setattr(Judge, "follow_controls", clock.taking(Judge.follow_controls, 3.0))
    many = [dataclasses.replace(case, image=n) for n, case in enumerate(cases * 3)]
    without = [case_of(len(many), cases[0].subject, None)]
    sets = [[*many, *without], many]
    found = follow(
        captioner, sets, [ATTENTION], hide(captioner), until=clock.now + 109, boxes_after=True
    )
    # 8 s an image with curves, 2 s with boxes alone
    assert (found.curves, found.boxes) == (11, 22)
    for tally in found.tallies:
        for name in (ATTENTION, RANDOM, CENTRE):
            curves, boxes = (tally.figure(name, measure) for measure in (INSERTION, POINTING))
            assert curves is not None
            assert boxes is not None
            assert (curves.images, boxes.images) == (11, 22)
        assert {word.image for word in tally.words} == set(range(22))
    report = report_of(found.tallies[0], ATTENTION, None, "images held back")
    assert report.images == "curves of 11 images, boxes of 22"
    ended = follow(captioner, sets, [ATTENTION], hide(captioner), until=clock.now + 109)
    assert ended.curves == ended.boxes == 14


def test_the_report_says_how_the_default_stands(followed: Tally) -> None:
    report = report_of(followed, ATTENTION, ATTENTION, "images held back")
    assert report.sentences[0].startswith("attention, layer 0, mean: insertion 0.9")
    assert "pointing 100 % against centre" in report.sentences[0]
    assert report.sentences[1].startswith("These maps are better than chance for nouns")
    assert "points better than the centre" in report.sentences[2]
    assert report.against_baseline == {}
    assert set(report.curves) == {str(ATTENTION), "random", "centre"}
    lost = report_of(followed, RANDOM, ATTENTION, "images held back")
    assert "deletion worse by" in lost.sentences[-1]


def test_shuffling_depends_on_the_seed_only(planted: tuple[Captioner, list[Case]]) -> None:
    _, cases = planted
    order = [case.image for case in shuffled(cases, 3)]
    assert order == [case.image for case in shuffled(cases, 3)]
    assert sorted(order) == list(range(8))
    assert order != [case.image for case in shuffled(cases, 4)]
