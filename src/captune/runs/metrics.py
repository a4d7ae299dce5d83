"""metrics.json, by kind of run. See `runs.kinds` for how they are used."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from captune.images.find import Skipped
from captune.json_yaml import MOST, Count, Number, Share, require
from captune.runs.records import Interval, OpenInterval, known_ends
from captune.runs.reliability import PeopleAgreement

Epoch = Annotated[float, Meta(ge=0, le=MOST)]


class Metrics(Struct, frozen=True):
    """What every metrics.json has."""

    images: Count


class Sharded(Struct, frozen=True):
    """The answers stand in shards, and the records are a sample of them.

    rows: of all shards that are done; errors: of them, without an answer; reasons: the most
    frequent ones. rate: images per second of one worker.
    """

    place: str
    shards: Count
    shards_of: Count
    rows: Count
    errors: Count
    reasons: dict[str, Count] = {}
    rate: Number | None = None


class PromptAccuracy(Struct, frozen=True):
    """A prompt of a classification; without a truth it has no accuracy."""

    template: str | None
    accuracy: Share | None
    interval: Interval | None


class ClassifyMetrics(Metrics, frozen=True):
    """A classification."""

    labels: Annotated[int, Meta(ge=1, le=int(MOST))]
    scored: Count
    correct: Count
    prompts: Annotated[list[PromptAccuracy], Meta(min_length=1)]
    activation: str
    skipped: list[Skipped] = []
    sharded: Sharded | None = None


class MetricFigure(Struct, frozen=True):
    """A metric over all images. recipe: all that decides the figure."""

    name: str | None
    corpus: Number | None
    interval: OpenInterval | None
    recipe: dict[str, Any]

    @property
    def ends(self) -> Interval | None:
        """The interval, where both ends of it are known."""
        return known_ends(self.interval)


class TunedFigure(Struct, frozen=True):
    """A metric over all validation images. recipe: all that decides the figure."""

    name: str
    corpus: Number
    interval: Interval | None
    recipe: dict[str, Any]


class Finding(Struct, frozen=True, omit_defaults=True):
    """A check of a training.

    figure: the number that the sentence rests on. wrong: whether it is a warning. is_fatal: whether
    no score of such a captioner means anything: its captions repeat or are blind.
    """

    about: str
    figure: Number
    sentence: str
    wrong: bool
    is_fatal: bool = False


class History(Struct, frozen=True):
    """How a training went: (epoch, loss) as logged, and the figures of each epoch."""

    losses: list[tuple[Epoch, Number | None]]
    epochs: list[dict[str, Number | None]]
    stopped_early: bool

    def __post_init__(self) -> None:
        """Raises ValueError for an epoch that has no number."""
        for i, epoch in enumerate(self.epochs):
            number = epoch.get("epoch")
            require(number is not None and number >= 0, f"epochs[{i}].epoch is not a number from 0")


class RerankWeights(Struct, frozen=True):
    """Of a candidate's score: what each thing known of it counts."""

    mean_log_probability: Number
    match: Number = 0.0
    neighbours: Number = 0.0


class RerankFigures(Struct, frozen=True):
    """CIDEr-D (document frequencies of coco-val2017) and BLEU-4 on validation images.

    first: of the first beam. chosen: of what weights choose that were fitted on other images.
    best: of the best candidate of each. interval: 95 %, of chosen less first, over images.
    """

    images: Count
    first: Number
    chosen: Number
    best: Number
    interval: Interval
    bleu_4_first: Number
    bleu_4_chosen: Number


class Reranking(Struct, frozen=True, omit_defaults=True):
    """How a captioner chooses among candidates (`captioning.rerank`).

    model, weights_id: what `match` is computed by; the weights hold for these alone.
    figures: None where the weights were not fitted.
    """

    evidence: Literal["match", "neighbours", "both"]
    candidates: Annotated[int, Meta(ge=1, le=64)]
    weights: RerankWeights
    model: str | None = None
    weights_id: str | None = None
    figures: RerankFigures | None = None


QUOTED = ("cider", "clipscore", "bleu_4")  # a tune is compared by one of them


class Tuned(Struct, frozen=True, omit_defaults=True):
    """What came of one method.

    trained: parameters, by part ("bridge.layers", ...). val_loss: of the validation sample in the
    best epoch; None where it was no number. agreement, reranking: None where too few images tell;
    reranking also where it was not asked for.
    """

    method: str
    trained: Annotated[dict[str, Count], Meta(min_length=1)]
    scores: dict[str, TunedFigure]
    best_epoch: Count
    val_loss: Number | None
    seconds: Number
    findings: list[Finding]
    history: History
    images: Count
    agreement: PeopleAgreement | None = None
    reranking: Reranking | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a method without a score that is quoted."""
        require(any(id in self.scores for id in QUOTED), f"scores has none of {', '.join(QUOTED)}")

    @property
    def parameters(self) -> int:
        """All that was trained."""
        return sum(self.trained.values())

    @property
    def unusable(self) -> list[str]:
        """Why no score of it means anything, a sentence each."""
        return [finding.sentence for finding in self.findings if finding.is_fatal]


class CurvePoint(Struct, frozen=True):
    """A tune on some of the images.

    difference, interval: by the metric of the curve, of the same validation images, to the point
    before; None of the first one.
    """

    images: Count
    scores: dict[str, TunedFigure]
    usable: bool
    difference: Number | None
    interval: Interval | None


class Curve(Struct, frozen=True):
    """The score against the number of training images. epochs: of the largest point; all have as
    many updates."""

    method: str
    metric: str
    epochs: Count
    points: Annotated[list[CurvePoint], Meta(min_length=2)]
    sentence: str

    def __post_init__(self) -> None:
        """Raises ValueError where a point has no score of the curve's metric."""
        require(all(self.metric in one.scores for one in self.points), "a point has no score")


class AgainstBest(Struct, frozen=True):
    """A method or captioner less the best one, by a score of the same images."""

    difference: Number
    interval: Interval
    p_holm: Share


class TuneMetrics(Metrics, frozen=True):
    """A tune of several methods, or one of its methods (`tuned`).

    warning: that so few updates cannot work, as it was said before the training.
    """

    tuned: Tuned | None = None
    methods: list[Tuned] = []
    best: str | None = None
    select: str | None = None
    trained_on: Count | None = None
    warning: str | None = None
    curve: Curve | None = None
    against_best: dict[str, AgainstBest] = {}
    skipped: list[Skipped] = []

    def __post_init__(self) -> None:
        if self.tuned is not None:
            return
        names = [one.method for one in self.methods]
        require(self.best in names, "best is none of the methods")
        require(len(set(names)) == len(names), "two methods have one name")
        first = self.methods[0].scores.keys()
        for i, one in enumerate(self.methods):
            require(one.scores.keys() == first, f"methods[{i}].scores are of other metrics")


class CaptionMetrics(Metrics, frozen=True):
    """A captioning. agreement: of its captioner; agreement_mean: of the captions.

    flagged: captions whose chance is below `flag_below`. reranking: how they were chosen.
    """

    ended: Count
    words_mean: Number
    skipped: list[Skipped] = []
    agreement: PeopleAgreement | None = None
    agreement_mean: Share | None = None
    flag_below: Share | None = None
    flagged: Count | None = None
    reranking: Reranking | None = None
    sharded: Sharded | None = None


class SideFigure(Struct, frozen=True):
    """A metric over the captions of one side."""

    corpus: Number
    interval: Interval | None


class CaptionerFigures(Struct, frozen=True):
    """What one of several captioners, or files, came to; memory is a GPU's or the process's."""

    spec: str
    images: Count
    words_mean: Number
    ended: Count | None = None
    images_per_second: Number | None = None
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
    against_best: dict[str, dict[str, AgainstBest]] = {}
    verdict: list[str]
    names: dict[str, str] = {}
    recipes: Any = None
    notes: list[str] = []
    inputs: dict[str, Any] = {}
    skipped: list[Skipped] = []

    def __post_init__(self) -> None:
        """Raises ValueError for what does not fit together."""
        require(self.best is None or self.best in self.captioners, "best is none of the captioners")
        require(self.against_best.keys() <= self.captioners.keys(), "against_best names another")
        for name, one in self.captioners.items():
            require(one.scores.keys() == self.names.keys(), f"{name} has other scores")


class AgreementPair(Struct, frozen=True):
    """Kendall's tau of two metrics."""

    metrics: tuple[str, str]
    tau: Number | None
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
    notes: list[str] = []
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
    difference: Number
    interval: Interval | None
    p: Number | None
    p_holm: Number | None
    effect_size: Number | None
    images: Better
    share_b_better: Share | None = None
    detectable_difference: Number | None
    finding: ComparisonFinding

    @property
    def digits(self) -> int:
        """Decimals that the interval's width leaves meaning in: 3 to 6."""
        half = (self.interval.high - self.interval.low) / 2 if self.interval else 0.0
        return 3 if half <= 0 else min(6, max(3, 1 - math.floor(math.log10(half))))


class CaptionScore(Struct, frozen=True):
    """A caption with one score."""

    caption: str
    score: Number


class ImageDifference(Struct, frozen=True):
    """An image whose two captions score differently; difference is B - A."""

    image: str
    path: str | None
    difference: Number
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
    notes: list[str] = []
    inputs: Any = None
    options: Any = None
    versions: Any = None

    def __post_init__(self) -> None:
        for name in ("verdicts", "differences"):
            require(
                getattr(self, name).keys() == self.metrics.keys(), f"{name} is of other metrics"
            )
