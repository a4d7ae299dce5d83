"""Is a map faithful? Does a word's probability follow the patches that the map calls important?

A map of a word ranks the patches of the grid. Deletion hides the highest-ranked patches first,
insertion shows them first (Petsiuk et al. 2018, RISE), and the word's log-probability is followed.
With one mask instead of a curve these are comprehensiveness (what is lost without the patches) and
sufficiency (what is lost with nothing but them; DeYoung et al. 2020, ERASER).

Nothing here knows a model: `MaskScorer` says what the words' log-probabilities are while only some
patches are shown, and its `name` says how a patch is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from captune.runs.records import BETTER, NO_BETTER, UNSEEN

# the fractions of the patches at which the curves are read, besides none and all
FRACTIONS = (0.05, 0.1, 0.2, 0.4, 0.7)
ONE_MASK = 0.1  # the fraction of comprehensiveness and sufficiency
CONTROLS = 19  # random masks that stand beside the one mask of a word
BEATEN = 0.9  # of the controls: by chance a map beats 18 of 19 in one case of ten
MIN_GAIN = 0.1  # nats that an image has to add to a word before its map can be true or false


class MaskScorer(Protocol):
    """Log-probabilities of the words of one caption while some patches of its image are hidden.

    name: how a patch is hidden. patches: rows * columns of the patch grid. words: of the caption.
    """

    name: str
    patches: int
    words: int

    def every(self, shown: Tensor) -> Tensor:
        """Masks [n, patches], true where a patch is shown -> every word's [n, words]."""
        ...

    def each(self, shown: Tensor, words: Tensor) -> Tensor:
        """Masks [n, patches], and of each the word [n] that is asked for -> [n]."""
        ...


@dataclass(frozen=True)
class Endpoints:
    """The words' log-probabilities [words] with the whole image shown, and with nothing of it."""

    full: Tensor
    blank: Tensor

    @property
    def gain(self) -> Tensor:
        """What the image adds to each word, nats [words]."""
        return self.full - self.blank

    @property
    def has_gain(self) -> Tensor:
        """Whether the image makes the word more probable [words]; a map of no other can be true."""
        return self.gain >= MIN_GAIN


@dataclass(frozen=True)
class Curves:
    """Log-probabilities of some words along deletion and insertion.

    words: which of the caption. fractions: [k], of the patches, from 0 to 1: that were hidden
    (deletion) or shown (insertion). deletion, insertion: [words, k].
    """

    words: list[int]
    fractions: Tensor
    deletion: Tensor
    insertion: Tensor

    @cached_property
    def deletion_area(self) -> Tensor:
        """Mean height of the deletion curve, nats [words]; lower is better."""
        return torch.trapezoid(self.deletion, self.fractions, dim=-1)

    @cached_property
    def insertion_area(self) -> Tensor:
        """Mean height of the insertion curve, nats [words]; higher is better."""
        return torch.trapezoid(self.insertion, self.fractions, dim=-1)

    @property
    def comprehensiveness(self) -> Tensor:
        """Nats that are lost without the first tenth of the patches [words]; higher is better."""
        return self.deletion[:, 0] - self._at_one_mask(self.deletion)

    @property
    def sufficiency(self) -> Tensor:
        """Nats that are lost with only the first tenth of the patches [words]; lower is better."""
        return self.deletion[:, 0] - self._at_one_mask(self.insertion)

    def _at_one_mask(self, curve: Tensor) -> Tensor:
        return curve[:, int((self.fractions - ONE_MASK).abs().argmin())]


def ranking(maps: Tensor, seed: int = 0) -> Tensor:
    """Maps [n, patches] -> the patches of each in falling order [n, patches].

    Equal values stand in a random order that depends on the seed only: a constant map ranks as the
    random control of that seed does. Where a map is not a number it ranks last.
    """
    tie = torch.randperm(maps.shape[-1], generator=torch.Generator().manual_seed(seed))
    known = maps.detach().cpu().double().nan_to_num(nan=-torch.inf)
    # a stable sort of patches that lie in a random order
    return tie[known[:, tie].argsort(dim=-1, descending=True, stable=True)]


def random_rankings(patches: int, seeds: Sequence[int]) -> Tensor:
    """The random control: what `ranking` gives a constant map, [seeds, patches]."""
    return torch.cat([ranking(torch.zeros(1, patches), seed) for seed in seeds])


def centre_map(rows: int, columns: int) -> Tensor:
    """[rows, columns]: the nearer to the centre the more, as photographers aim; the other control.

    Distances are of the image's sides: the middle of an edge is as far as that of any other.
    """
    down = (torch.arange(rows) + 0.5) / rows - 0.5
    across = (torch.arange(columns) + 0.5) / columns - 0.5
    return 1 - torch.hypot(down[:, None], across[None, :])


def first_patches(rankings: Tensor, counts: Sequence[int]) -> Tensor:
    """Rankings [n, patches] -> masks [n, counts, patches], true for the first so many patches."""
    ranks = rankings.argsort(dim=-1)
    return ranks[:, None, :] < torch.tensor(list(counts))[None, :, None]


def patch_counts(patches: int, fractions: Sequence[float] = FRACTIONS) -> list[int]:
    """How many patches the fractions are, at least one and not all; each number once."""
    found = (min(max(1, round(fraction * patches)), patches - 1) for fraction in fractions)
    return sorted(set(found))


def endpoints(score: MaskScorer) -> Endpoints:
    """One pass: the whole image, and nothing of it."""
    shown = torch.zeros(2, score.patches, dtype=torch.bool)
    shown[0] = True
    return Endpoints(*score.every(shown))


def curves(
    score: MaskScorer, ends: Endpoints, maps: Tensor, words: Sequence[int], *, seed: int = 0
) -> Curves:
    """Deletion and insertion of each word by its own map [words, rows, columns], in one batch."""
    both = _masks(score, ranking(maps.flatten(1), seed))
    asked = torch.tensor(list(words))[None, :, None].expand(both.shape[:-1])
    found = score.each(both.flatten(0, 2), asked.flatten()).view(both.shape[:-1])
    return _closed(score, ends, found, words)


def random_curves(
    score: MaskScorer, ends: Endpoints, words: Sequence[int], seeds: Sequence[int]
) -> list[Curves]:
    """The random control, once per seed; a mask serves all words."""
    both = _masks(score, random_rankings(score.patches, seeds))
    found = score.every(both.flatten(0, 2)).view(*both.shape[:-1], -1)[..., list(words)]
    return [_closed(score, ends, one.movedim(-1, 1), words) for one in found.unbind(dim=1)]


def _masks(score: MaskScorer, rankings: Tensor) -> Tensor:
    """Rankings [n, patches] -> masks [deletion or insertion, n, counts, patches]."""
    first = first_patches(rankings, patch_counts(score.patches))
    return torch.stack([~first, first])


def _closed(score: MaskScorer, ends: Endpoints, inner: Tensor, words: Sequence[int]) -> Curves:
    """inner: [2, words, counts], what lies between the ends."""
    counts = [0, *patch_counts(score.patches), score.patches]
    whole, blank = (end[list(words)][:, None] for end in (ends.full, ends.blank))
    deletion, insertion = inner
    return Curves(
        list(words),
        torch.tensor(counts, dtype=torch.double) / score.patches,
        torch.cat([whole, deletion, blank], dim=1).double(),
        torch.cat([blank, insertion, whole], dim=1).double(),
    )


def first_tenth(rankings: Tensor) -> Tensor:
    """Rankings [n, patches] -> masks [n, patches], true for the first ONE_MASK of the patches."""
    return first_patches(rankings, patch_counts(rankings.shape[-1], (ONE_MASK,)))[:, 0]


def one_mask_losses(
    score: MaskScorer, ends: Endpoints, maps: Tensor, words: Sequence[int]
) -> Tensor:
    """Comprehensiveness by one mask, nats [n]: of map i [n, rows, columns] for word `words[i]`."""
    asked = torch.tensor(list(words))
    return ends.full[asked] - score.each(~first_tenth(ranking(maps.flatten(1))), asked)


def random_losses(score: MaskScorer, ends: Endpoints, seeds: Sequence[int]) -> Tensor:
    """As `one_mask_losses` for the random control of each seed and every word: [seeds, words]."""
    return ends.full - score.every(~first_tenth(random_rankings(score.patches, seeds)))


class Mark:
    """How far to believe the map of one word.

    gain: nats that the whole image adds to the word. better_than: fraction of the random controls
    that the map beats.
    """

    gain: float
    better_than: float

    @property
    def mark(self) -> str:
        """`better than chance`, `no better than chance` or `independent of the image`."""
        if self.gain < MIN_GAIN:
            return UNSEEN
        return BETTER if self.better_than >= BEATEN else NO_BETTER


@dataclass(frozen=True)
class QuickMark(Mark):
    """From one mask of deletion and one of insertion.

    deletion: nats that are lost without the map's first tenth of the patches (comprehensiveness);
    insertion: nats that this tenth alone adds to what the word has without the image. chance: mean
    of deletion + insertion over random tenths. better_than: of the random tenths, by the same sum.
    """

    gain: float
    deletion: float
    insertion: float
    chance: float
    better_than: float


@dataclass(frozen=True)
class FullMark(Mark):
    """From whole curves.

    insertion, deletion: mean heights of the curves above the blank image, as fractions of the gain;
    nothing where there is none. random_insertion, random_deletion: the same, mean over random maps.
    better_than: of the random maps, by insertion - deletion.
    """

    gain: float
    insertion: float | None
    deletion: float | None
    random_insertion: float | None
    random_deletion: float | None
    better_than: float


def quick_marks(score: MaskScorer, maps: Tensor) -> list[Mark]:
    """Of each word of a caption by its map [words, rows, columns]: two masks per word.

    CONTROLS random tenths, hidden and shown alone, stand beside them and serve all words.
    """
    n = len(maps)
    own = first_tenth(ranking(maps.flatten(1)))
    random = first_tenth(random_rankings(score.patches, range(CONTROLS)))
    ends_shown = torch.zeros(2, score.patches, dtype=torch.bool)
    ends_shown[0] = True
    found = score.every(torch.cat([ends_shown, ~own, own, ~random, random])).double()
    whole, blank, without, alone, random_without, random_alone = torch.split(
        found, [1, 1, n, n, CONTROLS, CONTROLS]
    )
    deleted, inserted = without.diagonal(), alone.diagonal()
    by_chance = random_alone - random_without  # [controls, words]
    # inserted - blank + whole - deleted: the ends are the same for every mask
    figures = {
        "gain": whole[0] - blank[0],
        "deletion": whole[0] - deleted,
        "insertion": inserted - blank[0],
        "chance": by_chance.mean(dim=0) + whole[0] - blank[0],
        "better_than": (inserted - deleted > by_chance).double().mean(dim=0),
    }
    rows = torch.stack(list(figures.values()), dim=1).tolist()
    return [QuickMark(**dict(zip(figures, row, strict=True))) for row in rows]


def full_marks(score: MaskScorer, maps: Tensor) -> list[Mark]:
    """As `quick_marks`, by the whole curves of deletion and insertion."""
    ends, words = endpoints(score), range(score.words)
    own = curves(score, ends, maps, words)
    random = random_curves(score, ends, words, range(CONTROLS))
    by_chance = torch.stack([one.insertion_area - one.deletion_area for one in random])
    beaten = (own.insertion_area - own.deletion_area > by_chance).double().mean(dim=0)

    def of_gain(areas: Sequence[Tensor], word: int) -> float | None:
        gain, area = float(ends.gain[word]), float(torch.stack(list(areas)).mean(dim=0)[word])
        return None if gain <= 0 else (area - float(ends.blank[word])) / gain

    return [
        FullMark(
            float(ends.gain[word]),
            of_gain([own.insertion_area], word),
            of_gain([own.deletion_area], word),
            of_gain([one.insertion_area for one in random], word),
            of_gain([one.deletion_area for one in random], word),
            float(beaten[word]),
        )
        for word in words
    ]
