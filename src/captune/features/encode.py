"""Images -> vectors of the space that they share, each different one once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.images import encode_images
from captune.images import ImageFile, Skipped, printable
from captune.models.image_text import Floats, ImageTextModel
from captune.progress import SILENT, Progress


def encode_all(
    images: Sequence[ImageFile],
    model: ImageTextModel,
    *,
    cache: FeatureCache | None,
    batch_size: int,
    workers: int,
    skipped: list[Skipped],
    progress: Progress = SILENT,
) -> tuple[list[ImageFile], Floats]:
    """The readable ones of `images` and their vectors [n, d] float32, not normalised.

    Unreadable ones are added to `skipped`. Raises UserError where no image is readable.
    """
    if cache is not None:
        cache.remember_model(model.spec, model.ids)
    readable: list[ImageFile] = []
    parts: list[Floats] = []
    with progress.bar("encoding", len(images)) as advance:
        for some, features in encode_images(
            images,
            model.image,
            cache=cache,
            batch_size=batch_size,
            workers=workers,
            on_skip=skipped.append,
            on_progress=advance,
        ):
            readable.extend(some)
            parts.append(features)
    if not readable:
        raise none_readable(skipped)
    return readable, np.concatenate(parts)


def none_readable(skipped: Sequence[Skipped]) -> UserError:
    """The sentence for a folder in which every file is broken."""
    first = skipped[0]
    return UserError(
        f"none of {len(skipped)} files could be read ({printable(first.path)}: {first.reason})"
    )
