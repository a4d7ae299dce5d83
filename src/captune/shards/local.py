"""Worker processes of this machine. One that dies is replaced, and costs the shard it was at."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.shards.sources import Shard
from captune.shards.task import Report, Work
from captune.storage import is_offline, set_offline
from captune.threads import processors

_CORES = 4  # of a job where no GPU is
_STARTS = 3  # of a worker that ends before it has its model
_ENDS_S = 10.0  # for a worker to let go of what it holds


def run_local(work: Work, shards: Sequence[Shard], options: Any) -> Iterator[Report]:
    """The engine `local`: reports in the order in which shards are done."""
    cards = _cards(options.device)
    jobs = options.jobs or len(cards) or max(1, processors() // _CORES)
    jobs = min(jobs, len(shards))
    threads = work.threads or max(1, processors() // jobs)
    work = replace(work, threads=min(16, threads))
    queue = deque(shards)
    pool = [_Process(work, jobs, cards[i % len(cards)] if cards else None) for i in range(jobs)]
    starts = 0
    try:
        while queue or any(one.has_work for one in pool):
            for one in pool:
                one.feed(queue, jobs)
            if not any(one.has_work for one in pool):
                break
            heard = wait([one.hears for one in pool if one.has_work])
            for i, one in enumerate(pool):
                if one.hears not in heard:
                    continue
                try:
                    said = one.hears.recv()
                except (EOFError, OSError):
                    status = one.ended()
                    starts = 0 if one.is_ready else starts + 1
                    if starts >= _STARTS:
                        raise UserError(
                            f"a worker process ended before it had its model (status {status});"
                            " take fewer --jobs, or a smaller model"
                        ) from None
                    queue.extendleft(reversed(one.shards))  # claims count how often it happens
                    pool[i] = _Process(work, jobs, one.card)
                    continue
                if isinstance(said, Exception):
                    raise said
                if isinstance(said, Report):
                    one.shards.popleft()
                    yield said
                else:
                    one.is_ready = True
    finally:
        for one in pool:
            one.end()
        for one in pool:
            one.process.join(_ENDS_S)
            if one.process.is_alive():
                one.process.kill()


class _Process:
    """A worker: shards are what it has, the first of them in work."""

    def __init__(self, work: Work, jobs: int, card: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.shards: deque[Shard] = deque()
        self.is_ready = False
        self.card = card
        self.hears, theirs = context.Pipe()
        self._told: Shard | None = None  # what it was asked to do last
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, work, jobs, card, is_offline()), daemon=True
        )
        self.process.start()
        theirs.close()

    @property
    def has_work(self) -> bool:
        return bool(self.shards)

    def feed(self, queue: deque[Shard], jobs: int) -> None:
        """One shard to do, and the next one to read meanwhile, while others do not need it."""
        if not self.shards and queue:
            self.shards.append(queue.popleft())
        if len(self.shards) == 1 and len(queue) >= jobs:
            self.shards.append(queue.popleft())
        if self.shards and self._told is not self.shards[0]:
            self._told = self.shards[0]
            with suppress(OSError):  # it has ended, which is heard
                self.hears.send((self.shards[0], self.shards[1] if len(self.shards) > 1 else None))

    def ended(self) -> int | None:
        self.process.join(_ENDS_S)
        return self.process.exitcode

    def end(self) -> None:
        self.hears.close()
        if self.process.is_alive():
            self.process.terminate()


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


def _end_after(parent: Any, end: Callable[[], None]) -> None:
    parent.join()
    end()


def _serve(tells: Connection, work: Work, jobs: int, card: str | None, offline: bool) -> None:
    """In the worker, before torch is imported: do what comes in, and end with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, processors() // jobs))
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
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent, end), daemon=True).start()
    tells.send("ready")
    with suppress(EOFError, OSError):
        while True:
            shard, upcoming = tells.recv()
            tells.send(worker.do(shard, upcoming))
    worker.close()
