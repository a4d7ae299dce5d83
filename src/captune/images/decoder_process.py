"""The other end of `captune.images.processes`: decodes one image after another, and can be ended.

A request is a line of JSON, then the file; the answer a letter and a length, then pixels or text.
The process ends with the one that started it, while it waits and, by signals, while it decodes.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from captune.images.formats import UnreadableImage
from captune.images.pixels import decode_here, strips

_ROOM = 2**27  # bytes beside what an image is expected to take, before it is refused
_GRACE_S = 5.0  # the parent ends this process by the clock; if it is gone, the clock does


def main() -> None:
    """Answer requests on standard input until it ends."""
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
