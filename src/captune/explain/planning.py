"""How many photos each stage of the leaderboard takes, so that all of it ends in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from captune.wording import duration

# of the time that there is: screening, curves to choose by, curves to report, pixels and sanity
SCREENING, CHOOSING, REPORTING, STRICT = 0.4, 0.2, 0.3, 0.1
LEAST = 8  # photos that each stage has, whatever the time: fewer say nothing


@dataclass(frozen=True)
class Costs:
    """Seconds a photo. methods: of the maps and masks of each; the rest of a stage's whole."""

    controls: float
    methods: Mapping[str, float]
    curves: float
    strict: float = 0.0
    sanity: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Photos of each stage, and how long all of it takes, about."""

    methods: Mapping[str, int]
    choosing: int
    reporting: int
    strict: int
    seconds: float

    def sentence(self, maps: int, followed: int) -> str:
        """What the user is told before it begins."""
        most = max(self.methods.values())
        fewer = {name: photos for name, photos in self.methods.items() if photos < most}
        named = ", ".join(f"{name} on {photos}" for name, photos in fewer.items())
        told = f"screening {maps} maps of {len(self.methods)} methods on {most} photos"
        told += f" ({named})" if named else ""
        told += f", then curves of {followed} on {self.choosing}"
        told += f" and on {self.reporting} to report" if self.reporting else ""
        return f"about {duration(self.seconds)}: {told}"


def plan(costs: Costs, *, photos: int, reported: int, times: int, seconds: float) -> Plan:
    """Spend `seconds`. reported: photos to report on; times: captions that each is reported with.

    Methods share the time of screening evenly; what a quick one does not need goes to the slow.
    """
    left = SCREENING * seconds - costs.controls * photos
    methods: dict[str, int] = {}
    for place, name in enumerate(sorted(costs.methods, key=lambda name: costs.methods[name])):
        fair = max(left, 0.0) / (len(costs.methods) - place)
        methods[name] = _affordable(fair, costs.methods[name], photos)
        left -= methods[name] * costs.methods[name]
    choosing = _affordable(CHOOSING * seconds, costs.curves, photos)
    reporting = _affordable(REPORTING * seconds, costs.curves * times, reported)
    last = reported or photos
    strict = _affordable(STRICT * seconds - costs.sanity, costs.strict, last)
    whole = costs.controls * photos + sum(methods[name] * costs.methods[name] for name in methods)
    whole += choosing * costs.curves + reporting * times * costs.curves
    whole += strict * costs.strict + costs.sanity
    return Plan({name: methods[name] for name in costs.methods}, choosing, reporting, strict, whole)


def _affordable(seconds: float, each: float, photos: int) -> int:
    if each <= 0:
        return photos
    return min(photos, max(LEAST, int(seconds / each)))
