"""How many threads compute, and how they wait for each other: settled before torch is imported.

torch's OpenMP library (libgomp in its wheels for Linux) reads its settings once, when it is loaded.
By default its threads spin at a barrier for milliseconds. Beside another computing process the
thread that they wait for is often one that the system has put off, and spinning keeps it waiting.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

# what a user says of threads, each for all of them
VARIABLES = (
    *("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_PROC_BIND"),
    *("GOMP_SPINCOUNT", "GOMP_CPU_AFFINITY", "KMP_BLOCKTIME", "MKL_NUM_THREADS"),
)
# Rounds of some 50 ns. Alone, the gap between two parallel regions is mostly shorter than the
# first, and a thread that sleeps costs more to wake; beside others the second is as long as waking.
_ALONE, _BESIDE_OTHERS = 10_000, 1_000


def settle_threads() -> None:
    """Set what the user left open, for this process and those that it starts.

    Nothing where the user said anything about threads, or where torch is there already.
    """
    if "torch" in sys.modules or any(name in os.environ for name in VARIABLES):
        return
    spins = _BESIDE_OTHERS if _computing() > 1 else _ALONE
    os.environ["GOMP_SPINCOUNT"] = str(spins)
    if processors() < _allowed():  # torch counts those of the machine, not of its container
        os.environ["OMP_NUM_THREADS"] = str(processors())


def processors() -> int:
    """How many this process may use at the same time, by its affinity and its container."""
    return max(1, min(_allowed(), math.ceil(_quota())))


def end_with_parent(end: Callable[[], object] = lambda: os._exit(1)) -> None:
    """Call `end` when the process that began this one is gone; nothing in one that nobody began."""
    from multiprocessing import parent_process  # too long for `captune --help`
    from threading import Thread

    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        end()

    Thread(target=wait, name="parent", daemon=True).start()


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _quota() -> float:
    """Processors' worth of time that a control group (v2) grants; all where there is none."""
    try:
        group = _read("/proc/self/cgroup").strip().removeprefix("0::/")
        granted, of = _read(f"/sys/fs/cgroup/{group}/cpu.max").split()
        return int(granted) / int(of)
    except (OSError, ValueError):  # another system, version 1, or "max"
        return _allowed()


def _computing() -> int:
    """Threads of the whole machine that run or want to, this one among them."""
    try:
        return int(_read("/proc/loadavg").split()[3].partition("/")[0])
    except OSError:  # not Linux
        return 1


def _read(path: str) -> str:
    # importing pathlib takes longer than all of this
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return file.read()
