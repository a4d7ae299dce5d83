"""The bytes of an image file -> an RGB picture, or a short reason why not.

What a decoded image is, whatever it was stored as: 8-bit RGB, the first frame, upright (EXIF
orientation applied), on white where it was transparent. Embedded colour profiles are ignored, as
in the reference preprocessing of CLIP. An opaque 8-bit image that lies upright has exactly the
pixels of `PIL.Image.open(path).convert("RGB")`.

What decoding may cost is bounded for the whole process: memory by a budget in which everything
that is decoded at once has to find room, time by a limit for each image. Files whose header bounds
their time (headers.py) are decoded in the caller's thread, others in a process that can be ended
(processes.py). Of either kind formats.py makes the pixels, upright and on white.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from PIL import Image

from captune.errors import Stopped, UserError
from captune.images.dataset import row_bytes
from captune.images.find import ImageInMemory, why
from captune.images.formats import UnreadableImage, check_size, decode_here, find_format
from captune.images.headers import Header, read_header
from captune.images.processes import Decoders, give_back_memory, share_heaps
from captune_metrics.display import printable
from captune_metrics.files import open_regular

# Pillow takes large images in blocks. One above 32 MB, glibc's largest threshold, is a mapping of
# its own, which goes back to the system when it is freed; smaller ones stay in a thread's heap.
cast("Any", Image).core.set_block_size(2**26)
_LARGE_BYTES = 2**24
MAX_MEGABYTES = 1_250.0


def setting(name: str, default: float, unit: str) -> float:
    """The number in the environment variable `name`, or `default`. Raises UserError."""
    text = os.environ.get(name, "").strip()
    try:
        number = float(text) if text else default
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise UserError(f"{name}={printable(text)} is not a number of {unit} above 0.")
    return number


def memory_limit() -> int:
    """Bytes that decoding may take at once: 1.25 GB, but at most a quarter of the memory there is.

    Or what CAPTUNE_MAX_DECODING_MB says.
    """
    default = min(MAX_MEGABYTES, machine_memory() / 4e6)
    return int(setting("CAPTUNE_MAX_DECODING_MB", default, "megabytes") * 1e6)


@cache
def machine_memory() -> int:
    """Bytes of memory of the machine, or of the container this runs in where that has fewer."""
    limits = [2**33]
    with suppress(AttributeError, OSError, ValueError):
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if "memory" in controllers.split(","):
                root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
            elif not controllers:
                root, name = Path("/sys/fs/cgroup"), "memory.max"
            else:
                continue
            own = root / path.lstrip("/")
            # a limit of any group above holds too; a container sees its own as the root
            for group in {own, *own.parents, root}:
                with suppress(OSError, ValueError):  # "max" is no number
                    limits.append(int((group / name).read_text(encoding="utf-8")))
    return min(limits)


class Heap:
    """Gives freed memory back to the system now and then.

    glibc keeps what a thread has freed in a heap of its own, up to 64 MB and more.
    """

    def __init__(self) -> None:
        self._freed = 0

    def note(self, amount: int, limit: int) -> None:
        """`amount` bytes will be taken and freed; after a quarter of `limit` there is a sweep.

        It takes some 20 ms; the images of a quarter take half a second.
        """
        if amount < _LARGE_BYTES:
            return
        self._freed += amount
        if self._freed > limit // 4:
            self._freed = 0
            give_back_memory()


class Budget:
    """A weighted semaphore, first come first served. Nobody waits while holding a part of it."""

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """After a fork nobody holds anything: the threads that did are in the other process."""
        self._changed = threading.Condition()
        self._used = 0
        self._waiting: deque[object] = deque()
        self._stops = 0

    @contextmanager
    def hold(self, amount: int, limit: int) -> Iterator[None]:
        """Wait until `amount` fits beside what others hold; more than `limit` waits to be alone.

        Raises Stopped where `stop` is called meanwhile.
        """
        amount = min(amount, limit)
        with self._changed:
            if self._waiting or self._used + amount > limit:
                self._wait(amount, limit)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                if self._waiting:
                    self._changed.notify_all()

    def _wait(self, amount: int, limit: int) -> None:
        turn, stops = object(), self._stops
        self._waiting.append(turn)
        try:
            while self._waiting[0] is not turn or (self._used and self._used + amount > limit):
                self._changed.wait()
                if self._stops > stops:
                    raise Stopped("decoding was stopped")
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting by Stopped."""
        with self._changed:
            self._stops += 1
            self._changed.notify_all()


# Belongs into the key of whatever is cached: goes up when the same bytes give other pixels.
DECODING_VERSION = 1
MAX_MEGAPIXELS = 100.0
MAX_SECONDS = 20.0
_BYTES_PER_PIXEL = 8  # RGBA with 16 bits each: no image within the pixel limit needs more on disk
_SIZE_UNKNOWN_BYTES = 2**28  # what a file may take whose header does not say its size
_FILES_SHARE = 16  # files that wait to be decoded may take this fraction of what decoding may

# A thread that holds a part of the second never waits for the first.
_files = Budget()
_pixels = Budget()
_heap = Heap()
_decoders = Decoders()
_threads: set[ThreadPoolExecutor] = set()


def pixel_limit(max_megapixels: float | None = None) -> int:
    """The most pixels an image may have: 100 million, or what CAPTUNE_MAX_MEGAPIXELS says."""
    if max_megapixels is None:
        max_megapixels = setting("CAPTUNE_MAX_MEGAPIXELS", MAX_MEGAPIXELS, "megapixels")
    return int(max_megapixels * 1_000_000)


def read_image(path: str | Path) -> bytes:
    """The bytes of a file, read once: the content hash and the decoder share them.

    Raises UnreadableImage when it is gone, forbidden, empty, a device or pipe, or far larger
    than any image within the pixel limit.
    """
    with _opened(path) as (file, size):
        return file.read(size)


def hash_image(path: str | Path, *, keep_bytes: int = 0) -> tuple[str, bytes | None]:
    """The SHA-256 of a file's bytes in hex, and the bytes if they are no more than `keep_bytes`.

    Larger files are read piece by piece. Raises UnreadableImage as `read_image`.
    """
    with _opened(path) as (file, size):
        if size > keep_bytes:
            return hashlib.file_digest(file, "sha256").hexdigest(), None
        data = file.read(size)
        return hashlib.sha256(data).hexdigest(), data


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[BytesIO, int]]:
    """A file to read, and its size in bytes, which is neither 0 nor absurd."""
    limit = pixel_limit() * _BYTES_PER_PIXEL + 2**26
    try:
        file, size = _file_of(path)
        with file:
            if size > limit:
                raise UnreadableImage(f"{size / 2**30:.1f} GiB, too large for an image", str(path))
            if not size:
                raise UnreadableImage("0 bytes", str(path))
            yield cast("BytesIO", file), size
    except FileNotFoundError as error:
        reason = "a link to nothing" if Path(path).is_symlink() else why(error)
        raise UnreadableImage(reason, str(path)) from error
    except OSError as error:
        raise UnreadableImage(why(error), str(path)) from error
    except ValueError as error:
        raise UnreadableImage("not a valid path", str(path)) from error


def _file_of(path: str | Path) -> tuple[BinaryIO, int]:
    """A file, a row of a dataset or an image in memory, and its size in bytes."""
    if isinstance(path, ImageInMemory):
        if path.refused:
            raise UnreadableImage(path.refused, path.called)
        return BytesIO(path.data), len(path.data)
    data = row_bytes(path)
    if data is None:
        try:
            file = open_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            data = row_bytes(path, is_missing=True)
            if data is None:
                raise
        else:
            return file, os.fstat(file.fileno()).st_size
    return BytesIO(data), len(data)


def open_image(path: str | Path, *, max_megapixels: float | None = None) -> Image.Image:
    """`read_image`, then `decode_image`."""
    with opened_image(path, max_megapixels=max_megapixels) as image:
        return image


def decode_image(
    data: bytes, name: str = "", *, max_megapixels: float | None = None
) -> Image.Image:
    """The bytes of an image file -> an RGB picture, upright, its first frame, on white.

    Transparency is composited on white, as a page would show it. CLIP's reference code drops it,
    which uncovers whatever colour lies under the transparent pixels: black on black for line art.
    16-bit grey keeps its full range (65535 -> 255); for 32-bit and floating grey see
    `captune.images.formats`. name: only for the text of an error.
    Raises UnreadableImage; changes no global of Pillow, so any number of threads may call it.
    Raises Stopped where another thread calls `stop_decoding`.
    """
    with decoded_image(data, name, max_megapixels=max_megapixels) as image:
        return image


@contextmanager
def opened_image(
    path: str | Path,
    *,
    sha256: str | None = None,
    max_megapixels: float | None = None,
    at_least: int | None = None,
) -> Iterator[Image.Image]:
    """As `open_image`; its memory counts as decoding until the block ends.

    For threads that make something small of each image. Within the block nothing may be decoded.
    sha256: of its bytes, in hex; other bytes are refused as changed. at_least: how many pixels of
    the longer side suffice; what is decoded may then be smaller than what is stored.
    """
    with ExitStack() as held:
        with _opened(path) as (file, size):
            held.enter_context(_files.hold(size, memory_limit() // _FILES_SHARE))
            data = file.read(size)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise UnreadableImage("changed while it was read", str(path))
        with decoded_image(
            data, str(path), max_megapixels=max_megapixels, at_least=at_least
        ) as image:
            yield image


@contextmanager
def decoded_image(
    data: bytes, name: str = "", *, max_megapixels: float | None = None, at_least: int | None = None
) -> Iterator[Image.Image]:
    """As `decode_image` and `opened_image`, of bytes that are at hand."""
    with ExitStack() as held:
        try:
            image = _decode(data, pixel_limit(max_megapixels), at_least, held)
        except UnreadableImage as error:
            raise UnreadableImage(error.reason, name) from error.__cause__
        yield image


def _decode(data: bytes, most_pixels: int, at_least: int | None, held: ExitStack) -> Image.Image:
    """held: keeps the memory's place in the budget."""
    kind, _ = find_format(data)
    header = read_header(data, kind)
    check_size((header.width, header.height), most_pixels)
    if header.objection is not None:
        raise UnreadableImage(header.objection)
    limit = memory_limit()
    memory = _memory(header, len(data))
    if memory > limit:
        raise UnreadableImage(
            f"takes {memory / 1e9:.1f} GB of memory to decode, over the limit of"
            f" {limit / 1e9:.1f} GB (CAPTUNE_MAX_DECODING_MB)"
        )
    if header.is_usual:
        # a quarter more: what the heaps of this process's threads have kept of others
        held.enter_context(_place(memory * 5 // 4, limit))
        promised = header.width * header.height
        return decode_here(data, most_pixels, promised=promised, at_least=at_least)
    seconds = setting("CAPTUNE_MAX_DECODING_SECONDS", MAX_SECONDS, "seconds")
    with _decoders.taken() as decoder:
        held.enter_context(_place(memory, limit))
        return decoder.decode(
            data, kind, most_pixels=most_pixels, memory=memory, seconds=seconds, at_least=at_least
        )


@contextmanager
def _place(memory: int, limit: int) -> Iterator[None]:
    with _pixels.hold(memory, limit):
        _heap.note(memory, limit)
        yield


def _memory(header: Header, file_bytes: int) -> int:
    """Bytes that decoding takes at its worst moment, beside the file itself.

    In the end there may be two pictures, of 4 bytes a pixel each: one as stored and one in RGB, or
    turned, or in another process. That process has a copy of the file as well.
    """
    pixels = header.width * header.height
    if not pixels:
        return _SIZE_UNKNOWN_BYTES
    memory = int(max(header.bytes_per_pixel, 8) * pixels)
    return memory if header.is_usual else memory + file_bytes


@contextmanager
def decoding_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that decode. Nothing new is begun after the block, and Ctrl-C waits for nothing."""
    share_heaps()
    with ThreadPoolExecutor(count, thread_name_prefix="captune-read") as threads:
        _threads.add(threads)
        try:
            yield threads
        except (KeyboardInterrupt, SystemExit):
            stop_decoding()
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            _threads.discard(threads)


def stop_decoding() -> None:
    """End by Stopped what is being decoded anywhere in this process: it is about to end."""
    for threads in tuple(_threads):
        threads.shutdown(wait=False, cancel_futures=True)
    _decoders.stop()
    _files.stop()
    _pixels.stop()
