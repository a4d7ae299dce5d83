"""What metrics.json of explain and faithful holds."""

from __future__ import annotations

from msgspec import Struct, field

from captune.images.find import Skipped
from captune.json_yaml import Count, Number
from captune.runs.metrics import Metrics
from captune.runs.records import Interval


class MapChoice(Struct, frozen=True):
    """How maps were made."""

    method: str
    layer: int | None
    head: int | str | None


class ExplainMetrics(Metrics, frozen=True):
    """Maps of images."""

    words: Count
    map: MapChoice
    marks: dict[str, Count]
    skipped: list[Skipped] = field(default_factory=list)


class MapRow(Struct, frozen=True):
    """A map of a leaderboard with its figures."""

    method: str
    layer: int | None
    head: int | str | None
    words: Count
    insertion: Number | None = None
    deletion: Number | None = None
    comprehensiveness: Number | None = None
    sufficiency: Number | None = None
    pointing: Number | None = None
    pointing_centre: Number | None = None
    overlap: Number | None = None
    insertion_interval: Interval | None = None
    deletion_interval: Interval | None = None
    comprehensiveness_interval: Interval | None = None
    sufficiency_interval: Interval | None = None
    pointing_interval: Interval | None = None
    overlap_interval: Interval | None = None
    advantage: Number | None = None


class Verdict(Struct, frozen=True):
    """Of a part of speech."""

    part: str
    words: Count
    answer: str


class Leaderboard(Struct, frozen=True):
    """Of one set of images and captions. measured_on: how many images, in words."""

    title: str
    rows: list[MapRow]
    verdicts: list[Verdict]
    sentences: list[str]
    measured_on: str = ""


class Sanity(Struct, frozen=True):
    """What the checks of maps came to."""

    sentences: list[str]


class Stages(Struct, frozen=True):
    """How many images a map was chosen on, and how many the leaderboards report on."""

    choosing: Count | None = None
    reporting: Count | None = None


class FaithfulMetrics(Metrics, frozen=True):
    """Leaderboards of maps. images: of all stages together."""

    default: MapChoice
    sentences: list[str]
    reports: list[Leaderboard]
    sanity: Sanity
    stages: Stages = Stages()
    skipped: list[Skipped] = field(default_factory=list)
