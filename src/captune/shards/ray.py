"""The engine `ray`: actors of a cluster. Placement is Ray's, and one actor holds one loaded model.

No image enters the object store: an actor is told of a shard, and tells how it went.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from captune.errors import MissingExtra, UserError
from captune.shards.driver import READY, Dead, hand_out
from captune.shards.manifest import Report, Work
from captune.shards.sources import Shard
from captune_metrics.display import printable, shorten


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
