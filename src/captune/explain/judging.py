"""One case judged: its words' maps by every measure, with the controls beside, into a tally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from captune.captioning.model import Captioner
from captune.explain.cases import Case
from captune.explain.faithfulness import (
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
from captune.explain.methods import Choice, map_method
from captune.explain.pointing import hit, overlap
from captune.explain.sanity import entropies
from captune.explain.tally import (
    CENTRE,
    COMPREHENSIVENESS,
    DELETION,
    ENTROPY,
    INSERTION,
    OVERLAP,
    POINTING,
    RANDOM,
    SUFFICIENCY,
    MapName,
    Tally,
    Word,
)
from captune.explain.word_kinds import LITTLE, part_of

RANDOM_SEEDS = 5  # of the random control; a mask of it serves all words of a caption


class Judge:
    """Judges one case after the other; scoring: how places are hidden, made for the case.

    ends: the log-probabilities with and without the photo. seen: the words that the photo makes
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
            self.case.photo,
            span.word,
            part_of(span.word, category),
            category,
            float(self.ends.gain[word]),
        )
