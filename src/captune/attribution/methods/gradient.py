"""Input times gradient on the patch grid: what each patch adds to the word's score, to first order.

A map is the sum over channels of the token times the gradient of the word's score by it (Shrikumar
et al. 2016). It is signed: a negative patch speaks against the word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, on_patches
from captune.attribution.word_scores import WordTarget, scores_of
from captune.captioning.model import CaptionModel

_ROWS_AT_ONCE = 64


class Gradient(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "gradient"
    signed = True

    def maps_of(
        self,
        captioner: CaptionModel,
        captioned: CaptionedImage,
        layer_head: LayerHead,
        targets: Sequence[WordTarget],
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        grids = captioned.grid.expand(len(targets), -1, -1)
        gradients = gradients_at(captioner, captioned, grids, targets)
        return on_patches((gradients * captioned.grid).sum(dim=-1), captioned)


def gradients_at(
    captioner: CaptionModel, captioned: CaptionedImage, grids: Tensor, targets: Sequence[WordTarget]
) -> Tensor:
    """Gradient of target i's score by grid i: both [n, tokens, channels], in batches."""
    parts = []
    with torch.enable_grad():
        for start in range(0, len(targets), _ROWS_AT_ONCE):
            part = grids[start : start + _ROWS_AT_ONCE].detach().clone().requires_grad_()
            some = targets[start : start + _ROWS_AT_ONCE]
            scores = scores_of(captioner, captioned, part, some, paired=True)
            parts.append(torch.autograd.grad(scores.sum(), part)[0])
    return torch.cat(parts)


METHOD = Gradient()
