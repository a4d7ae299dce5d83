"""How many photos each stage of the leaderboard takes, so that all of it ends in time.

All of it is planned before it begins, from what a few photos took. When a stage is over it is known
which maps go on and how much time is left, and the next stages are planned again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from captune.wording import duration

# of the time that there is: screening, curves to choose by, curves to report, pixels and sanity
SCREENING, CHOOSING, REPORTING, STRICT = 0.4, 0.2, 0.3, 0.1
POINTING = 0.5  # of the reporting, at most, for photos that are only compared with people's boxes
LEAST = 8  # photos that each stage has, whatever the time: fewer say nothing


@dataclass(frozen=True)
class Following:
    """Seconds a photo of the maps that are followed.

    curves: of everything, the making of the maps included; pointing: of the making alone.
    """

    curves: float
    pointing: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Seconds a photo. methods: of the maps and masks of each, for screening.

    choosing, reporting: of the maps that are followed in either stage. strict: of the curves by
    pixels. sanity: the whole of it.
    """

    controls: float
    methods: Mapping[str, float]
    choosing: Following
    reporting: Following
    strict: float = 0.0
    sanity: float = 0.0


@dataclass(frozen=True)
class Counts:
    """Photos that there are: to choose on, to report on; pointing: the same, where there are boxes.

    times: captions that each is reported with.
    """

    choosing: int
    reporting: int = 0
    pointing: int = 0
    times: int = 1


@dataclass(frozen=True)
class Reporting:
    """Photos of the last stages, and how long they take, about.

    pointing: with people's boxes; curves are on the first `curves` of them. strict: by pixels.
    """

    curves: int
    pointing: int
    strict: int
    seconds: float

    @property
    def sentence(self) -> str:
        """Which photos, in words; empty where there are none to report on."""
        told = f"curves on {self.curves} to report" if self.curves else ""
        return told + (f", people's boxes on {self.pointing}" * (self.pointing > self.curves))


@dataclass(frozen=True)
class Plan:
    """Photos of each stage (methods: of the screening), and how long it takes, about."""

    methods: Mapping[str, int]
    choosing: int
    reporting: Reporting
    seconds: float

    def sentence(self, maps: int, followed: int) -> str:
        """What the user is told before it begins."""
        most = max(self.methods.values())
        fewer = {name: photos for name, photos in self.methods.items() if photos < most}
        named = ", ".join(f"{name} on {photos}" for name, photos in fewer.items())
        told = f"screening {maps} maps of {len(self.methods)} methods on {most} photos"
        told += f" ({named})" if named else ""
        told += f", then curves of {followed} on {self.choosing} to choose by"
        report = self.reporting.sentence
        return f"about {duration(self.seconds)}: {told}{', ' if report else ''}{report}"


def plan(costs: Costs, photos: Counts, seconds: float) -> Plan:
    """Spend `seconds`.

    Methods share the time of screening evenly; what a quick one does not need goes to the slow.
    """
    left = SCREENING * seconds - costs.controls * photos.choosing
    methods: dict[str, int] = {}
    for place, name in enumerate(sorted(costs.methods, key=lambda name: costs.methods[name])):
        fair = max(left, 0.0) / (len(costs.methods) - place)
        methods[name] = _affordable(fair, costs.methods[name], photos.choosing)
        left -= methods[name] * costs.methods[name]
    spent = costs.controls * photos.choosing
    spent += sum(methods[name] * costs.methods[name] for name in methods)
    rest = (1 - SCREENING) * seconds
    choosing = plan_choosing(costs.choosing, photos, rest)
    spent += choosing * costs.choosing.curves
    reporting = plan_reporting(costs, photos, rest - choosing * costs.choosing.curves)
    ordered = {name: methods[name] for name in costs.methods}
    return Plan(ordered, choosing, reporting, spent + reporting.seconds)


def plan_choosing(costs: Following, photos: Counts, seconds: float) -> int:
    """Photos to choose on; seconds: that are left for this and what comes after it."""
    share = CHOOSING / (CHOOSING + REPORTING + STRICT)
    return _affordable(share * seconds, costs.curves, photos.choosing)


def plan_reporting(costs: Costs, photos: Counts, seconds: float) -> Reporting:
    """Spend `seconds` on what comes after the choice."""
    each, share = costs.reporting, REPORTING / (REPORTING + STRICT)
    budget = share * seconds / photos.times
    pointing = _affordable(POINTING * budget, each.pointing, photos.pointing)
    # a photo with curves is compared with the boxes as well
    more = max(0.0, each.curves - each.pointing)
    curves = _affordable(budget - pointing * each.pointing, more, photos.reporting)
    if curves > pointing:
        curves = _affordable(budget, each.curves, photos.reporting)
    rest = (1 - share) * seconds - costs.sanity
    strict = _affordable(rest, costs.strict, photos.reporting or photos.choosing)
    spent = photos.times * (curves * each.curves + max(0, pointing - curves) * each.pointing)
    return Reporting(curves, pointing, strict, spent + strict * costs.strict + costs.sanity)


def _affordable(seconds: float, each: float, photos: int) -> int:
    if each <= 0:
        return photos
    return min(photos, max(LEAST, int(seconds / each)))
