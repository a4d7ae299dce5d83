"""The engine `local`: worker processes of this machine, one a GPU or a few cores."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from captune.errors import UserError
from captune.shards.driver import READY, Dead, hand_out
from captune.shards.manifest import Report, Work
from captune.shards.sources import Shard
from captune.storage import is_offline, set_offline
from captune.threads import processors

_CORES = 4  # of a job where no GPU is
_ENDS_S = 10.0  # for a worker to let go of what it holds


def run_local(work: Work, shards: Sequence[Shard], options: Any) -> Iterator[Report]:
    """What came of each shard, in the order in which they are done. Raises UserError."""
    cards = _cards(options.device)
    jobs = options.jobs or len(cards) or max(1, processors() // _CORES)
    jobs = min(jobs, len(shards))
    work = replace(work, threads=work.threads or min(16, max(1, processors() // jobs)))

    def start(place: int) -> _Process:
        return _Process(work, jobs, cards[place % len(cards)] if cards else None)

    return hand_out(work.out, shards, jobs, start, _hear)


def _hear(processes: Sequence[_Process]) -> Iterator[tuple[_Process, Any]]:
    heard = wait([one.hears for one in processes])
    for one in processes:
        if one.hears in heard:
            try:
                yield one, one.hears.recv()
            except (EOFError, OSError):
                one.process.join(_ENDS_S)
                yield one, Dead(f"status {one.process.exitcode}")


class _Process:
    """A worker in a process of its own. card: the GPU that it sees."""

    def __init__(self, work: Work, jobs: int, card: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.hears, theirs = context.Pipe()
        arguments = (theirs, work, jobs, card, is_offline())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        with _without_main():
            self.process.start()
        theirs.close()

    def ask(self, shard: Shard, upcoming: Shard | None) -> None:
        with suppress(OSError):  # it is gone, which is heard
            self.hears.send((shard, upcoming))

    def end(self) -> None:
        self.hears.close()
        self.process.terminate()
        self.process.join(_ENDS_S)
        self.process.kill()


@contextmanager
def _without_main() -> Iterator[None]:
    """A worker needs nothing of the script that began this, and does not run it again."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _cards(device: str) -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them, without loading what would take one."""
    if device not in ("auto", "cuda"):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [card.strip() for card in named.split(",") if card.strip()]
    with suppress(OSError):
        return [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    return []


def _serve(tells: Connection, work: Work, jobs: int, card: str | None, offline: bool) -> None:
    """In the worker, before torch is imported: do what comes in, and end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, processors() // jobs)))
    set_offline(offline)
    logging.getLogger("captune").addHandler(logging.StreamHandler())
    from captune.shards.work import Worker

    try:
        worker = Worker(work)
    except UserError as error:
        tells.send(UserError(str(error)))  # others need more to be made of
        return
    except Exception:  # ours: the parent raises it, with where it was
        tells.send(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))
        return

    def end(*_: object) -> None:
        worker.release()
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=_end_after_parent, args=(end,), daemon=True).start()
    tells.send(READY)
    with suppress(EOFError, OSError):
        while True:
            tells.send(worker.do(*tells.recv()))
    worker.close()


def _end_after_parent(end: Callable[[], None]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    end()
