"""Images -> features, in order, in bounded memory, with reading and decoding ahead.

An image goes through four stations: read and hashed (threads), looked up in the cache, decoded and
transformed (threads), encoded (the caller's thread). Cached images and copies stop at the second.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, NotRequired, TypedDict, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captune.features.batching import AdaptiveBatches
from captune.features.cache import BackgroundWriter, FeatureCache
from captune.features.index import FeatureSpace
from captune.images import ImageFile, Skipped, UnreadableImage
from captune.images.decode import decoded_image, decoding_threads, hash_image, opened_image
from captune.options.base import ModelOptions
from captune.threads import processors

_FIRST_BATCH = 4  # images; each batch after it is twice as large, so that something moves soon
_GROUP = 32  # images read and hashed as one task: a task costs about as much as hashing one image
_WINDOW = 2048  # images between the one yielded next and the one hashed last
_RECENT = 4096  # features kept for copies in the same run, whether or not there is a cache
_RECENT_BYTES = 2**26  # what they may take, and those in the window, where features are large
_KEPT_BYTES = 2**19  # a larger file is read again for decoding rather than kept meanwhile

logger = logging.getLogger("captune")


@dataclass(frozen=True)
class ImageFeature:
    """A kind of array that every image has, of one shape, and how the model makes it.

    space: where the cache keeps it. transform: image -> pixels, in any thread.
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
    """An image with its feature; content: sha256 of the file in hex."""

    image: ImageFile
    content: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Encoding:
    """How images are encoded.

    cache: None keeps nothing. batch_size: images per forward pass, fewer where memory is short.
    workers: threads that read and decode; 0 takes the number of cores, at most 16.
    """

    cache: FeatureCache | None = None
    batch_size: int = 32
    workers: int = 0

    @classmethod
    def of(cls, options: ModelOptions, cache: FeatureCache | None) -> Encoding:
        """As the options of a command say."""
        return cls(cache, options.batch_size, options.workers)


class Told(TypedDict):
    """Who is told of images that are encoded.

    on_skip: called in the order of the images for those that cannot be read or prepared.
    on_progress: told how many more images are done, skipped ones included.
    """

    on_skip: Callable[[Skipped], None]
    on_progress: NotRequired[Callable[[int], None] | None]


class _Entry:
    """One image on its way: at the end it has an array or a reason."""

    __slots__ = ("array", "content", "copies", "data", "image", "pixels", "reason")

    def __init__(self, image: ImageFile) -> None:
        self.image = image
        self.content = ""
        self.data: bytes | None = None
        self.pixels: Future[Tensor] | None = None
        self.copies: list[_Entry] = []  # the same bytes under other names
        self.array: NDArray[Any] | None = None
        self.reason: str | None = None


def encode_each(
    images: Iterable[ImageFile], feature: ImageFeature, how: Encoding, **told: Unpack[Told]
) -> Iterator[list[Encoded]]:
    """Yield images with their feature, in the order of `images`.

    Only what is at hand is yielded, so their number varies; memory does not grow with the number of
    images. The same bytes are encoded once, and never again while the cache holds them.
    """
    cache, on_progress = how.cache, told.get("on_progress")
    workers = how.workers or min(16, processors())
    with decoding_threads(workers) as threads, BackgroundWriter(cache, feature.space) as writer:
        ahead = Prefetcher(images, feature, cache, threads, workers)
        batches = AdaptiveBatches(how.batch_size)
        assemble = _assembly(feature.device)
        size = _FIRST_BATCH
        while True:
            size = min(size, batches.size)
            ahead.fill(size)
            if batch := ahead.take(size):
                size *= 2
                parts = batches.each(
                    batch, lambda part: feature.encode(assemble([_pixels(e) for e in part]))
                )
                arrays = torch.cat(parts).numpy()
                writer.save({e.content: array for e, array in zip(batch, arrays, strict=True)})
                ahead.settle(batch, arrays)
            found: list[Encoded] = []
            done = 0
            for entry in ahead.ready():
                done += 1
                if entry.array is not None:
                    found.append(Encoded(entry.image, entry.content, entry.array))
                else:
                    told["on_skip"](Skipped(entry.image.name, str(entry.reason)))
            if on_progress is not None and done:
                on_progress(done)
            if found:
                yield found
            if ahead.is_exhausted:
                return


class _Recent:
    """The last arrays by content, in one block: kept one by one they would fragment the heap."""

    def __init__(self, feature: ImageFeature) -> None:
        count = feature.at_most(_RECENT, _RECENT_BYTES)
        self._block = np.empty((count, *feature.shape), dtype=feature.dtype)
        self._contents: deque[str] = deque()
        self._rows: dict[str, int] = {}

    def __contains__(self, content: str) -> bool:
        return content in self._rows

    def get(self, content: str) -> NDArray[Any] | None:
        """A copy of the array, or None."""
        row = self._rows.get(content)
        return None if row is None else self._block[row].copy()

    def put(self, content: str, array: NDArray[Any]) -> None:
        """Keep a copy in the place of the oldest."""
        if content in self._rows:
            return
        full = len(self._contents) == len(self._block)
        row = self._rows.pop(self._contents.popleft()) if full else len(self._contents)
        self._block[row] = array
        self._contents.append(content)
        self._rows[content] = row


class Prefetcher:
    """The images between the source and the model. All but the tasks run on the caller's thread."""

    def __init__(
        self,
        images: Iterable[ImageFile],
        feature: ImageFeature,
        cache: FeatureCache | None,
        threads: ThreadPoolExecutor,
        workers: int,
    ) -> None:
        self._source = iter(images)
        self._feature = feature
        self._cache = cache
        self._workers = workers
        self._threads = threads
        self._hashing: deque[Future[list[_Entry]]] = deque()
        self._window: deque[_Entry] = deque()  # all that are hashed and not yielded, in order
        self._missing: deque[_Entry] = deque()  # those of them that the model has to see
        self._pending: dict[str, _Entry] = {}  # the same by content, to find copies
        self._recent = _Recent(feature)

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
            del self._pending[entry.content]
            self._recent.put(entry.content, array)
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
            self._hashing.append(self._threads.submit(_read_and_hash, group))

    def _look_up(self, entries: Sequence[_Entry]) -> None:
        unknown = {e.content for e in entries if e.content and e.content not in self._recent}
        unknown -= self._pending.keys()
        found = self._find(list(unknown))
        for entry in entries:
            self._window.append(entry)
            if entry.reason is not None:
                continue
            entry.array = found.get(entry.content)
            if entry.array is None:
                entry.array = self._recent.get(entry.content)
            if entry.array is not None:
                entry.data = None
            elif entry.content in self._pending:
                entry.data = None
                self._pending[entry.content].copies.append(entry)
            else:
                self._pending[entry.content] = entry
                self._missing.append(entry)
                entry.pixels = self._threads.submit(_decode, entry, self._feature.transform)

    def _find(self, contents: list[str]) -> dict[str, NDArray[Any]]:
        """What the cache holds of these; copies later in the run then find it as recent."""
        if self._cache is None:
            return {}
        feature = self._feature
        arrays = self._cache.get_many(feature.space, contents, mapped=feature.mapped)
        found = {
            content: array
            for content, array in arrays.items()
            if array.shape == feature.shape and array.dtype == feature.dtype
        }
        if not feature.mapped:
            for content, array in found.items():
                self._recent.put(content, array)
        return found

    def _skip(self, entry: _Entry, reason: str) -> None:
        entry.pixels = None
        del self._pending[entry.content]
        for same in (entry, *entry.copies):
            same.reason = reason


def _read_and_hash(images: Sequence[ImageFile]) -> list[_Entry]:
    entries = []
    for image in images:
        entry = _Entry(image)
        try:
            entry.content, entry.data = hash_image(image.path, keep_bytes=_KEPT_BYTES)
        except UnreadableImage as error:
            entry.reason = error.reason
        entries.append(entry)
    return entries


def _decode(entry: _Entry, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    data, entry.data = entry.data, None
    if data is None:
        with opened_image(entry.image.path, sha256=entry.content) as image:
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


def space_of(model: Any, what: str, weights_id: str, preprocessing_id: str) -> FeatureSpace:
    """Where features are kept; model: what has the dtype and the device they are computed in."""
    dtype = str(model.dtype).removeprefix("torch.")
    return FeatureSpace(what, weights_id, preprocessing_id, dtype, f"torch-{model.device.type}")
