"""Occlusion of patch tokens: what the word's score loses without a place (Zeiler, Fergus 2014).

In the place of a patch token come zeros; the image's own mean token would not do (see `masking`).
Nothing is encoded again: the captioner reads the cached grid with one token changed, many such
grids at once. A map is signed: a negative patch speaks against the word. A token has seen its
neighbours, so the others still know something of a place that is gone; `pixel-occlusion` is the
strict, slow way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captune.attribution.methods import Choice, MapMethod, on_patches
from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target, scores_of
from captune.captioning.model import Captioner

_ROWS_AT_ONCE = 64


class Occlusion(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "occlusion"
    signed = True

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""

        def without(places: range) -> Tensor:
            grids = subject.grid.repeat(len(places), 1, 1)
            tokens = [subject.shape.leading + place for place in places]
            grids[range(len(places)), tokens] = 0
            return grids

        return losses(captioner, subject, targets, without)


@torch.no_grad()
def losses(
    captioner: Captioner,
    subject: Subject,
    targets: Sequence[Target],
    without: Callable[[range], Tensor],
    at_once: int = _ROWS_AT_ONCE,
) -> Tensor:
    """What each target's score loses without each place of the grid: [targets, rows, columns].

    without: numbers of places -> the grids [n, tokens, channels] in which each is gone.
    """
    places = range(subject.shape.rows * subject.shape.columns)
    parts = []
    for start in places[::at_once]:
        grids = without(places[start : start + at_once])
        parts.append(scores_of(captioner, subject, grids, targets))
    whole = scores_of(captioner, subject, subject.grid, targets)
    lost = torch.zeros(len(targets), subject.shape.tokens, device=whole.device)
    first = subject.shape.leading
    lost[:, first : first + len(places)] = (whole - torch.cat(parts)).T
    return on_patches(lost, subject)


METHOD = Occlusion()
