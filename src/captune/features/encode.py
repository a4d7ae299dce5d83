"""Images and strings -> vectors of the space that they share, each different one once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

import numpy as np

from captune.errors import UserError
from captune.features.cache import BackgroundWriter, FeatureCache
from captune.features.keys import FeatureSpace
from captune.features.pipeline import (
    AdaptiveBatches,
    Encoding,
    ImageFeature,
    Told,
    encode_each,
    space_of,
)
from captune.images import ImageFile, Skipped
from captune.models.encoders import Floats, ImageEncoder, ImageTextModel, TextEncoder
from captune.progress import SILENT, Progress
from captune_metrics.display import printable


def encode_images(
    images: Iterable[ImageFile], encoder: ImageEncoder, how: Encoding, **told: Unpack[Told]
) -> Iterator[tuple[list[ImageFile], Floats]]:
    """Yield (images, vectors [n, d] float32 as the model gives them), in the order of `images`.

    As `pipeline.encode_each`, of the encoder's pooled vectors.
    """
    pooled = ImageFeature(
        space=space_of(encoder, "pooled", encoder.weights_id, encoder.preprocessing_id),
        shape=(encoder.dimension,),
        dtype=np.dtype(np.float32),
        transform=encoder.transform,
        encode=encoder.encode,
        device=encoder.device,
    )
    for found in encode_each(images, pooled, how, **told):
        yield [one.image for one in found], np.stack([one.array for one in found])


def encode_texts(
    texts: Sequence[str], encoder: TextEncoder, *, cache: FeatureCache | None, batch_size: int = 256
) -> Floats:
    """texts, n strings -> [n, d] float32, rows in the order asked, not normalised.

    Each different string is encoded once, and never again while the cache holds it.
    """
    dtype = str(encoder.dtype).removeprefix("torch.")
    space = FeatureSpace("texts", encoder.text_id, "", dtype, f"torch-{encoder.device.type}")
    contents = {text: _digest(text) for text in texts}
    vectors = np.zeros((len(contents), encoder.dimension), dtype=np.float32)
    rows = {text: row for row, text in enumerate(contents)}
    cached = {} if cache is None else cache.get_many(space, list(contents.values()))
    missing = []
    for text, row in rows.items():
        vector = cached.get(contents[text])
        if vector is not None and vector.shape == (encoder.dimension,):
            vectors[row] = vector
        else:
            missing.append(text)
    # Strings of like length share a batch, or the longest would set the cost of all.
    missing.sort(key=lambda text: (len(text), text))
    batches = AdaptiveBatches(batch_size)
    with BackgroundWriter(cache, space) as writer:
        start = 0
        while start < len(missing):
            batch = missing[start : start + batches.size]
            encoded = batches.encode(batch, encoder.encode)
            vectors[[rows[text] for text in batch]] = encoded
            writer.save({contents[text]: encoded[i] for i, text in enumerate(batch)})
            start += len(batch)
    return vectors[[rows[text] for text in texts]]


def _digest(text: str) -> str:
    # A lone surrogate (a file name in a prompt) has no UTF-8 form of its own.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def encode_all(
    images: Sequence[ImageFile],
    model: ImageTextModel,
    how: Encoding,
    *,
    skipped: list[Skipped],
    progress: Progress = SILENT,
) -> tuple[list[ImageFile], Floats]:
    """The readable ones of `images` and their vectors [n, d] float32, not normalised.

    Unreadable ones are added to `skipped`. Raises UserError where no image is readable.
    """
    if how.cache is not None:
        how.cache.remember_model(model.spec, model.ids)
    readable: list[ImageFile] = []
    parts: list[Floats] = []
    with progress.bar("encoding", len(images)) as advance:
        for some, features in encode_images(
            images, model.image, how, on_skip=skipped.append, on_progress=advance
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
