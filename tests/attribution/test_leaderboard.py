"""The whole contest on models whose truth is known: the measures are tested before they judge."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.attribution.planted import SHAPE, bright_subject, planted_captioner

from captune.attribution.faithful import leaderboard
from captune.attribution.faithful.dataset import Box, Example, example_of, shuffled
from captune.attribution.faithful.leaderboard import (
    LEAST,
    chosen,
    compared_maps,
    evaluate_curves,
    reported,
    screen,
)
from captune.attribution.faithful.measure import (
    CENTRE,
    DELETION,
    INSERTION,
    OVERLAP,
    POINTING,
    RANDOM,
    Evaluator,
    MapId,
    Measurements,
)
from captune.attribution.faithful.results import (
    MapResult,
    eval_report,
    map_results,
    part_of_speech_results,
)
from captune.attribution.masking import token_masking
from captune.attribution.methods import LayerHead
from captune.captioning.model import CaptionModel
from captune.errors import UserError

ATTENTION = MapId("attention", LayerHead(0, "mean"))
SIDE = 2
# never in the middle, where the centre map would be right as well
CORNERS = [(0, 0), (0, 3), (4, 1), (3, 4), (1, 4), (4, 0), (0, 4), (4, 4)]


def examples_of(captioner: CaptionModel) -> list[Example]:
    """Images with a bright square, a box around it, and a word for it."""
    found = []
    for number, (row, column) in enumerate(CORNERS):
        captioned = bright_subject(captioner, row, column, words=2, side=SIDE)
        box = Box(
            "w20",
            column / SHAPE.columns,
            row / SHAPE.rows,
            (column + SIDE) / SHAPE.columns,
            (row + SIDE) / SHAPE.rows,
        )
        found.append(example_of(number, captioned, [box], ["w20"]))
    return found


def hide(captioner: CaptionModel) -> object:
    return lambda example: token_masking(example.captioned)


class Clock:
    """Time that passes only where a test says so."""

    now = 1000.0

    def taking(self, work: Any, seconds: Any) -> Any:
        """`work` of an Evaluator, which takes so many seconds, or as many as the method takes."""

        def slow(evaluator: Evaluator, *args: Any, **named: Any) -> Any:
            self.now += seconds if isinstance(seconds, float) else seconds(args[0][0].method)
            return work(evaluator, *args, **named)

        return slow


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(leaderboard.time, "monotonic", lambda: found.now)
    return found


@pytest.fixture(scope="module")
def planted() -> tuple[CaptionModel, list[Example]]:
    captioner = planted_captioner()
    return captioner, examples_of(captioner)


@pytest.fixture(scope="module")
def followed(planted: tuple[CaptionModel, list[Example]]) -> Measurements:
    captioner, examples = planted
    return evaluate_curves([examples], [ATTENTION], hide(captioner)).measurements[0]


def test_a_planted_model_is_near_perfect_by_every_measure(followed: Measurements) -> None:
    found = {m: followed.estimate(ATTENTION, m) for m in (INSERTION, DELETION, POINTING, OVERLAP)}
    values = {measure: figure.value for measure, figure in found.items() if figure}
    assert values[INSERTION] > 0.9
    assert values[DELETION] < 0.15
    assert values[POINTING] == 1
    assert values[OVERLAP] == pytest.approx(1)
    assert part_of_speech_results(followed, ATTENTION)[0].answer == "better"


def test_the_controls_beside_it_are_at_chance(followed: Measurements) -> None:
    random = followed.estimate(RANDOM, POINTING)
    assert random is not None
    assert random.value == pytest.approx(SIDE * SIDE / SHAPE.tokens)
    centre = followed.estimate(CENTRE, POINTING)
    assert centre is not None
    assert centre.value < 0.3
    better = followed.difference(ATTENTION, CENTRE, POINTING)
    assert better is not None
    assert better.verdict == "better"


def test_a_constant_map_is_no_better_than_random(
    planted: tuple[CaptionModel, list[Example]],
) -> None:
    _, examples = planted
    measurements, constant = Measurements(), MapId("constant")
    for example in examples:
        evaluator = Evaluator(example, token_masking(example.captioned), measurements)
        evaluator.measure_control_curves(seeds=1)
        evaluator.measure_curves({constant: torch.full((len(evaluator.words), 6, 6), 0.3)})
    for measure in (INSERTION, DELETION, POINTING, OVERLAP):
        own, random = (
            measurements.estimate(constant, measure),
            measurements.estimate(RANDOM, measure),
        )
        assert own is not None
        assert own == random


def test_a_map_of_something_else_is_at_chance(planted: tuple[CaptionModel, list[Example]]) -> None:
    _, examples = planted
    measurements, noise = Measurements(), MapId("noise")
    chance = torch.Generator().manual_seed(0)
    for example in examples:
        evaluator = Evaluator(example, token_masking(example.captioned), measurements)
        evaluator.measure_control_curves(seeds=20)
        evaluator.measure_curves({noise: torch.rand(len(evaluator.words), 6, 6, generator=chance)})
    for measure in (INSERTION, DELETION):
        found = measurements.difference(noise, RANDOM, measure)
        assert found is not None
        assert abs(found.difference) < 0.2


def test_screening_finds_the_true_map_among_all(
    planted: tuple[CaptionModel, list[Example]],
) -> None:
    captioner, examples = planted
    candidates = compared_maps(captioner, None, quick=True)
    assert candidates.baseline == ATTENTION
    measurements, done = screen(examples, candidates, hide(captioner))
    assert done == dict.fromkeys(candidates.methods, len(examples))
    rows = map_results(measurements)
    by_name = {row.name: row for row in rows}
    assert by_name[ATTENTION].advantage > 1
    assert by_name[ATTENTION].advantage == pytest.approx(max(row.advantage for row in rows))
    names = chosen(rows, candidates.baseline, count=2)
    assert ATTENTION in names
    assert RANDOM not in names
    assert CENTRE not in names


def test_a_slow_method_is_screened_on_fewer_images(
    planted: tuple[CaptionModel, list[Example]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods fraction the time evenly, but for the least number of images that each has."""
    captioner, examples = planted
    many = [dataclasses.replace(example, image=n) for n, example in enumerate(examples * 3)]
    candidates = compared_maps(captioner, None, quick=True)
    slow = dict.fromkeys(candidates.methods, 1.0) | {"gradient": 10.0}
    monkeypatch.setattr(
        Evaluator, "maps_of", clock.taking(Evaluator.maps_of, lambda method: slow[method])
    )
    until = clock.now + len(many) * (len(slow) - 1) + 135
    measurements, done = screen(many, candidates, hide(captioner), until=until)
    assert done["gradient"] == 14
    assert all(done[name] == len(many) for name in slow if name != "gradient")
    gradient = next(name for name in measurements.names() if name.method == "gradient")
    figure = measurements.estimate(gradient, POINTING)
    assert figure is not None
    assert figure.images == done["gradient"]
    _, least = screen(many, candidates, hide(captioner), until=clock.now)
    assert least == dict.fromkeys(candidates.methods, LEAST)


def test_a_blind_captioner_is_named() -> None:
    captioner = planted_captioner()
    with torch.no_grad():
        for layer in captioner.bridge.cross_attention_layers:
            layer.out.weight.zero_()
    examples = examples_of(captioner)
    with pytest.raises(UserError, match="this captioner ignores its images"):
        screen(examples, compared_maps(captioner, None, quick=True), hide(captioner))
    [measurements] = evaluate_curves([examples], [ATTENTION], hide(captioner)).measurements
    assert measurements.estimate(ATTENTION, INSERTION) is None
    assert all(one.answer == "unknown" for one in part_of_speech_results(measurements, ATTENTION))


def test_what_is_reported(
    followed: Measurements, planted: tuple[CaptionModel, list[Example]]
) -> None:
    """The best, what points best at boxes, and the map usually drawn."""
    captioner, examples = planted
    noise, worse = MapId("noise"), MapId("gradient")
    [found] = evaluate_curves([examples], [ATTENTION, worse], hide(captioner)).measurements
    rows = map_results(found)
    assert rows[0].name == ATTENTION
    assert reported(rows, ATTENTION) == [ATTENTION]
    assert reported(rows, worse) == [ATTENTION, worse]
    row = dataclasses.replace(rows[1], name=noise, estimates=rows[0].estimates)
    first = dataclasses.replace(rows[0], estimates={})
    assert reported([first, row, *rows[2:]], worse) == [ATTENTION, noise, worse]


def test_boxes_are_compared_on_images_that_have_no_curves(
    planted: tuple[CaptionModel, list[Example]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the time is kept for them; curves of both captions are of the same images."""
    captioner, examples = planted
    monkeypatch.setattr(Evaluator, "maps_of", clock.taking(Evaluator.maps_of, lambda method: 1.0))
    monkeypatch.setattr(
        Evaluator, "measure_control_curves", clock.taking(Evaluator.measure_control_curves, 3.0)
    )
    many = [dataclasses.replace(example, image=n) for n, example in enumerate(examples * 3)]
    without = [example_of(len(many), examples[0].captioned, None)]
    sets = [[*many, *without], many]
    found = evaluate_curves(
        sets, [ATTENTION], hide(captioner), until=clock.now + 109, boxes_after=True
    )
    # 8 s an image with curves, 2 s with boxes alone
    assert (found.curves, found.boxes) == (11, 22)
    for measurements in found.measurements:
        for name in (ATTENTION, RANDOM, CENTRE):
            curves, boxes = (
                measurements.estimate(name, measure) for measure in (INSERTION, POINTING)
            )
            assert curves is not None
            assert boxes is not None
            assert (curves.images, boxes.images) == (11, 22)
        assert {word.image for word in measurements.words} == set(range(22))
    report = eval_report(found.measurements[0], ATTENTION, None, "images held back")
    assert report.images == "curves of 11 images, boxes of 22"
    ended = evaluate_curves(sets, [ATTENTION], hide(captioner), until=clock.now + 109)
    assert ended.curves == ended.boxes == 14


def test_the_report_says_how_the_default_stands(followed: Measurements) -> None:
    report = eval_report(followed, ATTENTION, ATTENTION, "images held back")
    assert report.sentences[0].startswith("attention, layer 0, mean: insertion 0.9")
    assert "pointing 100 % against centre" in report.sentences[0]
    assert report.sentences[1].startswith("These maps are better than chance for nouns")
    assert "points better than the centre" in report.sentences[2]
    assert report.against_baseline == {}
    assert set(report.curves) == {str(ATTENTION), "random", "centre"}
    lost = eval_report(followed, RANDOM, ATTENTION, "images held back")
    assert "deletion worse by" in lost.sentences[-1]


def test_shuffling_depends_on_the_seed_only(planted: tuple[CaptionModel, list[Example]]) -> None:
    _, examples = planted
    order = [example.image for example in shuffled(examples, 3)]
    assert order == [example.image for example in shuffled(examples, 3)]
    assert sorted(order) == list(range(8))
    assert order != [example.image for example in shuffled(examples, 4)]


def test_a_map_that_was_measured_on_no_word_has_no_advantage() -> None:
    measured_on_none = MapResult(ATTENTION, {}, {}, {}).as_json()
    assert (measured_on_none["words"], measured_on_none["advantage"]) == (0, None)
