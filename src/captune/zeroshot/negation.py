"""Does the model read "not"? A probe of one template against its own negation.

Templates that deny the class ("This is not a photo of {object}") score almost as well as those that
name it, although a reader who understood them would answer with any class but the right one. The
probe shows why: it asks the same images with both, and measures how little the word "not" changes.
(Known of CLIP from Singh et al. 2024, "Learn 'No' to say 'Yes' better", and Alhamoud et al. 2025,
"Vision-language models do not understand negation".)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from captune.models.encoders import Floats, normalise
from captune.statistics import wilson
from captune.statistics.calibration import Integers
from captune_metrics.text import Interval

PROBED_LOGITS = 2_000_000  # of each of the two templates at once: 8 MB
_DENIES = re.compile(
    r"\b(?:no|not|never|without|none|neither|nor|cannot)\b|n['’]t\b", re.IGNORECASE
)
_TO_BE = re.compile(r"\b(?:is|are|was|were)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Share:
    """So many images of so many, with the 95 % interval of the share."""

    count: int
    images: int
    share: float
    interval: Interval


@dataclass(frozen=True)
class NegationProbe:
    """What happens when every prompt of a template is denied.

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
    images: int
    same_answer: Share
    right_answer: Share | None
    denial_wins: Share
    denial_wins_elsewhere: float | None
    text_cosine: float
    class_cosine: float | None

    def row(self) -> dict[str, str | int | float | None]:
        """One flat row for a CSV or JSON table: shares as 0..1, with their intervals."""
        right = self.right_answer
        return {
            "template": self.template,
            "negated": self.negated,
            "images": self.images,
            "same_answer": self.same_answer.share,
            "same_answer_low": self.same_answer.interval.low,
            "same_answer_high": self.same_answer.interval.high,
            "right_answer": right.share if right else None,
            "right_answer_low": right.interval.low if right else None,
            "right_answer_high": right.interval.high if right else None,
            "denial_wins": self.denial_wins.share,
            "denial_wins_low": self.denial_wins.interval.low,
            "denial_wins_high": self.denial_wins.interval.high,
            "denial_wins_elsewhere": self.denial_wins_elsewhere,
            "text_cosine": self.text_cosine,
            "class_cosine": self.class_cosine,
        }


def read_probe(row: Mapping[str, Any]) -> NegationProbe:
    """The probe whose `row` stands in a run."""

    def share(name: str) -> Share | None:
        value, images = row[name], row["images"]
        if value is None:
            return None
        ends = Interval(row[f"{name}_low"], row[f"{name}_high"])
        return Share(round(value * images), images, value, ends)

    same_answer, denial_wins = share("same_answer"), share("denial_wins")
    assert same_answer is not None
    assert denial_wins is not None
    return NegationProbe(
        template=row["template"],
        negated=row["negated"],
        images=row["images"],
        same_answer=same_answer,
        right_answer=share("right_answer"),
        denial_wins=denial_wins,
        denial_wins_elsewhere=row["denial_wins_elsewhere"],
        text_cosine=row["text_cosine"],
        class_cosine=row["class_cosine"],
    )


def negate(template: str) -> str | None:
    """The template that denies what this one says, or None when it denies already.

    "This is a photo of {}" -> "This is not a photo of {}"; "a photo of a {}." -> "not a photo of a
    {}.". The first is, are, was or were takes the "not"; without one it comes first.
    """
    if _DENIES.search(template):
        return None
    if verb := _TO_BE.search(template):
        return f"{template[: verb.end()]} not{template[verb.end() :]}"
    opening, second = template[:1], template[1:2]
    if opening.isupper() and not second.isupper():
        return f"Not {opening.lower()}{template[1:]}"
    return f"not {template}"


def probe_negation(
    template: str,
    negated: str,
    image_features: Floats,
    text_features: Floats,
    negated_features: Floats,
    logits: Callable[[Floats, Floats], Floats],
    truth: Integers | None = None,
) -> NegationProbe:
    """Measures what "not" does to the answers about n images and m classes.

    image_features [n, d]; text_features and negated_features [m, d], one row a class, of the
    template and of its negation (see `negate`); logits: `ImageTextModel.logits`; truth [n], -1
    where unknown (where any is known, only those images are probed).
    """
    rows = np.arange(len(image_features))
    if truth is not None and (truth >= 0).any():
        rows = np.flatnonzero(truth >= 0)
    else:
        truth = None
    images, classes = len(rows), len(text_features)
    same = right = wins = elsewhere = 0
    at_once = max(1, PROBED_LOGITS // classes)
    for start in range(0, images, at_once):
        part = rows[start : start + at_once]
        plain = logits(image_features[part], text_features)
        denied = logits(image_features[part], negated_features)
        answer = plain.argmax(axis=1)
        asked = answer if truth is None else truth[part]
        same += int((denied.argmax(axis=1) == answer).sum())
        right += int((denied.argmax(axis=1) == asked).sum())
        higher = denied > plain
        won = int(higher[np.arange(len(part)), asked].sum())
        wins += won
        elsewhere += int(higher.sum()) - won
    plain_texts, denied_texts = normalise(text_features), normalise(negated_features)
    others = max(classes - 1, 0)
    # the sum over all pairs is the squared length of the sum, so no [m, m] matrix is needed
    pairs = float((plain_texts.sum(axis=0, dtype=np.float64) ** 2).sum()) - classes
    return NegationProbe(
        template=template,
        negated=negated,
        images=images,
        same_answer=_share(same, images),
        right_answer=_share(right, images) if truth is not None else None,
        denial_wins=_share(wins, images),
        denial_wins_elsewhere=elsewhere / (images * others) if images * others else None,
        text_cosine=float((plain_texts * denied_texts).sum(axis=1).mean()),
        class_cosine=pairs / (classes * others) if others else None,
    )


def _share(count: int, images: int) -> Share:
    return Share(count, images, count / max(images, 1), wilson(count, images))
