"""Images -> features, in order, in bounded memory, with reading and decoding ahead.

An image goes through four stations: read and hashed (threads), looked up in the cache, decoded and
transformed (threads), encoded (the caller's thread). Cached images and copies stop at the second.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captune.features.batches import FittingBatches
from captune.features.cache import FeatureCache
from captune.features.index import FeatureSpace
from captune.features.saving import BackgroundSaver
from captune.images import (
    ImageFile,
    Skipped,
    UnreadableImage,
    decoded_image,
    decoding_threads,
    hash_image,
    opened_image,
)
from captune.models.encoders import ImageEncoder
from captune.models.image_text import Floats

_GROUP = 32  # images read and hashed as one task: a task costs about as much as hashing one image
_WINDOW = 2048  # images between the one yielded next and the one hashed last
_RECENT = 4096  # features kept for copies in the same run, whether or not there is a cache
_RECENT_BYTES = 2**26  # what they may take, and those in the window, where features are large
_KEPT_BYTES = 2**19  # a larger file is read again for decoding rather than kept meanwhile


@dataclass(frozen=True)
class ImageFeature:
    """A kind of array that every image has, of one shape, and how the model makes it.

    space: what its keys in the cache begin with. transform: image -> pixels, in any thread.
    encode: a batch of pixels -> [n, *shape] on the CPU. device: where the model is.
    mapped: cached arrays are views of the mapped files, not copies in memory.
    """

    space: FeatureSpace
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    transform: Callable[[Image.Image], Tensor]
    encode: Callable[[Tensor], Tensor]
    device: torch.device
    mapped: bool = False

    def at_most(self, count: int, limit_bytes: int) -> int:
        """`count`, or as many of these arrays as `limit_bytes` hold; at least one."""
        size = self.dtype.itemsize * int(np.prod(self.shape))
        return max(1, min(count, limit_bytes // size))


class Encoded(NamedTuple):
    """An image with its feature; key: of the space and the image's content, as in the cache."""

    image: ImageFile
    key: str
    array: NDArray[Any]


class _Entry:
    """One image on its way: at the end it has an array or a reason."""

    __slots__ = ("array", "copies", "data", "image", "key", "pixels", "reason")

    def __init__(self, image: ImageFile) -> None:
        self.image = image
        self.key = ""
        self.data: bytes | None = None
        self.pixels: Future[Tensor] | None = None
        self.copies: list[_Entry] = []  # the same bytes under other names
        self.array: NDArray[Any] | None = None
        self.reason: str | None = None


def encode_images(
    images: Iterable[ImageFile],
    encoder: ImageEncoder,
    *,
    cache: FeatureCache | None,
    batch_size: int,
    workers: int,
    on_skip: Callable[[Skipped], None],
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[list[ImageFile], Floats]]:
    """Yield (images, vectors [n, d] float32 as the model gives them), in the order of `images`.

    As `encode_each`, of the encoder's pooled vectors.
    """
    pooled = ImageFeature(
        space=space_of(encoder, "pooled", encoder.weights_id, encoder.preprocessing_id),
        shape=(encoder.dimension,),
        dtype=np.dtype(np.float32),
        transform=encoder.transform,
        encode=encoder.encode,
        device=encoder.device,
    )
    for found in encode_each(
        images,
        pooled,
        cache=cache,
        batch_size=batch_size,
        workers=workers,
        on_skip=on_skip,
        on_progress=on_progress,
    ):
        yield [one.image for one in found], np.stack([one.array for one in found])


def encode_each(
    images: Iterable[ImageFile],
    feature: ImageFeature,
    *,
    cache: FeatureCache | None,
    batch_size: int,
    workers: int,
    on_skip: Callable[[Skipped], None],
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[list[Encoded]]:
    """Yield images with their feature, in the order of `images`.

    Only what is at hand is yielded, so their number varies; memory does not grow with the number of
    images. The same bytes are encoded once, and never again while the cache holds them.
    workers: threads that read and decode; 0 takes the number of cores, at most 16.
    on_skip: called in the same order for images that cannot be read or prepared.
    on_progress: told how many more images are done, skipped ones included.
    """
    with (
        _LookAhead(images, feature, cache, workers or _default_workers()) as ahead,
        BackgroundSaver(cache) as saver,
    ):
        batches = FittingBatches(batch_size)
        assemble = _assembly(feature.device)
        while True:
            ahead.fill(batches.size)
            batch = ahead.take(batches.size)
            if batch:
                arrays = batches.encode(
                    batch, lambda part: feature.encode(assemble([_pixels(e) for e in part]))
                )
                saver.save({e.key: array for e, array in zip(batch, arrays, strict=True)})
                ahead.settle(batch, arrays)
            found: list[Encoded] = []
            done = 0
            for entry in ahead.ready():
                done += 1
                if entry.array is not None:
                    found.append(Encoded(entry.image, entry.key, entry.array))
                else:
                    on_skip(Skipped(entry.image.name, str(entry.reason)))
            if on_progress is not None and done:
                on_progress(done)
            if found:
                yield found
            if ahead.is_exhausted:
                return


class _Recent:
    """The last arrays by key, in one block: kept one by one they would fragment the heap."""

    def __init__(self, feature: ImageFeature) -> None:
        count = feature.at_most(_RECENT, _RECENT_BYTES)
        self._block = np.empty((count, *feature.shape), dtype=feature.dtype)
        self._keys: deque[str] = deque()
        self._rows: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> NDArray[Any] | None:
        """A copy of the array, or None."""
        row = self._rows.get(key)
        return None if row is None else self._block[row].copy()

    def put(self, key: str, array: NDArray[Any]) -> None:
        """Keep a copy in the place of the oldest."""
        if key in self._rows:
            return
        full = len(self._keys) == len(self._block)
        row = self._rows.pop(self._keys.popleft()) if full else len(self._keys)
        self._block[row] = array
        self._keys.append(key)
        self._rows[key] = row


class _LookAhead:
    """The images between the source and the model. All but the tasks run on the caller's thread."""

    def __init__(
        self,
        images: Iterable[ImageFile],
        feature: ImageFeature,
        cache: FeatureCache | None,
        workers: int,
    ) -> None:
        self._source = iter(images)
        self._feature = feature
        self._cache = cache
        self._space = feature.space.name
        self._workers = workers
        self._pool = decoding_threads(workers)
        self._hashing: deque[Future[list[_Entry]]] = deque()
        self._window: deque[_Entry] = deque()  # all that are hashed and not yielded, in order
        self._missing: deque[_Entry] = deque()  # those of them that the model has to see
        self._pending: dict[str, _Entry] = {}  # the same by key, to find copies
        self._recent = _Recent(feature)

    def __enter__(self) -> _LookAhead:
        self._threads = self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    @property
    def is_exhausted(self) -> bool:
        """True when every image has come out."""
        return not (self._hashing or self._window)

    def fill(self, batch_size: int) -> None:
        """Look images up until two batches wait for the model, or some need no model.

        The second batch, or a few images a thread, is decoded while the model sees the first. On a
        CPU too: decoding between the passes was some 5 % slower there (2 cores, ViT-B/32).
        """
        wanted = batch_size + max(batch_size, 4 * self._workers)
        window = max(self._feature.at_most(_WINDOW, _RECENT_BYTES), 2 * wanted)
        self._hash_ahead(wanted)
        while self._hashing and len(self._missing) < wanted and len(self._window) < window:
            self._look_up(self._hashing.popleft().result())
            self._hash_ahead(wanted)
            if not self._missing:
                return  # all cached so far: nothing to wait for

    def take(self, size: int) -> list[_Entry]:
        """The next images for the model, decoded; those that cannot be decoded get a reason."""
        batch: list[_Entry] = []
        while self._missing and len(batch) < size:
            entry = self._missing.popleft()
            try:
                _pixels(entry)
                batch.append(entry)
            except UnreadableImage as error:
                self._skip(entry, error.reason)
            except Exception as error:  # an image that no test has thought of ends no run
                self._skip(entry, f"cannot be prepared ({type(error).__name__}: {error})")
        return batch

    def settle(self, batch: Sequence[_Entry], arrays: NDArray[Any]) -> None:
        """Give images and their copies their arrays."""
        for entry, array in zip(batch, arrays, strict=True):
            entry.pixels = None
            del self._pending[entry.key]
            self._recent.put(entry.key, array)
            for same in (entry, *entry.copies):
                same.array = array
            entry.copies = []

    def ready(self) -> Iterator[_Entry]:
        """Take out, in order, what has an array or a reason."""
        while self._window and not (
            self._window[0].array is None and self._window[0].reason is None
        ):
            yield self._window.popleft()

    def _hash_ahead(self, wanted: int) -> None:
        """Keep enough groups on their way that no thread waits while the model works."""
        groups = max(self._workers, -(-wanted // _GROUP)) + 1
        while len(self._hashing) < groups and (group := list(islice(self._source, _GROUP))):
            self._hashing.append(self._threads.submit(_read_and_hash, group, self._space))

    def _look_up(self, entries: Sequence[_Entry]) -> None:
        unknown = {e.key for e in entries if e.key and e.key not in self._recent}
        unknown -= self._pending.keys()
        found = self._find(list(unknown))
        for entry in entries:
            self._window.append(entry)
            if entry.reason is not None:
                continue
            entry.array = found.get(entry.key)
            if entry.array is None:
                entry.array = self._recent.get(entry.key)
            if entry.array is not None:
                entry.data = None
            elif entry.key in self._pending:
                entry.data = None
                self._pending[entry.key].copies.append(entry)
            else:
                self._pending[entry.key] = entry
                self._missing.append(entry)
                entry.pixels = self._threads.submit(_decode, entry, self._feature.transform)

    def _find(self, keys: list[str]) -> dict[str, NDArray[Any]]:
        """What the cache holds of these; copies later in the run then find it as recent."""
        if self._cache is None:
            return {}
        mapped, shape, dtype = self._feature.mapped, self._feature.shape, self._feature.dtype
        arrays = self._cache.map_many(keys) if mapped else self._cache.get_many(keys)
        found = {k: a for k, a in arrays.items() if a.shape == shape and a.dtype == dtype}
        if not mapped:
            for key, array in found.items():
                self._recent.put(key, array)
        return found

    def _skip(self, entry: _Entry, reason: str) -> None:
        entry.pixels = None
        del self._pending[entry.key]
        for same in (entry, *entry.copies):
            same.reason = reason


def _read_and_hash(images: Sequence[ImageFile], space: str) -> list[_Entry]:
    entries = []
    for image in images:
        entry = _Entry(image)
        try:
            sha256, entry.data = hash_image(image.path, keep_bytes=_KEPT_BYTES)
            entry.key = f"{space}/{sha256}"
        except UnreadableImage as error:
            entry.reason = error.reason
        entries.append(entry)
    return entries


def _decode(entry: _Entry, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    data, entry.data = entry.data, None
    if data is None:
        sha256 = entry.key.rpartition("/")[2]
        with opened_image(entry.image.path, sha256=sha256) as image:
            return transform(image)
    with decoded_image(data, entry.image.name) as image:
        return transform(image)


def _pixels(entry: _Entry) -> Tensor:
    assert entry.pixels is not None
    return entry.pixels.result()


def _assembly(device: torch.device) -> Callable[[Sequence[Tensor]], Tensor]:
    """Stacks pixels [3, height, width]; on CUDA into pinned memory, whose copy is asynchronous."""
    if device.type != "cuda":
        return lambda pixels: torch.stack(list(pixels))
    pinned: dict[torch.Size, Tensor] = {}

    def assemble(pixels: Sequence[Tensor]) -> Tensor:
        shape = torch.Size((len(pixels), *pixels[0].shape))
        if shape not in pinned:
            pinned.clear()
            pinned[shape] = torch.empty(shape, dtype=pixels[0].dtype, pin_memory=True)
        # encode() has waited for the pass before, so the buffer is free
        return torch.stack(list(pixels), out=pinned[shape])

    return assemble


def space_of(
    encoder: ImageEncoder, what: str, weights_id: str, preprocessing_id: str
) -> FeatureSpace:
    """Where features of `encoder` are kept."""
    dtype = str(encoder.dtype).removeprefix("torch.")
    return FeatureSpace(what, weights_id, preprocessing_id, dtype, f"torch-{encoder.device.type}")


def _default_workers() -> int:
    available = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return min(16, available)
