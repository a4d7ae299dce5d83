"""metrics.json of what models did: classify, prompts, tune and caption. See `runs.kinds`.

That of what was measured of captions and maps is in `runs.evaluation`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from captune.images.find import Skipped
from captune.json_yaml import MOST, Count, Finite, Share, require
from captune.runs.records import Interval

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
    rate: Finite | None = None


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


class ReliabilityBin(Struct, frozen=True):
    """Images whose confidence lies in (low, high]; confidence and accuracy are their means."""

    low: Share
    high: Share
    count: Count
    confidence: Share
    accuracy: Share
    correct: Count


class Reliability(Struct, frozen=True):
    """How far confidence and accuracy lie apart on one set of images.

    ece: expected calibration error over `bins`, 15 of equal width: the mean over images of the
        distance between the confidence and the accuracy of their bin, 0..1.
    adaptive_ece: the same over 15 bins of equally many images, which no crowded bin dominates.
    ece_floor: the `ece` that a perfectly calibrated model with these very confidences shows by
        chance on this many images. Few images make it large; an ECE near it is no evidence.
    nll: mean negative log likelihood of the truth, in nats (see `zeroshot.calibration`).
        None where a run holds none.
    """

    images: Count
    ece: Finite
    adaptive_ece: Finite
    ece_floor: Finite
    nll: Finite | None
    mean_confidence: Finite
    accuracy: Finite
    bins: tuple[ReliabilityBin, ...]


class Calibration(Struct, frozen=True):
    """The model's probabilities as they are, and after one temperature was fitted to them.

    temperature: fitted on all images; the one to use on new ones. Above 1 the model was too sure of
        itself, below 1 not sure enough. An end of the range 0.01..100 means that none fits (every
        image right, or the scores say nothing). None for fewer than 10 images.
    scaled: measured by cross-fitting: the images are dealt into 5 parts, and each part is scaled by
        the temperature of the other four. Fitted and measured on the same images it would flatter.
    """

    raw: Reliability
    temperature: Finite | None = None
    scaled: Reliability | None = None

    def __post_init__(self) -> None:
        require((self.scaled is None) or (self.temperature is not None), "it has no temperature")


class AgreementWeights(Struct, frozen=True, omit_defaults=True):
    """Of the log-odds that people agree: a constant, and for each thing known of a caption.

    mean_log_probability: of its tokens. lowest_word: the log-probability of its least likely word.
    words: how many it has. match, neighbours: what it was chosen by (`captioning.rerank`).
    """

    constant: Finite
    mean_log_probability: Finite
    lowest_word: Finite
    words: Finite
    match: Finite = 0.0
    neighbours: Finite = 0.0


class PeopleAgreement(Struct, frozen=True, omit_defaults=True):
    """The chance that people would agree with a caption, as `captioning.agreement` fits it.

    beam: width with which the captions were written.
    weights: of any caption. chosen: of one that was chosen by what these weights ask for; where
        there are some, all figures are of them.
    reliability: of chances that were fitted on other images; its accuracy is the share of captions
        that people agreed with. ece_interval: 95 %, of its ECE.
    brier: mean of (chance - agreed or not)^2; brier_of_rate: the same, had each caption the share
        as its chance.
    """

    beam: Count
    weights: AgreementWeights
    brier: Finite
    brier_of_rate: Finite
    ece_interval: Interval
    reliability: Reliability
    chosen: AgreementWeights | None = None


class PromptRow(Struct, frozen=True):
    """A prompt of a comparison; figures are of the truth, or of the best prompt, where known."""

    template: str
    same_as_first: Share
    mean_confidence: Share
    accuracy: Share | None
    accuracy_low: Finite | None
    accuracy_high: Finite | None
    top5_accuracy: Share | None
    difference: Finite | None
    difference_low: Finite | None
    difference_high: Finite | None
    gained: Count | None
    lost: Count | None
    p_value: Finite | None
    p_holm: Finite | None
    ece: Finite | None


class NegationProbe(Struct, frozen=True):
    """What happens when every prompt of a template is denied; shares are of the images.

    same_answer: images for which the denied prompts put the same class first as the plain ones.
        A model that reads "not" answers otherwise every time (with two classes or more): 0 %.
    right_answer: images whose denied prompts put the right class first: the accuracy of the denied
        template. A reader of "not" scores 0 %, a guesser 1 / classes.
    denial_wins: images for which, of the two texts "X" and "not X" for the right class X alone, the
        denied one scores higher. A reader of "not" shows 0 %, a coin 50 %.
    denial_wins_elsewhere: the same for the wrong classes, mean over images and classes, where "not
        X" is the true sentence. A reader of "not" shows 100 %; as much as in `denial_wins` means
        that the model likes or dislikes the word whatever the image shows.
    text_cosine: mean cosine between a class's plain and denied text, the distance that "not" makes;
    class_cosine: mean cosine between the plain texts of different classes, for comparison. None
        with a single class.
    Without truth, right_answer is None, and X is the class that the plain prompts put first.
    """

    template: str
    negated: str
    images: Count
    same_answer: Share
    same_answer_low: Finite
    same_answer_high: Finite
    right_answer: Share | None
    right_answer_low: Finite | None
    right_answer_high: Finite | None
    denial_wins: Share
    denial_wins_low: Finite
    denial_wins_high: Finite
    denial_wins_elsewhere: Share | None
    text_cosine: Finite
    class_cosine: Finite | None

    def interval(self, name: str) -> Interval:
        """The 95 % interval of a share that is known."""
        return Interval(getattr(self, f"{name}_low"), getattr(self, f"{name}_high"))


class ClassChange(Struct, frozen=True, kw_only=True):
    """A class that a prompt has right more or less often than the best one.

    change: images more (or fewer) right than with the best prompt. share: the same as a share of
    the images of the class, -1..1. correct: images that the prompt has right.
    """

    label: str
    images: Count
    change: Annotated[int, Meta(ge=-int(MOST), le=int(MOST))]
    share: Finite = 0.0
    correct: Count = 0


class PromptsMetrics(Metrics, frozen=True):
    """A comparison of prompts. best: the number of one, None without a truth."""

    prompts: Annotated[list[PromptRow], Meta(min_length=2)]
    best: Count | None
    negation: list[NegationProbe]
    agreement: list[list[Finite]]
    calibration: list[Calibration | None]
    class_changes: list[list[ClassChange]]
    label_names: dict[str, str] | None = None
    skipped: list[Skipped] = []

    def __post_init__(self) -> None:
        n = len(self.prompts)
        for name in ("agreement", "calibration", "class_changes"):
            require(len(getattr(self, name)) == n, f"{name} is not of the {n} prompts")
        require(all(len(row) == n for row in self.agreement), "agreement is not square")
        if self.best is None:
            return
        require(self.best < n, "best is none of the prompts")
        for i, row in enumerate(self.prompts):
            known = ("accuracy", "accuracy_low", "accuracy_high")
            against = ("difference", "difference_low", "difference_high", "gained", "lost")
            for name in (*known, *(() if i == self.best else (*against, "p_value", "p_holm"))):
                require(getattr(row, name) is not None, f"prompts[{i}].{name} is nothing")


class TunedFigure(Struct, frozen=True):
    """A metric over all validation images. recipe: all that decides the figure."""

    name: str
    corpus: Finite
    interval: Interval | None
    recipe: dict[str, Any]


class Finding(Struct, frozen=True, omit_defaults=True):
    """A check of a training.

    figure: the number that the sentence rests on. wrong: whether it is a warning. is_fatal: whether
    no score of such a captioner means anything: its captions repeat or are blind.
    """

    about: str
    figure: Finite
    sentence: str
    wrong: bool
    is_fatal: bool = False


class History(Struct, frozen=True):
    """How a training went: (epoch, loss) as logged, and the figures of each epoch."""

    losses: list[tuple[Epoch, Finite | None]]
    epochs: list[dict[str, Finite | None]]
    stopped_early: bool

    def __post_init__(self) -> None:
        """Raises ValueError for an epoch that has no number."""
        for i, epoch in enumerate(self.epochs):
            number = epoch.get("epoch")
            require(number is not None and number >= 0, f"epochs[{i}].epoch is not a number from 0")


class RerankWeights(Struct, frozen=True):
    """Of a candidate's score: what each thing known of it counts."""

    mean_log_probability: Finite
    match: Finite = 0.0
    neighbours: Finite = 0.0


RERANK_DF = "coco-val2017"  # document frequencies of the CIDEr-D that choosing is measured by


class RerankFigures(Struct, frozen=True):
    """CIDEr-D (document frequencies of RERANK_DF) and BLEU-4 on validation images.

    first: of the first beam. chosen: of what weights choose that were fitted on other images.
    best: of the best candidate of each. interval: 95 %, of chosen less first, over images.
    """

    images: Count
    first: Finite
    chosen: Finite
    best: Finite
    interval: Interval
    bleu_4_first: Finite
    bleu_4_chosen: Finite


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
    val_loss: Finite | None
    seconds: Finite
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
    difference: Finite | None
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

    difference: Finite
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

    @property
    def every(self) -> list[Tuned]:
        """All methods, or the one that the run is about."""
        return [self.tuned] if self.tuned else self.methods


class CaptionMetrics(Metrics, frozen=True):
    """A captioning. agreement: of its captioner; agreement_mean: of the captions.

    flagged: captions whose chance is below `flag_below`. reranking: how they were chosen.
    """

    ended: Count
    words_mean: Finite
    skipped: list[Skipped] = []
    agreement: PeopleAgreement | None = None
    agreement_mean: Share | None = None
    flag_below: Share | None = None
    flagged: Count | None = None
    reranking: Reranking | None = None
    sharded: Sharded | None = None
