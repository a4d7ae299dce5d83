"""The mark that stands beside the map of a word: how far to believe it.

`quick` is one deletion and one insertion mask a word, in one batch with the random masks that all
words share; `full` follows the whole curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captune.attribution.faithfulness import (
    CONTROLS,
    Curves,
    Faithfulness,
    curves,
    ends_of,
    mark_of,
    one_mask,
    random_curves,
)
from captune.attribution.masking import token_masking
from captune.attribution.subject import Subject
from captune.captioning.model import Captioner


def quick(
    captioner: Captioner,
    subject: Subject,
    maps: Tensor,
    words: Sequence[int] | None = None,
    *,
    fill: Tensor | None = None,
    controls: int = CONTROLS,
) -> list[Faithfulness]:
    """How far to believe each map [words, rows, columns], by one mask of each kind a word.

    words: numbers in `subject.spans` that the maps are of; None for `subject.words`. fill: what is
    put in the place of a hidden patch token, as `masking.token_masking` takes it.
    """
    found = one_mask(token_masking(captioner, subject, fill, words), maps, controls=controls)
    numbers = range(len(found)) if words is None else words
    return [replace(one, word=word) for one, word in zip(found, numbers, strict=True)]


@dataclass(frozen=True)
class Followed:
    """How far to believe the map of one word, from whole curves.

    gain: nats that the image adds to the word. insertion, deletion: mean heights of the curves
    above the blank image, as shares of the gain; nothing where there is none. random_insertion,
    random_deletion: the same, mean over random maps. better_than: share of the random maps whose
    insertion - deletion is less.
    """

    word: int
    gain: float
    insertion: float | None
    deletion: float | None
    random_insertion: float | None
    random_deletion: float | None
    better_than: float

    @property
    def mark(self) -> str:
        """In words."""
        return mark_of(self.gain, self.better_than)


def full(
    captioner: Captioner,
    subject: Subject,
    maps: Tensor,
    words: Sequence[int] | None = None,
    *,
    fill: Tensor | None = None,
    controls: int = CONTROLS,
) -> list[Followed]:
    """As `quick`, by the whole curves of deletion and insertion."""
    score = token_masking(captioner, subject, fill, words)
    ends = ends_of(score)
    asked = range(score.words)
    own = curves(score, ends, maps, asked)
    random = random_curves(score, ends, asked, range(controls))
    difference = own.insertion_area - own.deletion_area
    by_chance = torch.stack([one.insertion_area - one.deletion_area for one in random])
    beaten = (difference > by_chance).double().mean(dim=0)

    def shares(several: Sequence[Curves], what: str, word: int) -> float | None:
        gain = float(ends.gain[word])
        if gain <= 0:
            return None
        areas = [float(getattr(one, f"{what}_area")[word]) for one in several]
        return (sum(areas) / len(areas) - float(ends.blank[word])) / gain

    return [
        Followed(
            number if words is None else words[number],
            float(ends.gain[number]),
            shares([own], "insertion", number),
            shares([own], "deletion", number),
            shares(random, "insertion", number),
            shares(random, "deletion", number),
            float(beaten[number]),
        )
        for number in asked
    ]
