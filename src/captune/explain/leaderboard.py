"""Which map of a captioner deserves belief? Methods x layers x heads, in two stages.

Screening: every map of every method, by one mask a word and by what people drew. Then the best of
them, and the raw attention of the last layer beside, by whole curves; the best by these is the
default map. Choosing is done on one set of photos, reporting on another.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from torch import Tensor

from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.explain.cases import Case
from captune.explain.faithfulness import Scoring, ends_of
from captune.explain.judging import Judge
from captune.explain.methods import Choice, map_method, method_names
from captune.explain.planning import Costs, Following
from captune.explain.rows import Row
from captune.explain.tally import CENTRE, POINTING, RANDOM, MapName, Tally

FOLLOWED = 6  # maps that get whole curves, besides the baseline
REPORTED = 3  # of them, on the photos held back: see `reported`
TIMED = 3  # photos that the estimate is made from: captions differ in their words
SLOW = ("occlusion", "pixel-occlusion")
# how places are hidden from the caption of a case
ScoringOf = Callable[[Case], Scoring]
Say = Callable[[str], None]


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
    photos: Mapping[str, int],
    scoring_of: ScoringOf,
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> Tally:
    """Every map on as many cases as `photos` gives its method, the first ones."""
    tally = Tally()
    for number, case in enumerate(cases):
        judge = Judge(case, scoring_of(case), tally)
        if judge.words:
            judge.screen_controls()
            for name in contest.methods:
                if number < photos[name]:
                    judge.screen(judge.maps_of(captioner, name))
        advance(1)
    return tally


def follow(
    captioner: Captioner,
    cases: Sequence[Case],
    names: Sequence[MapName],
    scoring_of: ScoringOf,
    *,
    curves: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Tally:
    """Whole curves of these maps on the first `curves` cases (None: on all).

    The others are only compared with what people drew, which takes no masks.
    """
    tally = Tally()
    for number, case in enumerate(cases):
        whole = curves is None or number < curves
        if whole or case.targets:
            judge = Judge(case, scoring_of(case), tally, seen=whole)
            _follow(judge, captioner, names) if whole else _point(judge, captioner, names)
        advance(1)
    return tally


def _follow(judge: Judge, captioner: Captioner, names: Sequence[MapName]) -> None:
    if judge.words:
        judge.follow_controls()
        judge.follow(maps_by_name(judge, captioner, names))


def _point(judge: Judge, captioner: Captioner, names: Sequence[MapName]) -> None:
    judge.compare_controls()
    judge.compare_with_people(maps_by_name(judge, captioner, names))


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


def costs_of(
    captioner: Captioner,
    cases: Sequence[Case],
    contest: Contest,
    scoring_of: ScoringOf,
    strict_of: ScoringOf | None = None,
) -> Costs:
    """Seconds a photo of everything, by doing it on the first cases that have something to judge.

    What is found there is thrown away.
    """
    judges = _first_judges(cases, scoring_of)
    if not judges:
        raise UserError(
            f"none of the words of {len(cases):,} captions is likelier with its photo than without:"
            " this captioner does not look, and no map of it can be true"
        )
    judges[0].screen_controls()  # the first pass pays for what is set up
    n = len(judges)
    methods = {
        name: sum(_seconds(partial(_screen, judge, captioner, name)) for judge in judges) / n
        for name in contest.methods
    }
    controls = sum(
        _seconds(judge.screen_controls) + _seconds(partial(ends_of, judge.scoring))
        for judge in judges
    )
    each = sum(_seconds(judge.follow_centre) for judge in judges) / n
    random = sum(_seconds(judge.follow_controls) for judge in judges) / n
    # which methods are followed is not known yet: as if the slowest were among them
    making = sorted(methods.values())
    choosing = Following(random + FOLLOWED * each + sum(making[-FOLLOWED:]))
    pointing = sum(making) / len(making) * REPORTED
    reporting = Following(random + REPORTED * each + pointing, pointing)
    strict = 0.0
    if strict_of is not None:
        hard = Judge(judges[0].case, strict_of(judges[0].case), Tally())
        strict = _seconds(hard.follow_controls) + 2 * _seconds(hard.follow_centre)
    return Costs(controls / n, methods, choosing, reporting, strict)


def following_of(
    captioner: Captioner,
    cases: Sequence[Case],
    names: Sequence[MapName],
    scoring_of: ScoringOf,
) -> Following:
    """Seconds a photo of these maps, as in `costs_of`."""
    judges = _first_judges(cases, scoring_of)
    n = max(1, len(judges))
    making = masks = 0.0
    for judge in judges:
        began = time.perf_counter()
        maps = maps_by_name(judge, captioner, names)
        making += time.perf_counter() - began
        masks += _seconds(judge.follow_controls) + _seconds(partial(judge.follow, maps))
    return Following((making + masks) / n, making / n)


def _first_judges(cases: Sequence[Case], scoring_of: ScoringOf) -> list[Judge]:
    """Of the first cases with a word to judge."""
    tally = Tally()
    judged = (Judge(case, scoring_of(case), tally) for case in cases)
    return list(islice((judge for judge in judged if judge.seen), TIMED))


def _screen(judge: Judge, captioner: Captioner, method: str) -> None:
    judge.screen(judge.maps_of(captioner, method))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
