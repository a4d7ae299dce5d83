"""What was measured of many words by many maps, and its figures with intervals over images.

Log-probabilities of words differ by many nats, so a figure is a ratio of sums: what a measure came
to, over what the images add to the same words. An insertion of 0.71 says that on average over the
curve the shown patches had brought 71 % of what the whole images bring. Words to which the image
adds less than MIN_GAIN are left out: nothing can be true of their maps. Images are resampled, not
words: the words of one image have much in common.

Pointing game (Zhang et al. 2018): a map hits where its strongest patch lies in a box of the word's
category. A patch of the grid hits where its middle lies in a box, or where a box's middle lies in
it: a thing smaller than a patch can be hit too, and a map that is strongest where a thing is always
hits. Of patches that are equally strong, the fraction that hits counts, so a constant map scores
exactly what a random point would score on average.

Overlap: the map is cut at the height where as much of the image is above it as the boxes cover;
intersection over union of the two. Of patches at that very height each counts by an equal part, so
a constant map gets what chance gives. Maps are compared with boxes at the patch grid's resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from captune.attribution.deletion_insertion import (
    MIN_GAIN,
    Curves,
    Endpoints,
    MaskScorer,
    centre_map,
    curves,
    endpoints,
    one_mask_losses,
    random_curves,
    random_losses,
)
from captune.attribution.faithful.dataset import FUNCTION_WORDS, BoxTarget, Example, part_of_speech
from captune.attribution.faithful.sanity import entropies
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune_metrics.display import Interval
from captune_metrics.resampling import Doubles, Sums, bootstrap_each, paired_bootstrap

INSERTION, DELETION = "insertion", "deletion"
COMPREHENSIVENESS, SUFFICIENCY = "comprehensiveness", "sufficiency"
POINTING, OVERLAP, ENTROPY = "pointing", "overlap", "entropy"
OF_GAIN = (INSERTION, DELETION, COMPREHENSIVENESS, SUFFICIENCY)  # fractions of what images add
LOWER_IS_BETTER = (DELETION, SUFFICIENCY)
LEAST_IMAGES = 5  # fewer say nothing about the spread
RANDOM_SEEDS = 5  # of the random control; a mask of it serves all words of a caption


class MapId(NamedTuple):
    """Which map: a method with a layer and head; the controls are methods without them."""

    method: str
    layer_head: LayerHead = LayerHead()

    def __str__(self) -> str:
        """`attention, layer 3, head 0`."""
        bare = self.layer_head == LayerHead()
        return self.method if bare else f"{self.method}, {self.layer_head}"

    def as_json(self) -> dict[str, Any]:
        """`method, layer, head`."""
        return {"method": self.method, **self.layer_head._asdict()}


RANDOM, CENTRE = MapId("random"), MapId("centre")


@dataclass(frozen=True)
class MapEstimate:
    """A figure over images with its 95 % interval, and how many images and words it is of."""

    value: float
    interval: Interval
    images: int
    words: int


@dataclass(frozen=True)
class Difference:
    """By how much one map is better than another of the same words, whichever way is better."""

    difference: float
    interval: Interval

    @property
    def verdict(self) -> str:
        """better, worse, or not told apart."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "not told apart"


@dataclass(frozen=True)
class MeasuredWord:
    """One word of one image. gain: what the image adds to its log-probability, nats."""

    image: int
    word: str
    part: str
    category: str | None
    gain: float

    @property
    def has_gain(self) -> bool:
        """Whether a map of it can be true at all."""
        return self.gain >= MIN_GAIN


@dataclass
class Measurements:
    """Words, and what every measure found for each map of each: NaN where it was not taken.

    Measures of OF_GAIN are in nats here: what a curve or a mask stands above the blank image
    (insertion, deletion), or below the whole one (comprehensiveness, sufficiency).
    """

    words: list[MeasuredWord] = field(default_factory=list)
    _found: dict[tuple[MapId, str], dict[int, float]] = field(default_factory=dict)
    # fractions of the patches; in sum over words, height above the blank images, and gain
    _curves: dict[tuple[MapId, str], tuple[list[float], Doubles, float]] = field(
        default_factory=dict
    )

    def add_word(self, word: MeasuredWord) -> int:
        """One more; its number."""
        self.words.append(word)
        return len(self.words) - 1

    def put(self, name: MapId, measure: str, word: int, value: float) -> None:
        """What a measure found for a map of a word."""
        self._found.setdefault((name, measure), {})[word] = float(value)

    def names(self) -> list[MapId]:
        """The maps that were measured, in the order in which they came."""
        return list(dict.fromkeys(name for name, _ in self._found))

    def measures(self, name: MapId) -> list[str]:
        """What a map was measured by."""
        return [measure for known, measure in self._found if known == name]

    def value(self, name: MapId, measure: str, word: int) -> float | None:
        """What was put there."""
        return self._found.get((name, measure), {}).get(word)

    def add_curve(
        self, name: MapId, measure: str, fractions: Sequence[float], above: Doubles, gain: float
    ) -> None:
        """What the curves of some words stand above the blank image, in sum, and their gain."""
        none = list(fractions), np.zeros(len(fractions)), 0.0
        fractions, height, gained = self._curves.get((name, measure), none)
        self._curves[name, measure] = fractions, height + above, gained + gain

    def curve(self, name: MapId, measure: str) -> tuple[list[float], list[float]] | None:
        """The mean over all words: (fractions of the patches, fractions of what the images add)."""
        fractions, above, gain = self._curves.get((name, measure), ([], np.zeros(0), 0.0))
        return (fractions, (above / gain).tolist()) if gain else None

    def estimate(
        self,
        name: MapId,
        measure: str,
        kept: Callable[[MeasuredWord], bool] = lambda word: True,
        *,
        beside: MapId | None = None,
    ) -> MapEstimate | None:
        """A figure of the words that are kept; None of fewer than LEAST_IMAGES images.

        beside: another map; only words that it was measured on, too, are taken.
        """
        chosen = self._chosen([name] if beside is None else [name, beside], measure, kept)
        sums = self._sums(name, measure, chosen)
        if sums is None:
            return None
        (interval,) = bootstrap_each([sums])
        return MapEstimate(sums.value, interval, sums.images, len(chosen))

    def difference(
        self,
        name: MapId,
        control: MapId,
        measure: str,
        kept: Callable[[MeasuredWord], bool] = lambda word: True,
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
        self, names: Sequence[MapId], measure: str, kept: Callable[[MeasuredWord], bool]
    ) -> list[int]:
        known = [self._found.get((name, measure), {}) for name in names]
        return [
            number
            for number, word in enumerate(self.words)
            if all(number in found for found in known)
            and (word.has_gain or measure not in OF_GAIN)
            and kept(word)
        ]

    def _sums(self, name: MapId, measure: str, chosen: Sequence[int]) -> Sums | None:
        """Of each image numerator and denominator of the measure; None of too few images."""
        images = sorted({self.words[number].image for number in chosen})
        if len(images) < LEAST_IMAGES:
            return None
        row_of = {image: index for index, image in enumerate(images)}
        rows = np.zeros((len(images), 2))
        for number in chosen:
            word = self.words[number]
            whole = word.gain if measure in OF_GAIN else 1.0
            rows[row_of[word.image]] += self._found[name, measure][number], whole
        return Sums(rows, _ratio)


def _ratio(sums: Doubles, _: int) -> Doubles:
    ratios: Doubles = sums[:, 0] / sums[:, 1]
    return ratios


class Evaluator:
    """Measures maps of one example and puts what it finds into `measurements`.

    scorer: of the example's caption, which says how patches are hidden. ends: the log-probabilities
    with and without the image. gaining: the words that the image makes more probable, but for
    function words ("a", "of"), whose maps nobody asks for. words: those, and the ones that name
    something with a box; with `curves=False` the latter alone. controls: maps of all words.
    """

    def __init__(
        self,
        example: Example,
        scorer: MaskScorer,
        measurements: Measurements,
        *,
        curves: bool = True,
    ) -> None:
        self.example = example
        self.scorer = scorer
        self.ends: Endpoints = endpoints(scorer)
        spans = example.captioned.words
        named = zip(spans, example.categories, strict=True)
        parts = [part_of_speech(span.word, category) for span, category in named]
        has_gain = self.ends.has_gain.tolist()
        self.gaining = [
            word for word, part in enumerate(parts) if has_gain[word] and part != FUNCTION_WORDS
        ]
        self.words = sorted({*(self.gaining if curves else ()), *example.targets})
        self._measurements = measurements
        shape = example.captioned.shape
        centre = centre_map(shape.rows, shape.columns).expand(len(self.words), -1, -1)
        self.controls = {RANDOM: torch.zeros_like(centre), CENTRE: centre}
        self._number = {
            word: measurements.add_word(
                MeasuredWord(
                    example.image,
                    spans[word].word,
                    parts[word],
                    example.categories[word],
                    float(self.ends.gain[word]),
                )
            )
            for word in self.words
        }

    def maps_of(self, ids: Sequence[MapId]) -> dict[MapId, Tensor]:
        """The maps [words, rows, columns] of `words` by these, those of one method at once."""
        methods: dict[str, list[LayerHead]] = {}
        for one in ids:
            methods.setdefault(one.method, []).append(one.layer_head)
        captioned = self.example.captioned
        found: dict[MapId, Tensor] = {}
        for method, layer_heads in methods.items():
            made = MAP_METHODS.get(method).maps_of_each(captioned, layer_heads, self.words)
            found |= {MapId(method, one): own for one, own in made.items()}
        return {one: found[one] for one in ids}

    def screen(self, maps: Mapping[MapId, Tensor]) -> None:
        """Comprehensiveness by one mask, and what people drew; for every map in one batch."""
        if self.gaining and maps:
            flat = torch.cat([self._of_gaining(own) for own in maps.values()])
            lost = one_mask_losses(self.scorer, self.ends, flat, self.gaining * len(maps))
            for name, own in zip(maps, lost.view(len(maps), -1), strict=True):
                self._put(name, COMPREHENSIVENESS, self.gaining, own)
        self.compare_with_people(maps)

    def screen_controls(self) -> None:
        """As `screen`, for random maps and the centre."""
        if self.gaining:
            lost = random_losses(self.scorer, self.ends, range(RANDOM_SEEDS)).mean(dim=0)
            self._put(RANDOM, COMPREHENSIVENESS, self.gaining, lost[self.gaining])
        self.screen({CENTRE: self.controls[CENTRE]})
        self.compare_with_people({RANDOM: self.controls[RANDOM]})

    def measure_curves(self, maps: Mapping[MapId, Tensor]) -> None:
        """Whole curves, entropy, and what people drew."""
        for name, own in maps.items():
            if self.gaining:
                one = curves(self.scorer, self.ends, self._of_gaining(own), self.gaining)
                self._put_curves(name, [one])
            self._put(name, ENTROPY, self.words, torch.from_numpy(entropies(own)))
        self.compare_with_people(maps)

    def measure_control_curves(self, seeds: int = RANDOM_SEEDS) -> None:
        """As `measure_curves`, for random maps and the centre."""
        self.measure_curves({CENTRE: self.controls[CENTRE]})
        if self.gaining:
            several = random_curves(self.scorer, self.ends, self.gaining, range(seeds))
            self._put_curves(RANDOM, several)
        self.compare_with_people({RANDOM: self.controls[RANDOM]})

    def compare_with_people(self, maps: Mapping[MapId, Tensor]) -> None:
        """Pointing game and overlap of the words that have boxes."""
        for name, own in maps.items():
            for word, target in self.example.targets.items():
                map, number = own[self.words.index(word)].numpy(), self._number[word]
                self._measurements.put(name, POINTING, number, hit(map, target))
                self._measurements.put(name, OVERLAP, number, overlap(map, target))

    def _of_gaining(self, maps: Tensor) -> Tensor:
        return maps[[self.words.index(word) for word in self.gaining]]

    def _put_curves(self, name: MapId, several: Sequence[Curves]) -> None:
        """The mean over several curves of the same words."""
        words = several[0].words
        blank = self.ends.blank[words].double()
        for measure, values in (
            (INSERTION, [one.insertion_area - blank for one in several]),
            (DELETION, [one.deletion_area - blank for one in several]),
            (COMPREHENSIVENESS, [one.comprehensiveness for one in several]),
            (SUFFICIENCY, [one.sufficiency for one in several]),
        ):
            self._put(name, measure, words, torch.stack(values).mean(dim=0))
        fractions, gain = several[0].fractions.tolist(), float(self.ends.gain[words].sum())
        for what in (DELETION, INSERTION):
            heights = torch.stack([getattr(one, what) for one in several]).mean(dim=0)
            above = (heights - blank[:, None]).sum(dim=0).numpy()
            self._measurements.add_curve(name, what, fractions, above, gain)

    def _put(self, name: MapId, measure: str, words: Sequence[int], values: Tensor) -> None:
        for word, value in zip(words, values.tolist(), strict=True):
            self._measurements.put(name, measure, self._number[word], value)


def hit(map: ArrayLike, target: BoxTarget) -> float:
    """The pointing game of one map [rows, columns]: 1 or 0, between them for ties."""
    strongest = _strongest(map, target)
    return float(target.hits[strongest].mean())


def overlap(map: ArrayLike, target: BoxTarget) -> float:
    """Intersection over union of the boxes and the map cut at the boxes' area, 0 to 1."""
    values = np.asarray(map, dtype=np.float64)
    area = float(target.covered.sum())
    if area == 0:
        return 0.0
    kept = _cut(np.nan_to_num(values, nan=-np.inf).ravel(), area).reshape(values.shape)
    shared = float(np.minimum(kept, target.covered).sum())
    return shared / (2 * area - shared)


def _strongest(map: ArrayLike, target: BoxTarget) -> NDArray[np.bool_]:
    values = np.asarray(map, dtype=np.float64)
    if values.shape != target.hits.shape:
        raise ValueError(f"map {values.shape} and target {target.hits.shape}: expected one grid")
    known = np.nan_to_num(values, nan=-np.inf)
    strongest: NDArray[np.bool_] = known == known.max()
    return strongest


def _cut(values: Doubles, area: float) -> Doubles:
    """Which part of each patch is kept so that the strongest make up `area` patches."""
    levels, level = np.unique(-values, return_inverse=True)
    counts = np.bincount(level, minlength=len(levels))
    before = np.concatenate([[0], np.cumsum(counts)[:-1]])
    parts = np.clip((area - before) / counts, 0, 1)
    kept: Doubles = parts[level]
    return kept
