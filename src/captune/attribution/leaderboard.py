"""Which map of a captioner deserves belief? Methods x layers x heads, in two stages.

Screening: every map of every method, by one mask a word and by what people drew. Then the best of
them, and the raw attention of the last layer beside, by whole curves; the best by these is the
default map. Choosing is done on one set of images, reporting on another.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from captune.attribution.cases import Case
from captune.attribution.faithfulness import Scoring
from captune.attribution.measure import CENTRE, POINTING, RANDOM, Judge, MapName, Tally
from captune.attribution.methods import Choice, map_method, method_names
from captune.attribution.results import Row
from captune.captioning.model import Captioner
from captune.errors import UserError

FOLLOWED = 6  # maps that get whole curves, besides the baseline
LEAST = 8  # images that each stage has, whatever the time: fewer say nothing
SLOW = ("occlusion", "pixel-occlusion")
# how places are hidden from the caption of a case
ScoringOf = Callable[[Case], Scoring]


@dataclass(frozen=True)
class Contest:
    """What is compared: maps by method; baseline: the original report's, where there is one."""

    methods: dict[str, list[Choice]]
    baseline: MapName | None

    @property
    def maps(self) -> int:
        """How many there are."""
        return sum(map(len, self.methods.values()))


def contest_of(captioner: Captioner, *, quick: bool = False) -> Contest:
    """All maps that there are for this captioner; quick: without those that occlude.

    The baseline is the raw attention of the last layer, the mean over its heads.
    Raises UserError where there is none at all.
    """
    methods: dict[str, list[Choice]] = {}
    for name in method_names():
        if quick and name in SLOW:
            continue
        try:
            methods[name] = map_method(name).choices(captioner)
        except UserError:  # the method has none for such a bridge
            continue
    if not methods:
        raise UserError("no method makes a map for this captioner")
    raw = methods.get("attention")
    return Contest(methods, MapName("attention", raw[0]) if raw else None)


def screen(
    captioner: Captioner,
    cases: Sequence[Case],
    contest: Contest,
    scoring_of: ScoringOf,
    *,
    until: float = math.inf,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[Tally, dict[str, int]]:
    """Every map on the first cases until the time is over; on how many cases, by method.

    The methods share the time evenly, and what a quick one leaves goes to the slow. until: by
    `time.monotonic`; every method has LEAST cases all the same. advance: is told of each case of
    each method.
    Raises UserError where the captioner makes no word likelier by its image.
    """
    tally = Tally()
    judges: list[Judge] = []
    spent = dict.fromkeys(contest.methods, 0.0)
    done = dict.fromkeys(contest.methods, 0)
    while left := [name for name in spent if done[name] < len(cases)]:
        if time.monotonic() > until:
            left = [name for name in left if done[name] < LEAST]
            if not left:
                break
        name = min(left, key=lambda one: spent[one])
        number = done[name]
        if number == len(judges):
            judges.append(Judge(cases[number], scoring_of(cases[number]), tally))
            judges[number].screen_controls()
        judge, began = judges[number], time.monotonic()
        if judge.words:
            judge.screen(judge.maps_of(captioner, name))
        spent[name] += time.monotonic() - began
        done[name] += 1
        advance(1)
    if not any(judge.seen for judge in judges):
        raise UserError(
            f"no word of {len(judges):,} captions is more probable with its image than without it:"
            " this captioner ignores its images, so no map of it can be faithful"
        )
    return tally, done


@dataclass(frozen=True)
class Followed:
    """tallies: of each set of cases. curves, boxes: images that had curves, and people's boxes."""

    tallies: list[Tally]
    curves: int
    boxes: int


def follow(
    captioner: Captioner,
    sets: Sequence[Sequence[Case]],
    names: Sequence[MapName],
    scoring_of: ScoringOf,
    *,
    until: float = math.inf,
    boxes_after: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> Followed:
    """Whole curves of these maps, image after image, until the time is over.

    sets: of several captions of the same images; an image has curves in all of them or in none.
    until: as in `screen`. boxes_after: keep up to half of the time for further images, which are
    only compared with what people drew: that takes no masks.
    """
    by_image = [{case.image: case for case in cases} for cases in sets]
    images = list(dict.fromkeys(case.image for cases in sets for case in cases))
    drawn = {case.image for cases in sets for case in cases if case.targets} if boxes_after else ()
    tallies = [Tally() for _ in sets]
    began, making, curves, boxes = time.monotonic(), 0.0, 0, 0
    whole = True
    for number, image in enumerate(images):
        now = time.monotonic()
        kept_s = min((until - began) / 2, making / max(1, curves) * max(0, len(drawn) - boxes))
        whole = whole and (number < LEAST or now + kept_s < until)
        if not whole and (now > until or not boxes_after):
            break
        found = [(known[image], t) for known, t in zip(by_image, tallies, strict=True)
                 if image in known]  # fmt: skip
        for case, tally in found:
            if whole or case.targets:
                judge = Judge(case, scoring_of(case), tally, seen=whole)
                making += _judge(judge, captioner, names, whole=whole)
        curves += whole
        boxes += any(case.targets for case, _ in found)
        advance(1)
    return Followed(tallies, curves, boxes)


def _judge(judge: Judge, captioner: Captioner, names: Sequence[MapName], *, whole: bool) -> float:
    """Seconds that the making of the maps took."""
    began = time.monotonic()
    maps = maps_by_name(judge, captioner, names) if judge.words else {}
    seconds = time.monotonic() - began
    if whole and judge.words:
        judge.follow_controls()
        judge.follow(maps)
    elif judge.words:
        judge.compare_controls()
        judge.compare_with_people(maps)
    return seconds


def maps_by_name(
    judge: Judge, captioner: Captioner, names: Sequence[MapName]
) -> dict[MapName, Tensor]:
    """The maps of these names, those of one method at once."""
    methods: dict[str, list[Choice]] = {}
    for name in names:
        methods.setdefault(name.method, []).append(name.choice)
    found: dict[MapName, Tensor] = {}
    for method, choices in methods.items():
        found |= judge.maps_of(captioner, method, choices)
    return {name: found[name] for name in names}


def chosen(rows: Sequence[Row], baseline: MapName | None, count: int = FOLLOWED) -> list[MapName]:
    """The maps of the first rows, and the baseline where it is none of them."""
    maps = [row.name for row in rows if row.random or row.centre]
    first = [name for name in maps if name not in (RANDOM, CENTRE)][:count]
    return first if baseline is None or baseline in first else [*first, baseline]


def reported(rows: Sequence[Row], baseline: MapName | None) -> list[MapName]:
    """Of the rows that were chosen by, the maps to report on: the best, that which points best at
    what people drew, and the baseline."""
    maps = [row for row in rows if row.name not in (RANDOM, CENTRE)]
    pointing = [row for row in maps if POINTING in row.figures]
    names = [maps[0].name]
    if pointing:
        names.append(max(pointing, key=lambda row: row.figures[POINTING].value).name)
    return list(dict.fromkeys([*names, *([baseline] if baseline else [])]))


def shuffled(cases: Sequence[Case], seed: int) -> list[Case]:
    """In a random order that depends on the seed only: what takes the first few takes a sample."""
    order = list(cases)
    random.Random(seed).shuffle(order)  # noqa: S311
    return order
