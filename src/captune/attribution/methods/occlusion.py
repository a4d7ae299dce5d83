"""Occlusion of patch tokens: what the word's score loses without a patch (Zeiler, Fergus 2014).

A patch token becomes zeros; the image's own mean token would not do (see `masking`).
Nothing is encoded again: the captioner reads the cached grid with one token changed, many such
grids at once. A map is signed: a negative patch speaks against the word. A token has seen its
neighbours, so the others still know something of a patch that is gone; `pixel-occlusion` is the
strict, slow way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, on_patches
from captune.attribution.word_scores import WordTarget, scores_of
from captune.captioning.model import CaptionModel

_ROWS_AT_ONCE = 64


class Occlusion(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "occlusion"
    signed = True

    def maps_of(
        self,
        captioner: CaptionModel,
        captioned: CaptionedImage,
        layer_head: LayerHead,
        targets: Sequence[WordTarget],
    ) -> Tensor:
        """As `MapMethod.maps_of`."""

        def without(patches: range) -> Tensor:
            grids = captioned.grid.repeat(len(patches), 1, 1)
            tokens = [captioned.shape.leading + patch for patch in patches]
            grids[range(len(patches)), tokens] = 0
            return grids

        return losses(captioner, captioned, targets, without)


@torch.no_grad()
def losses(
    captioner: CaptionModel,
    captioned: CaptionedImage,
    targets: Sequence[WordTarget],
    without: Callable[[range], Tensor],
    at_once: int = _ROWS_AT_ONCE,
) -> Tensor:
    """What each target's score loses without each patch of the grid: [targets, rows, columns].

    without: numbers of patches -> the grids [n, tokens, channels] in which each is gone.
    """
    patches = range(captioned.shape.rows * captioned.shape.columns)
    parts = []
    for start in patches[::at_once]:
        grids = without(patches[start : start + at_once])
        parts.append(scores_of(captioner, captioned, grids, targets))
    whole = scores_of(captioner, captioned, captioned.grid, targets)
    lost = torch.zeros(len(targets), captioned.shape.tokens, device=whole.device)
    first = captioned.shape.leading
    lost[:, first : first + len(patches)] = (whole - torch.cat(parts)).T
    return on_patches(lost, captioned)


METHOD = Occlusion()
