"""Actors of a Ray cluster: placement and restarts are Ray's, one actor holds one loaded model.

No image enters the object store: an actor is told of a shard, and tells how it went.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from captune.errors import MissingExtra, UserError
from captune.shards.sources import Shard
from captune.shards.task import Report, Work
from captune_metrics.text import printable

_STARTS = 3  # of an actor that ends before it has its model


def run_ray(work: Work, shards: Sequence[Shard], options: Any) -> Iterator[Report]:
    """The engine `ray`: reports in the order in which shards are done."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtra("--engine ray", "ray") from None
    began_here = not ray.is_initialized()
    if began_here:
        _begin(ray, options.address)
    cpus = 1.0 if options.cpus_per_job is None else options.cpus_per_job
    there = ray.cluster_resources()
    gpus = options.gpus_per_job
    if gpus is None:
        gpus = 1.0 if there.get("GPU") and options.device in ("auto", "cuda") else 0.0
    jobs = options.jobs or max(1, int(there.get("GPU", 0) / gpus if gpus else there["CPU"] / cpus))
    jobs = min(jobs, len(shards))
    threads = work.threads or max(1, min(16, int(cpus)))
    variables = {"OMP_NUM_THREADS": str(max(1, int(cpus))), "RAY_USAGE_STATS_ENABLED": "0"}
    actor = ray.remote(_Actor).options(
        num_cpus=cpus, num_gpus=gpus, max_restarts=0, runtime_env={"env_vars": variables}
    )
    pool = [_Slot(actor, replace(work, threads=threads)) for _ in range(jobs)]
    queue = deque(shards)
    starts = 0
    try:
        while True:
            for slot in pool:
                slot.feed(queue, jobs)
            waiting = {slot.future: slot for slot in pool if slot.shards}
            if not waiting:
                return
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            slot = waiting[ready]
            try:
                report = ray.get(ready)
            except ray.exceptions.RayActorError as error:
                # of its process or its node; a claim counts how often a shard ends one
                starts = 0 if slot.has_answered else starts + 1
                if starts >= _STARTS * jobs:
                    reason = printable(str(error))[:300]
                    raise UserError(f"an actor ended before it had its model ({reason})") from None
                queue.extendleft(reversed(slot.shards))
                pool[pool.index(slot)] = _Slot(actor, slot.work)
                continue
            if isinstance(report, UserError):
                raise report
            starts, slot.has_answered = 0, True
            slot.shards.popleft()
            yield report
    finally:
        for slot in pool:
            slot.end(ray)
        if began_here:
            ray.shutdown()


def _begin(ray: Any, address: str | None) -> None:
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, logging_level="error"
        )
    except (ConnectionError, ValueError, TimeoutError) as error:
        where = "" if address is None else f" {printable(address)}"
        raise UserError(
            f"--engine ray: no cluster{where} ({printable(str(error))[:200]})"
        ) from None


class _Actor:
    """A worker. What it cannot be made with is an answer: Ray would only say that it died."""

    def __init__(self, work: Work) -> None:
        from captune.shards.work import Worker

        self._refusal: UserError | None = None
        try:
            self._worker = Worker(work)
        except UserError as error:
            self._refusal = UserError(str(error))

    def do(self, shard: Shard, upcoming: Shard | None) -> Report | UserError:
        return self._refusal or self._worker.do(shard, upcoming)

    def close(self) -> None:
        if self._refusal is None:
            self._worker.close()


class _Slot:
    """A place in the pool: an actor, and the shards that it has, the first of them in work."""

    def __init__(self, actor: Any, work: Work) -> None:
        self.work = work
        self.shards: deque[Shard] = deque()
        self.future: Any = None
        self.has_answered = False
        self._actor = actor.remote(work)
        self._told: Shard | None = None

    def feed(self, queue: deque[Shard], jobs: int) -> None:
        """One shard to do, and the next one to read meanwhile, while others do not need it."""
        if not self.shards and queue:
            self.shards.append(queue.popleft())
        if len(self.shards) == 1 and len(queue) >= jobs:
            self.shards.append(queue.popleft())
        if self.shards and self._told is not self.shards[0]:
            self._told = self.shards[0]
            upcoming = self.shards[1] if len(self.shards) > 1 else None
            self.future = self._actor.do.remote(self.shards[0], upcoming)

    def end(self, ray: Any) -> None:
        try:
            if not self.shards:
                ray.get(self._actor.close.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):  # it has ended, or holds a shard
            pass
        ray.kill(self._actor)
