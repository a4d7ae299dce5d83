"""metrics.json of what was measured of captions and maps. See `runs.kinds` for how it is used.

Kinds: captioners, score, compare, explain, faithful.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from captune.images.find import Skipped
from captune.json_yaml import Count, Finite, Share, require
from captune.runs.metrics import AgainstBest, Metrics
from captune.runs.records import Interval, OpenInterval, known_ends


class MetricFigure(Struct, frozen=True):
    """A metric over all images. recipe: all that decides the figure."""

    name: str | None
    corpus: Finite | None
    interval: OpenInterval | None
    recipe: dict[str, Any]

    @property
    def ends(self) -> Interval | None:
        """The interval, where both ends of it are known."""
        return known_ends(self.interval)


class SideFigure(Struct, frozen=True):
    """A metric over the captions of one side."""

    corpus: Finite
    interval: Interval | None


class CaptionerFigures(Struct, frozen=True):
    """What one of several captioners, or files, came to; memory is a GPU's or the process's."""

    spec: str
    images: Count
    words_mean: Finite
    ended: Count | None = None
    images_per_second: Finite | None = None
    peak_bytes: Count | None = None
    scores: dict[str, SideFigure] = {}


class CaptionersMetrics(Metrics, frozen=True, kw_only=True):
    """Captioners, or files of captions, over the same images: those that each of them described.

    alike: images of which all say the same. scored: those that have scores. best: by the first
    score, None without. against_best: of the others, by score. names: recipes in one line.
    """

    captioners: Annotated[dict[str, CaptionerFigures], Meta(min_length=2)]
    alike: Count
    scored: Count = 0
    best: str | None = None
    against_best: dict[str, dict[str, AgainstBest]] = field(default_factory=dict)
    verdict: list[str]
    names: dict[str, str] = field(default_factory=dict)
    recipes: Any = None
    notes: list[str] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Raises ValueError for what does not fit together."""
        require(self.best is None or self.best in self.captioners, "best is none of the captioners")
        require(self.against_best.keys() <= self.captioners.keys(), "against_best names another")
        for name, one in self.captioners.items():
            require(one.scores.keys() == self.names.keys(), f"{name} has other scores")


class AgreementPair(Struct, frozen=True):
    """Kendall's tau of two metrics."""

    metrics: tuple[str, str]
    tau: Finite | None
    interval: OpenInterval | None

    @property
    def ends(self) -> Interval | None:
        """The interval, where both ends of it are known."""
        return known_ends(self.interval)


class Agreement(Struct, frozen=True, kw_only=True):
    """How far metrics order the images alike. sentences: one per pair that disagrees."""

    images: Count | None = None
    measure: str = ""
    pairs: list[AgreementPair]
    sentences: list[str] = []


class ScoreMetrics(Metrics, frozen=True):
    """A score run. images_of: how many there are where some were left out, as --subset asks.

    inputs, options, versions: what `captune verify` computes it again from.
    """

    metrics: Annotated[dict[str, MetricFigure], Meta(min_length=1)]
    images_of: Count | None = None
    agreement: Agreement | None = None
    notes: list[str] = field(default_factory=list)
    inputs: Any = None
    options: Any = None
    versions: Any = None


class Better(Struct, frozen=True):
    """Images by the side that scores higher."""

    b_better: Count
    a_better: Count
    equal: Count


ComparisonFinding = Literal["same", "A", "B", "unsettled", "unseen", "unknown"]


class ComparedMetric(Struct, frozen=True, kw_only=True):
    """A metric over both sides.

    name: the recipe in one line, or both where A's and B's differ.
    difference: of the corpus figures, B - A, with its 95 % interval; None for one image.
    p: two-sided, of swapping A and B by a coin an image; p_holm: raised for all metrics compared.
    effect_size: Cohen's d_z, only of metrics whose corpus figure is a mean over images.
    images: by their own scores.
    detectable_difference: the smallest true difference that four of five such samples would show
    (two-sided, 5 %).
    finding: "A" or "B" is better; "unsettled": luck alone is unlikely, but not by the rule;
    "unseen": no difference; "same": every image scores the same; "unknown": one image.
    """

    name: str
    a: SideFigure
    b: SideFigure
    difference: Finite
    interval: Interval | None
    p: Finite | None
    p_holm: Finite | None
    effect_size: Finite | None
    images: Better
    share_b_better: Share | None = None
    detectable_difference: Finite | None
    finding: ComparisonFinding

    @property
    def digits(self) -> int:
        """Decimals that the interval's width leaves meaning in: 3 to 6."""
        half = (self.interval.high - self.interval.low) / 2 if self.interval else 0.0
        return 3 if half <= 0 else min(6, max(3, 1 - math.floor(math.log10(half))))


class CaptionScore(Struct, frozen=True):
    """A caption with one score."""

    caption: str
    score: Finite


class ImageDifference(Struct, frozen=True):
    """An image whose two captions score differently; difference is B - A."""

    image: str
    path: str | None
    difference: Finite
    a: CaptionScore
    b: CaptionScore
    references: list[str]


class LargestDifferences(Struct, frozen=True):
    """The images where each side is furthest ahead, furthest first."""

    b_better: list[ImageDifference]
    a_better: list[ImageDifference]


class CompareMetrics(Metrics, frozen=True, kw_only=True):
    """A comparison. images_of: as of a score.

    inputs, options, versions: what `captune verify` computes it again from.
    """

    a: str
    b: str
    images_of: Count | None = None
    changed_captions: Count | None = None
    metrics: Annotated[dict[str, ComparedMetric], Meta(min_length=1)]
    verdicts: dict[str, str]
    contradiction: str | None = None
    verdict: list[str]
    differences: dict[str, LargestDifferences]
    recipes: Any = None
    recipes_b: Any = None
    notes: list[str] = field(default_factory=list)
    inputs: Any = None
    options: Any = None
    versions: Any = None

    def __post_init__(self) -> None:
        for name in ("verdicts", "differences"):
            require(
                getattr(self, name).keys() == self.metrics.keys(), f"{name} is of other metrics"
            )


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
    insertion: Finite | None = None
    deletion: Finite | None = None
    comprehensiveness: Finite | None = None
    sufficiency: Finite | None = None
    pointing: Finite | None = None
    pointing_centre: Finite | None = None
    overlap: Finite | None = None
    insertion_interval: Interval | None = None
    deletion_interval: Interval | None = None
    comprehensiveness_interval: Interval | None = None
    sufficiency_interval: Interval | None = None
    pointing_interval: Interval | None = None
    overlap_interval: Interval | None = None
    advantage: Finite | None = None


class Verdict(Struct, frozen=True):
    """Of a part of speech."""

    part: str
    words: Count
    answer: str


class MapReport(Struct, frozen=True):
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
    reports: list[MapReport]
    sanity: Sanity
    stages: Stages = Stages()
    skipped: list[Skipped] = field(default_factory=list)
