"""Second views of the training images: mirrored, and encoded once as the images themselves are.

What a frozen encoder yields is cached, so a view that is drawn at random for each step would be
encoded anew each time. A fixed second view doubles the cache instead, and each epoch draws one of
the two. A caption that names left or right would be wrong of a mirrored image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from captune.captioning.training.data import CaptionedImages, Grids
from captune.errors import UserError
from captune.features import FeatureCache
from captune.features.grids import grids_bytes, require_room
from captune.models.encoders import ImageEncoder

_SIDES = re.compile(r"\b(?:left|right)(?:most|wards?)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class MirroredViews:
    """images: places of the training images that have one. grids: of the mirrored images."""

    images: Sequence[int]
    grids: Grids


def mirrorable(train: CaptionedImages) -> list[int]:
    """Places of the images none of whose captions names left or right."""
    return [
        place
        for place, captions in enumerate(train.captions)
        if not any(_SIDES.search(caption) for caption in captions)
    ]


def check_mirroring(
    train: CaptionedImages,
    images: int,
    encoder: ImageEncoder,
    cache: FeatureCache | None,
    say: Callable[[str], None],
) -> list[int]:
    """`mirrorable`, and what it costs is said.

    images: how many are encoded without it. Raises UserError where there is nothing to mirror, or
    the cache may not hold both views.
    """
    places = mirrorable(train)
    if not places:
        raise UserError(
            "--augment mirror: each of the training images has a caption that names left or right,"
            " which would be wrong of the mirrored image; leave it out"
        )
    if cache is not None and cache.is_writable:
        require_room(images + len(places), encoder, cache)
    sentence = (
        f"--augment mirror: {len(places):,} of {len(train):,} training images are encoded and"
        f" cached twice, as they are and mirrored: {grids_bytes(len(places), encoder) / 1e6:,.1f}"
        " MB more"
    )
    kept = len(train) - len(places)
    if kept:
        sentence += f"; the captions of {kept:,} name left or right, so these stay as they are"
    say(sentence)
    return places


def drawn_views(
    plain: Grids, mirrored: MirroredViews | None, keys: Sequence[str], flipped: Sequence[bool]
) -> Tensor:
    """Grids [images, tokens, channels], each of the image as it is or, where flipped, mirrored."""
    if mirrored is None or not any(flipped):
        return plain.grids_of(keys)
    order = sorted(range(len(keys)), key=lambda place: flipped[place])
    upright = len(keys) - sum(flipped)
    parts = [
        grids.grids_of([keys[place] for place in places])
        for grids, places in ((plain, order[:upright]), (mirrored.grids, order[upright:]))
        if places
    ]
    return torch.cat(parts)[torch.tensor(order, device=parts[0].device).argsort()]
