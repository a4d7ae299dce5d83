"""The engines: `local`, processes of this machine, one per GPU or a few cores; `ray`, a cluster.

Placement on a cluster is Ray's, and one actor holds one loaded model. No image enters the object
store: an actor is told of a shard, and tells how it went.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from captune.errors import MissingExtra, UserError
from captune.shards.driver import READY, Dead, hand_out
from captune.shards.manifest import Report, Work
from captune.shards.shard import Shard
from captune.storage import is_offline, set_offline
from captune.threads import end_with_parent, processors
from captune_metrics.display import printable, shorten

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
    end_with_parent(end)
    tells.send(READY)
    with suppress(EOFError, OSError):
        while True:
            tells.send(worker.do(*tells.recv()))
    worker.close()


def run_ray(work: Work, shards: Sequence[Shard], options: Any) -> Iterator[Report]:
    """What came of each shard, in the order in which they are done. Raises UserError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtra("--engine ray", "ray") from None
    began_here = not ray.is_initialized()
    if began_here:
        _begin(ray, options.address)
    there = ray.cluster_resources()
    cpus = 1.0 if options.cpus_per_job is None else options.cpus_per_job
    gpus = options.gpus_per_job
    if gpus is None:
        gpus = 1.0 if there.get("GPU") and options.device in ("auto", "cuda") else 0.0
    room = there.get("GPU", 0) / gpus if gpus else there.get("CPU", 1) / (cpus or 1)
    jobs = min(options.jobs or max(1, int(room)), len(shards))
    threads = str(max(1, int(cpus)))
    variables = {"OMP_NUM_THREADS": threads, "RAY_USAGE_STATS_ENABLED": "0"}
    work = replace(work, threads=work.threads or min(16, int(threads)))
    kind = ray.remote(_Actor).options(
        num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": variables}
    )

    def hear(actors: Sequence[_Remote]) -> Iterator[tuple[_Remote, Any]]:
        waiting = {one.future: one for one in actors if one.future is not None}
        for future in ray.wait(list(waiting), num_returns=1)[0]:
            actor = waiting[future]
            try:
                said = ray.get(future)
            except ray.exceptions.RayActorError as error:  # its process, or its node
                said = Dead(shorten(printable(" ".join(str(error).split())), 200))
            actor.future = None
            yield actor, said

    try:
        yield from hand_out(work.out, shards, jobs, lambda _: _Remote(ray, kind.remote(work)), hear)
    finally:
        if began_here:
            ray.shutdown()


def _begin(ray: Any, address: str | None) -> None:
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, TimeoutError) as error:
        where = "" if address is None else f" {printable(address)}"
        raise UserError(f"--engine ray: no cluster{where} ({printable(error)[:200]})") from None


class _Actor:
    """A worker. What it cannot be made with is an answer: Ray would only say that it died."""

    def __init__(self, work: Work) -> None:
        from captune.shards.work import Worker

        self._refusal: UserError | None = None
        try:
            self._worker = Worker(work)
        except UserError as error:
            self._refusal = UserError(str(error))

    def ready(self) -> str | UserError:
        return self._refusal or READY

    def do(self, shard: Shard, upcoming: Shard | None) -> Report:
        return self._worker.do(shard, upcoming)

    def close(self) -> None:
        if self._refusal is None:
            self._worker.close()


class _Remote:
    """An actor, and what it was asked last."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.future = actor.ready.remote()

    def ask(self, shard: Shard, upcoming: Shard | None) -> None:
        self.future = self._actor.do.remote(shard, upcoming)

    def end(self) -> None:
        try:
            if self.future is None:  # it holds no shard, at most one that it read ahead
                self._ray.get(self._actor.close.remote(), timeout=5)
        except (self._ray.exceptions.RayError, TimeoutError):
            pass
        self._ray.kill(self._actor)
