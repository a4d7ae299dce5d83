"""Decodes unusual files in processes of their own, which are ended when they take too long.

They are started when first needed and used again; each decodes one image at a time. What their
libraries print goes nowhere: the reason for a refusal is the one message.

A request is a line of JSON, then the file; the answer a letter and a length, then pixels or text,
then R once it is ready for the next one and has given back what it took.
A process ends with the one that started it, while it waits and, by signals, while it decodes.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

from PIL import Image

from captune.errors import Stopped
from captune.images.formats import UnreadableImage, decode_here, strips
from captune.threads import processors

_MOST = 8
_M_ARENA_MAX = -8  # of malloc.h
_START_S = 60.0
_MAIN = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from captune.images.processes import answer_requests
answer_requests()
"""


class DecoderProcess:
    """One process, and what is known of it: whether it waits for a request."""

    def __init__(self) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError("there is no Python interpreter to run")
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *(path for path in sys.path if path not in ("", root))]
        # glibc: one heap, and large blocks given back at once
        heap = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}
        self._process = subprocess.Popen(
            # -P: nothing is imported from the folder that the user happens to be in
            [sys.executable, "-P", "-S", "-c", _MAIN, json.dumps(paths)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **heap},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._is_late = False
        self.is_waiting = False
        with self._ended_after(_START_S):
            self.is_waiting = self._answers.read(1) == b"R"
        if not self.is_waiting:
            raise OSError(f"it ended with status {self.end()}")

    def decode(
        self,
        data: bytes,
        kind: str,
        *,
        most_pixels: int,
        memory: int,
        seconds: float,
        at_least: int | None = None,
    ) -> Image.Image:
        """As `formats.decode_here` there. memory: bytes that it may take.

        Raises UnreadableImage, also where the process takes longer, or crashes.
        """
        request = {
            "bytes": len(data),
            "pixels": most_pixels,
            "memory": memory,
            "seconds": seconds,
            "at_least": at_least,
        }
        self.is_waiting = False
        try:
            with self._ended_after(seconds):
                self._requests.write(json.dumps(request).encode() + b"\n")
                self._requests.write(data)
                self._requests.flush()
                answer = self._answer()
                is_ready = self._read(1) == b"R"
        except (EOFError, OSError):
            status = -self.end()
            if self._is_late or status == getattr(signal, "SIGALRM", 0):
                raise UnreadableImage(
                    f"takes over {seconds:g} s to decode (CAPTUNE_MAX_DECODING_SECONDS)"
                ) from None
            if status == getattr(signal, "SIGKILL", 0):
                raise UnreadableImage("not enough memory to decode it") from None
            raise UnreadableImage(f"damaged {kind}, which ends its decoder") from None
        self.is_waiting = is_ready and not self._is_late
        if isinstance(answer, str):
            raise UnreadableImage(answer)
        return answer

    def end(self) -> int:
        """Returns its exit status: the negative signal where one ended it."""
        self.is_waiting = False
        self.kill()
        status = self._process.wait()
        for stream in (self._requests, self._answers):
            with suppress(OSError):
                stream.close()
        return status

    def kill(self) -> None:
        """From any thread: what waits for an answer learns that there will be none."""
        with suppress(OSError):
            self._process.kill()

    def _answer(self) -> Image.Image | str:
        """The picture, or the reason why there is none."""
        letter = self._read(1)
        width, height = struct.unpack("<II", self._read(8))
        if letter != b"P":
            text = self._read(width).decode("utf-8", "replace")
            if letter == b"B":
                raise RuntimeError(f"in the process that decodes images:\n{text}")
            return text
        picture = Image.new("RGB", (width, height))
        for box in strips(picture.size):
            size = box[2] - box[0], box[3] - box[1]
            pixels = self._read(3 * size[0] * size[1])
            picture.paste(Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1), box)
        return picture

    def _read(self, count: int) -> bytes:
        data = self._answers.read(count)
        if len(data) < count:
            raise EOFError
        return data

    @contextmanager
    def _ended_after(self, seconds: float) -> Iterator[None]:
        def end() -> None:
            self._is_late = True
            self.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        try:
            yield
        finally:
            clock.cancel()
            clock.join()


class Decoders:
    """The processes of this one, as many as there are cores, at most 8."""

    def __init__(self) -> None:
        self.forget()
        atexit.register(self.end_idle)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """After a fork they belong to the other process."""
        self._changed = threading.Condition()
        self._idle: list[DecoderProcess] = []
        self._busy: set[DecoderProcess] = set()
        self._free = min(_MOST, processors())
        self._stops = 0

    @contextmanager
    def taken(self) -> Iterator[DecoderProcess]:
        """One that waits for a request, for the block alone.

        Raises UnreadableImage where none can be started, Stopped after `stop`.
        """
        decoder, stops = self._take()
        try:
            yield decoder
        except UnreadableImage:
            if self._stops > stops and not decoder.is_waiting:
                raise Stopped("decoding was stopped") from None
            raise
        finally:
            if not decoder.is_waiting:
                decoder.end()
            with self._changed:
                self._busy.discard(decoder)
                if decoder.is_waiting:
                    self._idle.append(decoder)
            self._give_back()

    def _take(self) -> tuple[DecoderProcess, int]:
        with self._changed:
            stops = self._stops
            while not self._free:
                self._changed.wait()
                if self._stops > stops:
                    raise Stopped("decoding was stopped")
            self._free -= 1
            decoder = self._idle.pop() if self._idle else None
        try:
            decoder = decoder or DecoderProcess()
        except OSError as error:
            self._give_back()
            reason = error.strerror or error
            raise UnreadableImage(f"no process can be started to decode it ({reason})") from error
        except BaseException:
            self._give_back()
            raise
        with self._changed:
            if self._stops == stops:
                self._busy.add(decoder)
                return decoder, stops
            self._idle.append(decoder)
        self._give_back()
        raise Stopped("decoding was stopped")

    def _give_back(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()

    def stop(self) -> None:
        """End what is being decoded, and all waiting, by Stopped."""
        with self._changed:
            self._stops += 1
            for decoder in self._busy:
                decoder.kill()
            self._changed.notify_all()

    def end_idle(self) -> None:
        """End those that wait for a request; others are started when they are needed."""
        with self._changed:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.end()


_ROOM = 2**27  # bytes beside what an image is expected to take, before it is refused
_GRACE_S = 5.0  # the parent ends this process by the clock; if it is gone, the clock does


def answer_requests() -> None:
    """In the started process: answer requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _be_modest()
    answers.write(b"R")
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        if len(data) == request["bytes"]:
            _answer(data, request, requests, answers)
            del data
            give_back_memory()
            answers.write(b"R")
            answers.flush()


def _answer(data: bytes, request: dict[str, Any], requests: IO[bytes], answers: IO[bytes]) -> None:
    try:
        with _ending_with_parent(requests, request["seconds"]), _limited_memory(request["memory"]):
            picture = decode_here(data, request["pixels"], at_least=request["at_least"])
        del data
    except UnreadableImage as error:
        _write(answers, b"U", error.reason)
    except MemoryError:
        _write(answers, b"U", "not enough memory to decode it")
    except Exception:
        _write(answers, b"B", traceback.format_exc())
    else:
        answers.write(b"P" + struct.pack("<II", *picture.size))
        for box in strips(picture.size):
            answers.write(picture.crop(box).tobytes())


def give_back_memory() -> None:
    """What the C library keeps of freed memory goes back to the system (glibc)."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def share_heaps() -> None:
    """Threads begun from now on share as many heaps as there are processors (glibc).

    Each heap keeps memory that was freed; by default there are eight for a processor.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, max(2, processors()))


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return found


def _write(answers: IO[bytes], letter: bytes, text: str) -> None:
    data = text.encode("utf-8", "replace")
    answers.write(letter + struct.pack("<II", len(data), 0) + data)


def _be_modest() -> None:
    """One thread a process, and no limit of Pillow's own: captune has checked the size."""
    from PIL import AvifImagePlugin, Image

    Image.MAX_IMAGE_PIXELS = None
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1


@contextmanager
def _ending_with_parent(requests: IO[bytes], seconds: float) -> Iterator[None]:
    """Within, the end of the request stream ends the process at once, and so does its time.

    Whatever a decoder does: both are signals that nobody handles.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    flags = fcntl.fcntl(requests, fcntl.F_GETFL)
    signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_S)
    with suppress(OSError):  # not on every system; then the clock has to do
        fcntl.fcntl(requests, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(requests, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(requests, fcntl.F_SETFL, flags)  # the next request must not end it
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _limited_memory(expected: int) -> Iterator[None]:
    """Within, the kernel refuses what an image takes beyond its header's promise (Linux)."""
    if sys.platform != "linux":
        yield
        return
    import resource

    status = Path("/proc/self/status").read_text(encoding="ascii")
    used = int(status.split("VmData:", 1)[1].split()[0]) * 1024
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    most = used + expected + _ROOM
    if limits[1] == resource.RLIM_INFINITY or most < limits[1]:
        resource.setrlimit(resource.RLIMIT_DATA, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
