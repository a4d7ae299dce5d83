"""A process beside the app that sees to it that the app ends when it is told to.

Python hears a signal only between two steps of its own, and a job may be within one that takes
minutes. The system itself writes the number of the signal into a pipe, and this process reads it:
an app that has not ended after `PATIENCE_S` is killed, on a second Ctrl-C at once. The pipe closes
with the app, however that ends, and its folder is removed. Run as a script, it imports nothing of
captune and is there in a few milliseconds.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 4.0  # the rest of the 5 s is for a loaded machine to take the process down
_AT_ONCE_S = 0.3  # for the app to end by itself on a second Ctrl-C
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Guard this process until the block ends. To be called in the main thread; not on Windows."""
    if os.name != "posix":
        yield
        return
    told, tells = os.pipe()
    os.set_blocking(tells, False)
    words = [sys.executable, "-I", "-S", __file__, str(told), str(os.getpid()), str(folder)]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(
        words, pass_fds=[told], start_new_session=True, stdin=nothing, stdout=nothing
    )
    os.close(told)
    before = signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(tells)
        process.wait()


def watch(told: int, app: int, folder: str) -> None:
    """Of the process: until the app has ended."""
    for one in STOPPING:
        signal.signal(one, signal.SIG_IGN)
    end: float | None = None
    while True:
        wait = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([told], [], [], wait)[0]:
            break
        numbers = os.read(told, 64)
        if not numbers:
            break
        for number in numbers:
            if end is not None and number == signal.SIGINT:
                end = min(end, time.monotonic() + _AT_ONCE_S)
            elif end is None and number in STOPPING:
                end = time.monotonic() + PATIENCE_S
    # the number may be another process's once the app is gone
    while os.getppid() == app and not _is_closed(told):
        os.kill(app, signal.SIGKILL)
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)


def _is_closed(told: int) -> bool:
    while select.select([told], [], [], 0)[0]:
        if not os.read(told, 64):
            return True
    return False


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
