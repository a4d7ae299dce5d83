"""What single places of a photo mean: each read as if it were a photo of its own, then smoothed.

Class activation maps (Zhou et al. 2016) with text for a classifier, for encoders that pool by a
mean over places and share a space with texts, as lite does. It is a convolution's place that is
read, which has seen its neighbours; the blur takes out what single places say by accident.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captune.errors import UserError
from captune.models.encoders import GridShape, ImageEncoder, PatchGrid

_SMOOTHED = 1 / 9  # deviation of the blur, in shares of the grid's side


def require_meaning(encoder: ImageEncoder) -> PatchGrid:
    """The encoder's patch grid. Raises UserError where its places mean nothing by themselves."""
    patches = encoder.require_patches()
    if patches.meaning is None:
        raise UserError(
            "places: single places of this image encoder have no meaning of their own; take"
            " --method gradient or occlusion"
        )
    return patches


@torch.no_grad()
def places_near(patches: PatchGrid, grid: Tensor, nearness: Callable[[Tensor], Tensor]) -> Tensor:
    """How much nearer than the photo's places on average each place of a finished grid is.

    grid: [tokens, channels]. The maps are [n, rows, columns], on the CPU. Nearness has no zero of
    its own: all of a photo may be far from a text, and a part of it still the nearest.
    nearness: vectors [places, dimension] of the space of texts -> [places, n].
    """
    assert patches.meaning is not None
    shape = patches.shape
    places = grid[shape.leading : shape.leading + shape.rows * shape.columns]
    near = nearness(patches.meaning(places.float())).T.float().cpu()
    smooth = near @ _blur(shape)
    return (smooth - smooth.mean(dim=1, keepdim=True)).view(-1, shape.rows, shape.columns)


def _blur(shape: GridShape) -> Tensor:
    """[places, places]: what each place hears of each; beyond the edge there is nothing to hear."""
    sides = []
    for length in (shape.rows, shape.columns):
        at = torch.arange(length) / length
        weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * _SMOOTHED**2))
        sides.append(weights / weights.sum(dim=0))
    return torch.kron(*sides)
