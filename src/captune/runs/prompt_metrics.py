"""metrics.json of a comparison of prompts."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, field

from captune.images.find import Skipped
from captune.json_yaml import MOST, Count, Number, Share, require
from captune.runs.metrics import Metrics
from captune.runs.records import Interval
from captune.runs.reliability import Calibration


class PromptRow(Struct, frozen=True):
    """A prompt of a comparison; figures are of the truth, or of the best prompt, where known."""

    template: str
    same_as_first: Share
    mean_confidence: Share
    accuracy: Share | None
    accuracy_low: Number | None
    accuracy_high: Number | None
    top5_accuracy: Share | None
    difference: Number | None
    difference_low: Number | None
    difference_high: Number | None
    gained: Count | None
    lost: Count | None
    p_value: Number | None
    p_holm: Number | None
    ece: Number | None


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
    same_answer_low: Number
    same_answer_high: Number
    right_answer: Share | None
    right_answer_low: Number | None
    right_answer_high: Number | None
    denial_wins: Share
    denial_wins_low: Number
    denial_wins_high: Number
    denial_wins_elsewhere: Share | None
    text_cosine: Number
    class_cosine: Number | None

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
    share: Number = 0.0
    correct: Count = 0


class PromptsMetrics(Metrics, frozen=True):
    """A comparison of prompts. best: the number of one, None without a truth."""

    prompts: Annotated[list[PromptRow], Meta(min_length=2)]
    best: Count | None
    negation: list[NegationProbe]
    agreement: list[list[Number]]
    calibration: list[Calibration | None]
    class_changes: list[list[ClassChange]]
    label_names: dict[str, str] | None = None
    skipped: list[Skipped] = field(default_factory=list)

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
