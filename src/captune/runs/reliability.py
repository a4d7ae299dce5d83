"""How far to believe probabilities: parts of a metrics.json."""

from __future__ import annotations

from msgspec import Struct

from captune.json_yaml import Count, Number, Share, require
from captune.runs.records import Interval


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
    ece: Number
    adaptive_ece: Number
    ece_floor: Number
    nll: Number | None
    mean_confidence: Number
    accuracy: Number
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
    temperature: Number | None = None
    scaled: Reliability | None = None

    def __post_init__(self) -> None:
        require((self.scaled is None) or (self.temperature is not None), "it has no temperature")


class AgreementWeights(Struct, frozen=True, omit_defaults=True):
    """Of the log-odds that people agree: a constant, and for each thing known of a caption.

    mean_log_probability: of its tokens. lowest_word: the log-probability of its least likely word.
    words: how many it has. match, neighbours: what it was chosen by (`captioning.rerank`).
    """

    constant: Number
    mean_log_probability: Number
    lowest_word: Number
    words: Number
    match: Number = 0.0
    neighbours: Number = 0.0


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
    brier: Number
    brier_of_rate: Number
    ece_interval: Interval
    reliability: Reliability
    chosen: AgreementWeights | None = None
