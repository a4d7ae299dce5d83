"""Photos -> pooled vectors, in order, in bounded memory, with reading and decoding ahead.

A photo goes through four stations: read and hashed (threads), looked up in the cache, decoded and
transformed (threads), encoded (the caller's thread). Cached photos and copies stop at the second.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captune.features.batches import FittingBatches
from captune.features.cache import FeatureCache
from captune.features.index import FeatureSpace
from captune.features.saving import BackgroundSaver
from captune.images import Photo, Skipped, UnreadablePhoto, decode_photo, read_photo
from captune.models.encoders import ImageEncoder
from captune.models.image_text import Floats

_GROUP = 32  # photos read and hashed as one task: a task costs about as much as hashing one photo
_WINDOW = 2048  # photos between the one yielded next and the one hashed last
_RECENT = 4096  # vectors kept for copies in the same run, whether or not there is a cache
_KEPT_BYTES = 2**19  # a larger file is read again for decoding rather than kept meanwhile


class _Entry:
    """One photo on its way: at the end it has a vector or a reason."""

    __slots__ = ("copies", "data", "key", "photo", "pixels", "reason", "vector")

    def __init__(self, photo: Photo) -> None:
        self.photo = photo
        self.key = ""
        self.data: bytes | None = None
        self.pixels: Future[Tensor] | None = None
        self.copies: list[_Entry] = []  # the same bytes under other names
        self.vector: Floats | None = None
        self.reason: str | None = None


def encode_photos(
    photos: Iterable[Photo],
    encoder: ImageEncoder,
    *,
    cache: FeatureCache | None,
    batch_size: int,
    workers: int,
    on_skip: Callable[[Skipped], None],
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[list[Photo], Floats]]:
    """Yield (photos, vectors [n, d] float32 as the model gives them), in the order of `photos`.

    Only what is at hand is yielded, so n varies; memory does not grow with the number of photos.
    The same bytes are encoded once, and never again while the cache holds them.
    workers: threads that read and decode; 0 takes the number of cores, at most 16.
    on_skip: called in the same order for photos that cannot be read or prepared.
    on_progress: told how many more photos are done, skipped ones included.
    """
    with (
        _LookAhead(photos, encoder, cache, workers or _default_workers()) as ahead,
        BackgroundSaver(cache) as saver,
    ):
        batches = FittingBatches(batch_size)
        assemble = _assembly(encoder)
        while True:
            ahead.fill(batches.size)
            batch = ahead.take(batches.size)
            if batch:
                vectors = batches.encode(
                    batch, lambda part: encoder.encode(assemble([_pixels(e) for e in part]))
                )
                saver.save({e.key: vector for e, vector in zip(batch, vectors, strict=True)})
                ahead.settle(batch, vectors)
            found: list[_Entry] = []
            done = 0
            for entry in ahead.ready():
                done += 1
                if entry.reason is None:
                    found.append(entry)
                else:
                    on_skip(Skipped(entry.photo.name, entry.reason))
            if on_progress is not None and done:
                on_progress(done)
            if found:
                rows = [entry.vector for entry in found if entry.vector is not None]
                yield [entry.photo for entry in found], np.stack(rows)
            if ahead.is_exhausted:
                return


class _RecentVectors:
    """The last vectors by key, in one block: kept one by one they would fragment the heap."""

    def __init__(self, count: int, dimension: int) -> None:
        self._block = np.empty((count, dimension), dtype=np.float32)
        self._keys: deque[str] = deque()
        self._rows: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> Floats | None:
        """A copy of the vector, or None."""
        row = self._rows.get(key)
        return None if row is None else self._block[row].copy()

    def put(self, key: str, vector: Floats) -> None:
        """Keep a copy in the place of the oldest."""
        if key in self._rows:
            return
        full = len(self._keys) == len(self._block)
        row = self._rows.pop(self._keys.popleft()) if full else len(self._keys)
        self._block[row] = vector
        self._keys.append(key)
        self._rows[key] = row


class _LookAhead:
    """The photos between the source and the model. All but the tasks run on the caller's thread."""

    def __init__(
        self,
        photos: Iterable[Photo],
        encoder: ImageEncoder,
        cache: FeatureCache | None,
        workers: int,
    ) -> None:
        self._source = iter(photos)
        self._encoder = encoder
        self._cache = cache
        self._space = _space(encoder).name
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="captune-read")
        self._hashing: deque[Future[list[_Entry]]] = deque()
        self._window: deque[_Entry] = deque()  # all that are hashed and not yielded, in order
        self._missing: deque[_Entry] = deque()  # those of them that the model has to see
        self._pending: dict[str, _Entry] = {}  # the same by key, to find copies
        self._recent = _RecentVectors(_RECENT, encoder.dimension)

    def __enter__(self) -> _LookAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    @property
    def is_exhausted(self) -> bool:
        """True when every photo has come out."""
        return not (self._hashing or self._window)

    def fill(self, batch_size: int) -> None:
        """Look photos up until two batches wait for the model, or some need no model.

        The second batch, or a few photos a thread, is decoded while the model sees the first. On a
        CPU too: decoding between the passes was some 5 % slower there (2 cores, ViT-B/32).
        """
        wanted = batch_size + max(batch_size, 4 * self._workers)
        window = max(_WINDOW, 2 * wanted)
        self._hash_ahead(wanted)
        while self._hashing and len(self._missing) < wanted and len(self._window) < window:
            self._look_up(self._hashing.popleft().result())
            self._hash_ahead(wanted)
            if not self._missing:
                return  # all cached so far: nothing to wait for

    def take(self, size: int) -> list[_Entry]:
        """The next photos for the model, decoded; those that cannot be decoded get a reason."""
        batch: list[_Entry] = []
        while self._missing and len(batch) < size:
            entry = self._missing.popleft()
            try:
                _pixels(entry)
                batch.append(entry)
            except UnreadablePhoto as error:
                self._skip(entry, error.reason)
            except Exception as error:  # a photo that no test has thought of ends no run
                self._skip(entry, f"cannot be prepared ({type(error).__name__}: {error})")
        return batch

    def settle(self, batch: Sequence[_Entry], vectors: Floats) -> None:
        """Give photos and their copies their vectors."""
        for entry, vector in zip(batch, vectors, strict=True):
            entry.pixels = None
            del self._pending[entry.key]
            self._recent.put(entry.key, vector)
            for same in (entry, *entry.copies):
                same.vector = vector
            entry.copies = []

    def ready(self) -> Iterator[_Entry]:
        """Take out, in order, what has a vector or a reason."""
        while self._window and not (
            self._window[0].vector is None and self._window[0].reason is None
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
        found = {} if self._cache is None else self._cache.get_many(list(unknown))
        for key, vector in found.items():
            if vector.shape == (self._encoder.dimension,):
                self._recent.put(key, vector)
        for entry in entries:
            self._window.append(entry)
            if entry.reason is not None:
                continue
            entry.vector = self._recent.get(entry.key)
            if entry.vector is not None:
                entry.data = None
            elif entry.key in self._pending:
                entry.data = None
                self._pending[entry.key].copies.append(entry)
            else:
                self._pending[entry.key] = entry
                self._missing.append(entry)
                entry.pixels = self._threads.submit(_decode, entry, self._encoder.transform)

    def _skip(self, entry: _Entry, reason: str) -> None:
        entry.pixels = None
        del self._pending[entry.key]
        for same in (entry, *entry.copies):
            same.reason = reason


def _read_and_hash(photos: Sequence[Photo], space: str) -> list[_Entry]:
    entries = []
    for photo in photos:
        entry = _Entry(photo)
        try:
            data = read_photo(photo.path)
            entry.key = f"{space}/{hashlib.sha256(data).hexdigest()}"
            entry.data = data if len(data) <= _KEPT_BYTES else None
        except UnreadablePhoto as error:
            entry.reason = error.reason
        entries.append(entry)
    return entries


def _decode(entry: _Entry, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    data, entry.data = entry.data, None
    if data is None:
        data = read_photo(entry.photo.path)
        if not entry.key.endswith(hashlib.sha256(data).hexdigest()):
            raise UnreadablePhoto("changed while it was read")
    return transform(decode_photo(data, entry.photo.name))


def _pixels(entry: _Entry) -> Tensor:
    assert entry.pixels is not None
    return entry.pixels.result()


def _assembly(encoder: ImageEncoder) -> Callable[[Sequence[Tensor]], Tensor]:
    """Stacks pixels [3, height, width]; on CUDA into pinned memory, whose copy is asynchronous."""
    if encoder.device.type != "cuda":
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


def _space(encoder: ImageEncoder) -> FeatureSpace:
    return FeatureSpace(
        "pooled",
        encoder.weights_id,
        encoder.preprocessing_id,
        str(encoder.dtype).removeprefix("torch."),
        f"torch-{encoder.device.type}",
    )


def _default_workers() -> int:
    available = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return min(16, available)
