"""Pixels of a photo that are hidden place by place, before an encoder sees them."""

from __future__ import annotations

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from captune.models.encoders import GridShape

BLUR = 0.08  # of the shorter side: the deviation of the blur, which leaves light and colour


def blurred(photo: Image.Image) -> Image.Image:
    """The photo of which only light and colour are left."""
    return photo.filter(ImageFilter.GaussianBlur(BLUR * min(photo.size)))


def of_one_colour(photo: Image.Image) -> Image.Image:
    """The photo's mean colour everywhere."""
    # one pixel by averaging all, then as large as before
    return photo.resize((1, 1), Image.Resampling.BOX).resize(photo.size)


def pieced(shown: Tensor, clear: Tensor, hidden: Tensor, shape: GridShape) -> Tensor:
    """Masks [n, places] -> pixels [n, 3, height, width]: clear where a place is shown, else hidden.

    clear, hidden: [3, height, width]. shape: of the patch grid. Places have hard edges.
    """
    mask = shown.view(-1, 1, shape.rows, shape.columns).float()
    wide = F.interpolate(mask, size=clear.shape[-2:], mode="nearest-exact").bool()
    return torch.where(wide.to(clear.device), clear, hidden)


def without_each(places: range, of: int) -> Tensor:
    """Masks [places, of], true but for one place each."""
    shown = torch.ones(len(places), of, dtype=torch.bool)
    shown[range(len(places)), list(places)] = False
    return shown
