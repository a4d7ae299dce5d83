"""How many photos each stage of the leaderboard takes, so that all of it ends in time.

Planned twice: before it begins, from what a few photos took, and once more after the screening,
when it is known which maps are followed and how much time is left.
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
    """Seconds a photo of the maps that are followed: curves, maps included; pointing: maps alone.

    strict: of the curves by pixels. sanity: the whole of it.
    """

    curves: float
    pointing: float = 0.0
    strict: float = 0.0
    sanity: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Seconds a photo. methods: of the maps and masks of each."""

    controls: float
    methods: Mapping[str, float]
    following: Following


@dataclass(frozen=True)
class Counts:
    """Photos that there are: to choose on, to report on, those of them whose boxes are known.

    times: captions that each is reported with.
    """

    choosing: int
    reporting: int = 0
    pointing: int = 0
    times: int = 1


@dataclass(frozen=True)
class Stages:
    """Photos of the stages after the screening, and how long they take, about.

    pointing: photos to report people's boxes on; curves are on the first `reporting` of them.
    """

    choosing: int
    reporting: int
    pointing: int
    strict: int
    seconds: float

    @property
    def sentence(self) -> str:
        """Which photos, in words."""
        told = f"curves on {self.choosing}"
        if self.reporting:
            told += f" to choose by and on {self.reporting} to report"
        if self.pointing > self.reporting:
            told += f", people's boxes on {self.pointing}"
        return told


@dataclass(frozen=True)
class Plan:
    """Photos of each method's screening, what comes then, and how long all of it takes, about."""

    methods: Mapping[str, int]
    stages: Stages
    seconds: float

    def sentence(self, maps: int, followed: int) -> str:
        """What the user is told before it begins."""
        most = max(self.methods.values())
        fewer = {name: photos for name, photos in self.methods.items() if photos < most}
        named = ", ".join(f"{name} on {photos}" for name, photos in fewer.items())
        told = f"screening {maps} maps of {len(self.methods)} methods on {most} photos"
        told += f" ({named})" if named else ""
        return f"about {duration(self.seconds)}: {told}, then of {followed} {self.stages.sentence}"


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
    screening = costs.controls * photos.choosing
    screening += sum(methods[name] * costs.methods[name] for name in methods)
    stages = plan_stages(costs.following, photos, (1 - SCREENING) * seconds)
    ordered = {name: methods[name] for name in costs.methods}
    return Plan(ordered, stages, screening + stages.seconds)


def plan_stages(costs: Following, photos: Counts, seconds: float) -> Stages:
    """Spend `seconds` on what comes after the screening."""
    whole = max(0.0, seconds) / (CHOOSING + REPORTING + STRICT)
    choosing = _affordable(CHOOSING * whole, costs.curves, photos.choosing)
    budget = REPORTING * whole / photos.times
    pointing = _affordable(POINTING * budget, costs.pointing, photos.pointing)
    # a photo with curves is compared with the boxes as well
    curves = costs.curves - costs.pointing
    reporting = _affordable(budget - pointing * costs.pointing, curves, photos.reporting)
    pointing = max(pointing, reporting)
    strict = _affordable(
        STRICT * whole - costs.sanity, costs.strict, photos.reporting or photos.choosing
    )
    spent = choosing * costs.curves + strict * costs.strict + costs.sanity
    spent += photos.times * (reporting * curves + pointing * costs.pointing)
    return Stages(choosing, reporting, pointing, strict, spent)


def _affordable(seconds: float, each: float, photos: int) -> int:
    if each <= 0:
        return photos
    return min(photos, max(LEAST, int(seconds / each)))
