"""Hands shards to workers, wherever they are; one that dies is replaced and costs one shard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from captune.errors import UserError
from captune.shards.claims import abandon
from captune.shards.places import Place
from captune.shards.sources import Shard
from captune.shards.task import Report
from captune_metrics.text import printable

READY = "ready"  # what a worker says when it has its model
_STARTS = 3  # of workers that end before they have it


@dataclass(frozen=True)
class Dead:
    """Said of a worker that is gone."""

    reason: str


class Hand(Protocol):
    """A worker somewhere."""

    def ask(self, shard: Shard, upcoming: Shard | None) -> None:
        """Do a shard; read the next one meanwhile. It may be gone, which is heard."""

    def end(self) -> None:
        """End it, whatever it does."""


W = TypeVar("W", bound=Hand)


def hand_out(
    out: Place,
    shards: Sequence[Shard],
    jobs: int,
    start: Callable[[int], W],
    hear: Callable[[Sequence[W]], Iterable[tuple[W, Any]]],
) -> Iterator[Report]:
    """What came of each shard, in the order in which they are done.

    start: a worker, given its place in the pool. hear: waits until some of the workers say
    something: READY, a Report, an exception to raise here, or it says that one is Dead. How often
    a shard ends its worker is counted by its claim. Raises UserError where none can begin.
    """
    queue = deque(shards)
    places = {start(place): place for place in range(jobs)}
    held: dict[W, deque[Shard]] = {worker: deque() for worker in places}
    ready: set[W] = set()
    deaths = 0
    try:
        while queue or any(held.values()):
            for worker, said in hear([*held]):
                if isinstance(said, Exception):
                    raise said
                if isinstance(said, Dead):
                    deaths = 0 if worker in ready else deaths + 1
                    if deaths >= _STARTS:
                        raise UserError(
                            f"a worker ended before it had its model ({printable(said.reason)});"
                            " take fewer --jobs, or a smaller model"
                        )
                    for shard in reversed(held.pop(worker)):
                        abandon(out, shard.stem)
                        queue.appendleft(shard)
                    ready.discard(worker)
                    place = places.pop(worker)
                    another = start(place)
                    places[another], held[another] = place, deque()
                    continue
                if isinstance(said, Report):
                    held[worker].popleft()
                    yield said
                ready.add(worker)
                _give(worker, held[worker], queue, jobs)
            for worker in ready:
                if not held[worker]:  # a worker that died has left something to do
                    _give(worker, held[worker], queue, jobs)
    finally:
        for worker in held:
            worker.end()


def _give(worker: Hand, own: deque[Shard], queue: deque[Shard], jobs: int) -> None:
    """One shard to do, and the next one to read meanwhile, while others do not need it."""
    if not own and queue:
        own.append(queue.popleft())
    if len(own) == 1 and len(queue) >= jobs:
        own.append(queue.popleft())
    if own:
        worker.ask(own[0], own[1] if len(own) > 1 else None)
