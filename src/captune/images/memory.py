"""How much memory decoded images may take, and a place in the queue for it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from captune.errors import Stopped, UserError
from captune.files import printable

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


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library
        return None
    return found


class Heap:
    """Gives freed memory back to the system now and then.

    glibc keeps what a thread has freed in a heap of its own, up to 64 MB and more.
    """

    def __init__(self) -> None:
        self._freed = 0

    def note(self, amount: int, limit: int) -> None:
        """`amount` bytes are about to be taken and freed; after half of `limit` there is a sweep.

        It takes some 20 ms; the images of half a limit take a second.
        """
        if amount < _LARGE_BYTES:
            return
        self._freed += amount
        if self._freed > limit // 2:
            self._freed = 0
            trim = _malloc_trim()
            if trim is not None:
                trim(0)


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
