"""Integrated gradients on the patch grid (Sundararajan et al. 2017, eq. 1).

From an image whose patches are all the same, the mean of its own, to the image itself: what each
patch adds to the word's score along the straight way, so that a map's sum is the score of the image
less that of the beginning. The integral is taken by Gauss and Legendre's rule. Tokens that stand
for no patch stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, on_patches
from captune.attribution.word_scores import WordTarget, gradients_at

STEPS = 16


class IntegratedGradients(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "integrated-gradients"
    signed = True

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        begin = without_patches(captioned)
        way = captioned.grid - begin
        points, weights = np.polynomial.legendre.leggauss(STEPS)
        total = torch.zeros_like(captioned.grid).repeat(len(targets), 1, 1)
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            gradients = gradients_at(captioned, begin + float(point) * way, targets)
            total += float(weight) * gradients
        return on_patches((total * way).sum(dim=-1), captioned)


def without_patches(captioned: CaptionedImage) -> Tensor:
    """The grid [1, tokens, channels] with the image's mean patch token in place of each."""
    placed = captioned.shape.placed
    grid = captioned.grid.clone()
    grid[:, placed] = grid[:, placed].mean(dim=1, keepdim=True)
    return grid


METHOD = IntegratedGradients()
