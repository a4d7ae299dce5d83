"""Images and strings -> vectors of the space that they share; whole images -> patch grids.

Each different one is encoded once. A grid is what the bridge of a captioner reads: a stream, and
random access while training. Kept, as float16, is what `PatchGrid.encode` yields; the frozen rest
(`finish`) runs each time one is read, so a batch from the cache and a fresh one are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captune.errors import UserError
from captune.features.batching import AdaptiveBatches
from captune.features.cache import BackgroundWriter, FeatureCache, writable
from captune.features.pipeline import Encoding, ImageFeature, Told, encode_each, space_of
from captune.images import ImageFile, Skipped
from captune.models.encoders import Floats, ImageEncoder, ImageTextModel, TextEncoder
from captune.progress import SILENT, Progress
from captune.text import counted
from captune_metrics.display import printable

Halves = NDArray[np.float16]


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
    texts: Sequence[str],
    encoder: TextEncoder,
    *,
    cache: FeatureCache | None,
    batch_size: int = 256,
    on_progress: Callable[[int], None] | None = None,
) -> Floats:
    """texts, n strings -> [n, d] float32, rows in the order asked, not normalised.

    Each different string is encoded once, and never again while the cache holds it. on_progress:
    told how many more are done.
    """
    space = space_of(encoder, "texts", encoder.text_id, "")
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
    if on_progress is not None:
        on_progress(len(contents) - len(missing))
    # Strings of like length share a batch, or the longest would set the cost of all.
    missing.sort(key=lambda text: (len(text), text))
    with BackgroundWriter(cache, space) as writer:

        def encode(batch: Sequence[str]) -> None:
            encoded = encoder.encode(batch).numpy()
            vectors[[rows[text] for text in batch]] = encoded
            writer.save({contents[text]: encoded[i] for i, text in enumerate(batch)})
            if on_progress is not None:
                on_progress(len(batch))

        AdaptiveBatches(batch_size).each(missing, encode)
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
        f"none of {counted(len(skipped), 'file')} could be read"
        f" ({printable(first.path)}: {first.reason})"
    )


def encode_grids(
    images: Iterable[ImageFile], encoder: ImageEncoder, how: Encoding, **told: Unpack[Told]
) -> Iterator[tuple[list[ImageFile], Halves]]:
    """Yield (images, what is cached of them [n, *patches.cached_shape] float16), in their order.

    `encoder.finish_grid(torch.from_numpy(...))` makes of it what a bridge reads. Memory does not
    grow with the number of images, the same bytes are encoded once, and a run that was killed lost
    one batch. Raises UserError for an encoder without a grid.
    """
    for found in encode_each(images, _feature(encoder), how, **told):
        yield [one.image for one in found], np.stack([one.array for one in found])


def open_grids(
    images: Sequence[ImageFile], encoder: ImageEncoder, how: Encoding, **told: Unpack[Told]
) -> GridStore:
    """Encode what the cache lacks, then open all grids for random access.

    Without a cache that can be written to they live in a temporary folder until the store closes.
    Raises UserError where the cache may not grow as large as the grids are, or its disk cannot.
    """
    with ExitStack() as stack:
        cache = writable(how.cache, stack)
        require_room(len(images), encoder, cache)
        keys: dict[str, str] = {}
        feature = _feature(encoder)
        for found in encode_each(images, feature, replace(how, cache=cache), **told):
            keys |= {one.image.name: one.content for one in found}
        # only now is all of it on disk
        contents = list(dict.fromkeys(keys.values()))
        arrays = cache.get_many(feature.space, contents, mapped=True)
        missing = [name for name, key in keys.items() if key not in arrays]
        if missing:
            raise UserError(
                f"{cache.folder} does not hold the grids of {len(missing):,} of {len(keys):,} "
                f"images ({missing[0]}, ...) although they were computed; make room on its disk, "
                "raise `captune cache --limit`, or name another folder in CAPTUNE_CACHE"
            )
        return GridStore(encoder, arrays, keys, stack.pop_all())


class GridStore(AbstractContextManager["GridStore", None]):
    """The grids of many images by the sha256 of their files, read from the mapped cache.

    Nothing is in memory but what the operating system keeps of the files, and gives back when it
    needs the room: an epoch over grids that fit beside it reads at the speed of memory.
    arrays: of each what is cached, [*patches.cached_shape], a read-only view of the file. keys:
    image's name -> sha256 of its bytes, of all that could be read. stack: ends with the store.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        arrays: dict[str, Halves],
        keys: Mapping[str, str],
        stack: ExitStack,
    ) -> None:
        self.encoder, self.arrays, self.keys = encoder, arrays, keys
        self._stack = stack

    def cached(self, keys: Sequence[str]) -> Tensor:
        """What is cached of these images, in this order: [n, *patches.cached_shape] float16."""
        return torch.from_numpy(np.stack([self.arrays[key] for key in keys]))

    def grids_of(self, keys: Sequence[str]) -> Tensor:
        """What a bridge reads of these images: [n, tokens, channels] float32, where the encoder is.

        Raises KeyError for an image that is not there.
        """
        return self.encoder.finish_grid(self.cached(keys)).float()

    def close(self) -> None:
        """Let go of the files."""
        self.arrays.clear()
        self._stack.close()

    def __exit__(self, *error: object) -> None:
        self.close()


def grids_bytes(images: int, encoder: ImageEncoder) -> int:
    """What the grids of so many images take in the cache, without its index."""
    return images * int(np.prod(encoder.require_patches().cached_shape)) * 2


def require_room(images: int, encoder: ImageEncoder, cache: FeatureCache) -> None:
    """Raises UserError where the grids of so many images are more than the cache may keep."""
    needed = grids_bytes(images, encoder)
    # Above the limit whole shards go, of an eighth of it each: what is just enough is not enough.
    if needed > cache.limit_bytes * 7 / 8:
        wanted = int(needed * 8 / 7 / 10**9) + 1
        raise UserError(
            f"the patch grids of {images:,} images take {needed / 1e9:.1f} GB, more than the "
            f"feature cache may keep ({cache.limit_bytes / 1e9:.1f} GB); allow it more with "
            f"`captune cache --limit {wanted}GB`, or take fewer images"
        )


def _feature(encoder: ImageEncoder) -> ImageFeature:
    patches = encoder.require_patches()
    return ImageFeature(
        space=space_of(encoder, "grid", patches.weights_id, patches.preprocessing_id),
        shape=patches.cached_shape,
        dtype=np.dtype(np.float16),
        transform=patches.transform,
        encode=encoder.encode_grid,
        device=encoder.device,
        mapped=True,
    )
