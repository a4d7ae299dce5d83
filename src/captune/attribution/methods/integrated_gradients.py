"""Integrated gradients on the patch grid (Sundararajan et al. 2017, eq. 1).

From an image whose patches are all the same, the mean of its own, to the image itself: what each
patch adds to the word's score along the straight way, so that a map's sum is the score of the image
less that of the beginning. The integral is taken by Gauss and Legendre's rule. Tokens that stand
for no place stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from captune.attribution.methods import Choice, MapMethod, on_patches
from captune.attribution.methods.gradient import gradients_at
from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target
from captune.captioning.model import Captioner

STEPS = 16


class IntegratedGradients(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "integrated-gradients"
    signed = True

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        begin = without_patches(subject)
        way = subject.grid - begin
        places, weights = np.polynomial.legendre.leggauss(STEPS)
        total = torch.zeros_like(subject.grid).repeat(len(targets), 1, 1)
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            grids = (begin + float(place) * way).expand(len(targets), -1, -1)
            total += float(weight) * gradients_at(captioner, subject, grids, targets)
        return on_patches((total * way).sum(dim=-1), subject)


def without_patches(subject: Subject) -> Tensor:
    """The grid [1, tokens, channels] with the mean patch token of the image in every place."""
    shape = subject.shape
    places = slice(shape.leading, shape.leading + shape.rows * shape.columns)
    grid = subject.grid.clone()
    grid[:, places] = grid[:, places].mean(dim=1, keepdim=True)
    return grid


METHOD = IntegratedGradients()
