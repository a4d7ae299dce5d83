"""What was measured of many words by many maps, and its figures with intervals over images.

Log-probabilities of words differ by many nats, so a figure is a ratio of sums: what a measure came
to, over what the images add to the same words. An insertion of 0.71 says that on average over the
curve the shown places had brought 71 % of what the whole images bring. Words to which the image
adds less than SEEN are left out: nothing can be true of their maps. Images are resampled, not
words: the words of one image have much in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captune.attribution.cases import Case
from captune.attribution.faithfulness import (
    SEEN,
    SHARES,
    Curves,
    Ends,
    Scoring,
    centre_map,
    curves,
    ends_of,
    one_mask_losses,
    random_curves,
    random_losses,
)
from captune.attribution.methods import Choice, map_method
from captune.attribution.pointing import hit, overlap
from captune.attribution.sanity import entropies
from captune.attribution.word_kinds import LITTLE, part_of
from captune.captioning.model import Captioner
from captune.statistics import Interval, Sums, bootstrap_each, paired_bootstrap

Floats = NDArray[np.float64]

INSERTION, DELETION = "insertion", "deletion"
COMPREHENSIVENESS, SUFFICIENCY = "comprehensiveness", "sufficiency"
POINTING, OVERLAP, ENTROPY = "pointing", "overlap", "entropy"
OF_GAIN = (INSERTION, DELETION, COMPREHENSIVENESS, SUFFICIENCY)  # shares of what images add
LOWER_IS_BETTER = (DELETION, SUFFICIENCY)
LEAST_IMAGES = 5  # fewer say nothing about the spread


class MapName(NamedTuple):
    """Which map: a method and one of its choices; the controls are methods without choices."""

    method: str
    choice: Choice = Choice()

    def __str__(self) -> str:
        """`attention, layer 3, head 0`."""
        bare = self.choice == Choice()
        return self.method if bare else f"{self.method}, {self.choice}"


RANDOM, CENTRE = MapName("random"), MapName("centre")


@dataclass(frozen=True)
class Figure:
    """A figure over images with its 95 % interval, and how many images and words it is of."""

    value: float
    interval: Interval
    images: int
    words: int


@dataclass(frozen=True)
class Difference:
    """By how much one map is better than another of the same words, whichever way is better."""

    value: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """better, worse, or not told apart."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "not told apart"


@dataclass(frozen=True)
class Word:
    """One word of one image. gain: what the image adds to its log-probability, nats."""

    image: int
    word: str
    part: str
    category: str | None
    gain: float

    @property
    def seen(self) -> bool:
        """Whether a map of it can be true at all."""
        return self.gain >= SEEN


@dataclass
class _CurveSum:
    """What the curves of all words so far stand above the blank images, in sum; nats."""

    shares: list[float]
    above: Floats
    gain: float = 0.0


@dataclass
class Tally:
    """Words, and what every measure found for each map of each: NaN where it was not taken.

    Measures of OF_GAIN are in nats here: what a curve or a mask stands above the blank image
    (insertion, deletion), or below the whole one (comprehensiveness, sufficiency).
    """

    words: list[Word] = field(default_factory=list)
    _found: dict[tuple[MapName, str], dict[int, float]] = field(default_factory=dict)
    _curves: dict[tuple[MapName, str], _CurveSum] = field(default_factory=dict)

    def add_word(self, word: Word) -> int:
        """One more; its number."""
        self.words.append(word)
        return len(self.words) - 1

    def put(self, name: MapName, measure: str, word: int, value: float) -> None:
        """What a measure found for a map of a word."""
        self._found.setdefault((name, measure), {})[word] = float(value)

    def names(self, measure: str | None = None) -> list[MapName]:
        """The maps that were measured, in the order in which they came."""
        found = (name for name, what in self._found if measure in (None, what))
        return list(dict.fromkeys(found))

    def measures(self, name: MapName) -> list[str]:
        """What a map was measured by."""
        return [measure for known, measure in self._found if known == name]

    def value(self, name: MapName, measure: str, word: int) -> float | None:
        """What was put there."""
        return self._found.get((name, measure), {}).get(word)

    def add_curve(
        self,
        name: MapName,
        measure: str,
        shares: Sequence[float],
        above: Sequence[float],
        gain: float,
    ) -> None:
        """What the curves of some words stand above the blank image, in sum, and their gain."""
        known = self._curves.setdefault(
            (name, measure), _CurveSum(list(shares), np.zeros(len(shares)))
        )
        known.above += np.asarray(above)
        known.gain += gain

    def curve(self, name: MapName, measure: str) -> tuple[list[float], list[float]] | None:
        """The mean curve, (shares of the places, shares of what the images add), from all words."""
        found = self._curves.get((name, measure))
        if found is None or found.gain == 0:
            return None
        return found.shares, (found.above / found.gain).tolist()

    def figure(
        self, name: MapName, measure: str, kept: Callable[[Word], bool] = lambda word: True
    ) -> Figure | None:
        """A figure of the words that are kept; None of fewer than LEAST_IMAGES images."""
        return self._figure(name, measure, self._chosen([name], measure, kept))

    def figure_beside(self, control: MapName, name: MapName, measure: str) -> Figure | None:
        """A control's figure of the words that another map was measured on."""
        everything = self._chosen([name, control], measure, lambda word: True)
        return self._figure(control, measure, everything)

    def _figure(self, name: MapName, measure: str, chosen: Sequence[int]) -> Figure | None:
        sums = self._sums(name, measure, chosen)
        if sums is None:
            return None
        (interval,) = bootstrap_each([sums])
        return Figure(sums.value, interval, sums.images, len(chosen))

    def difference(
        self,
        name: MapName,
        control: MapName,
        measure: str,
        kept: Callable[[Word], bool] = lambda word: True,
    ) -> Difference | None:
        """By how much a map is better than a control on the words that both were measured on."""
        chosen = self._chosen([name, control], measure, kept)
        pair = [self._sums(one, measure, chosen) for one in (control, name)]
        if pair[0] is None or pair[1] is None:
            return None
        (found,) = paired_bootstrap([(pair[0], pair[1])])
        low, high = found.interval
        if measure in LOWER_IS_BETTER:
            return Difference(-found.difference, Interval(-high, -low))
        return Difference(found.difference, Interval(low, high))

    def _chosen(
        self, names: Sequence[MapName], measure: str, kept: Callable[[Word], bool]
    ) -> list[int]:
        known: list[Mapping[int, float]] = [self._found.get((n, measure), {}) for n in names]
        return [
            number
            for number, word in enumerate(self.words)
            if all(number in found for found in known)
            and (word.seen or measure not in OF_GAIN)
            and kept(word)
        ]

    def _sums(self, name: MapName, measure: str, chosen: Sequence[int]) -> Sums | None:
        """Of each image: what the measure came to, and what it is a share of."""
        images = sorted({self.words[number].image for number in chosen})
        if len(images) < LEAST_IMAGES:
            return None
        place = {image: index for index, image in enumerate(images)}
        rows = np.zeros((len(images), 2))
        for number in chosen:
            word = self.words[number]
            whole = word.gain if measure in OF_GAIN else 1.0
            rows[place[word.image]] += self._found[name, measure][number], whole
        return Sums(rows, _ratio)


def _ratio(sums: Floats, _: int) -> Floats:
    ratios: Floats = sums[:, 0] / sums[:, 1]
    return ratios


RANDOM_SEEDS = 5  # of the random control; a mask of it serves all words of a caption


class Judge:
    """Judges one case after the other; scoring: how places are hidden, made for the case.

    ends: the log-probabilities with and without the image. seen: the words that the image makes
    likelier, but for little ones ("a", "of"), whose maps nobody asks for. words: those, and the
    ones that name something with a box; with `seen=False` the latter alone.
    """

    def __init__(self, case: Case, scoring: Scoring, tally: Tally, *, seen: bool = True) -> None:
        self.case = case
        self.scoring = scoring
        self.ends: Ends = ends_of(scoring)
        named = [word.word for word in case.subject.words]
        parts = map(part_of, named, case.categories)
        likelier = zip(self.ends.seen.tolist(), parts, strict=True)
        self.seen = [i for i, (seen, part) in enumerate(likelier) if seen and part != LITTLE]
        self.words = sorted({*(self.seen if seen else ()), *case.targets})
        self._tally = tally
        shape = case.subject.shape
        centre = centre_map(shape.rows, shape.columns)
        self._centred = centre.expand(len(self.words), -1, -1)
        self._constant = torch.zeros_like(self._centred)
        self._number = {word: tally.add_word(self._word(word)) for word in self.words}

    def maps_of(
        self, captioner: Captioner, method: str, choices: Sequence[Choice] | None = None
    ) -> dict[MapName, Tensor]:
        """The maps [words, rows, columns] of `words`, by all choices of a method or by some."""
        made = map_method(method)
        if choices is not None and len(choices) == 1:
            found = {
                choice: made.maps(captioner, self.case.subject, choice, self.words)
                for choice in choices
            }
        else:
            found = made.maps_of_all(captioner, self.case.subject, self.words)
        kept = found if choices is None else choices
        return {MapName(method, choice): found[choice] for choice in kept}

    def screen(self, maps: Mapping[MapName, Tensor]) -> None:
        """Comprehensiveness by one mask, and what people drew; for every map in one batch."""
        if self.seen and maps:
            places = [self.words.index(word) for word in self.seen]
            flat = torch.cat([own[places] for own in maps.values()])
            lost = one_mask_losses(self.scoring, self.ends, flat, self.seen * len(maps))
            for name, own in zip(maps, lost.view(len(maps), -1), strict=True):
                self._put_each(name, COMPREHENSIVENESS, self.seen, own)
        self.compare_with_people(maps)

    def screen_controls(self, seeds: int = RANDOM_SEEDS) -> None:
        """As `screen`, for random maps and the centre."""
        if self.seen:
            lost = random_losses(self.scoring, self.ends, range(seeds)).mean(dim=0)
            self._put_each(RANDOM, COMPREHENSIVENESS, self.seen, lost[self.seen])
        self.screen({CENTRE: self._centred})
        self.compare_with_people({RANDOM: self._constant})

    def follow(self, maps: Mapping[MapName, Tensor], shares: Sequence[float] = SHARES) -> None:
        """Whole curves, entropy, and what people drew."""
        places = [self.words.index(word) for word in self.seen]
        for name, own in maps.items():
            if self.seen:
                one = curves(self.scoring, self.ends, own[places], self.seen, shares=shares)
                self._put_curves(name, [one])
            self._put_each(name, ENTROPY, self.words, torch.from_numpy(entropies(own)))
        self.compare_with_people(maps)

    def follow_controls(self, shares: Sequence[float] = SHARES, seeds: int = RANDOM_SEEDS) -> None:
        """As `follow`, for random maps and the centre."""
        self.follow_centre(shares)
        if self.seen:
            several = random_curves(self.scoring, self.ends, self.seen, range(seeds), shares=shares)
            self._put_curves(RANDOM, several)
        self.compare_with_people({RANDOM: self._constant})

    def follow_centre(self, shares: Sequence[float] = SHARES) -> None:
        """As `follow`, for the centre."""
        self.follow({CENTRE: self._centred}, shares)

    def compare_controls(self) -> None:
        """Random maps and the centre, with what people drew."""
        self.compare_with_people({RANDOM: self._constant, CENTRE: self._centred})

    def compare_with_people(self, maps: Mapping[MapName, Tensor]) -> None:
        """Pointing game and overlap of the words that have boxes."""
        for name, own in maps.items():
            for word, target in self.case.targets.items():
                map = own[self.words.index(word)].numpy()
                self._tally.put(name, POINTING, self._number[word], hit(map, target))
                self._tally.put(name, OVERLAP, self._number[word], overlap(map, target))

    def _put_curves(self, name: MapName, several: Sequence[Curves]) -> None:
        """The mean over several curves of the same words."""
        blank = self.ends.blank[several[0].words].double()
        for measure, values in (
            (INSERTION, [one.insertion_area - blank for one in several]),
            (DELETION, [one.deletion_area - blank for one in several]),
            (COMPREHENSIVENESS, [one.comprehensiveness for one in several]),
            (SUFFICIENCY, [one.sufficiency for one in several]),
        ):
            self._put_each(name, measure, several[0].words, torch.stack(values).mean(dim=0))
        for what in (DELETION, INSERTION):
            heights = torch.stack([getattr(one, what) for one in several]).mean(dim=0)
            above = (heights - blank[:, None]).sum(dim=0).tolist()
            gain = float(self.ends.gain[several[0].words].sum())
            self._tally.add_curve(name, what, several[0].shares.tolist(), above, gain)

    def _put_each(self, name: MapName, measure: str, words: Sequence[int], values: Tensor) -> None:
        for word, value in zip(words, values.tolist(), strict=True):
            self._tally.put(name, measure, self._number[word], value)

    def _word(self, word: int) -> Word:
        span, category = self.case.subject.words[word], self.case.categories[word]
        return Word(
            self.case.image,
            span.word,
            part_of(span.word, category),
            category,
            float(self.ends.gain[word]),
        )
