"""What of a job is missing, and what came of it when an engine did it.

`hand_out` is what engines have in common: a worker that dies is replaced and costs one shard.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

from msgspec import structs

import captune
from captune.errors import UserError
from captune.files import check_writable, real_path
from captune.options.base import ImageOptions, RowOptions
from captune.options.shards import PLAN, ShardOptions, is_address
from captune.progress import SILENT, Progress
from captune.runs.records import json_value
from captune.shards.manifest import (
    CLAIMED,
    DONE,
    FAILED,
    MODELS,
    SAMPLE,
    STATS,
    SUFFIX,
    THERE,
    Plan,
    Report,
    Work,
    abandon,
    missing_of,
    read_plan,
)
from captune.shards.places import Place, store_of
from captune.shards.shard import Shard, find_shards
from captune.text import counted
from captune_metrics.display import printable

_NAMED = 20  # failed shards that are named
READY = "ready"  # what a worker says when it has its model
_STARTS = 3  # of workers that end before they have it
# options that decide where and how fast, and nothing of an answer
_FREE = {
    *(one.name for kind in (ImageOptions, RowOptions, ShardOptions) for one in fields(kind)),
    *("out", "overwrite", "device", "batch_size", "workers", "no_cache", "texts", "csv"),
    *("truth", "label_column", "all_probabilities", "top5", "predictions", "sidecar", "existing"),
    *("prefix", "suffix", "keep_candidates"),
} - {"image_column", "to"}


# hands shards to workers, wherever these are, and yields what came of each as it is known; raises
# UserError where no worker can begin; a worker that dies costs one shard
Engine = Callable[[Work, Sequence[Shard], Any], Iterator[Report]]


@dataclass
class Tally:
    """What came of a job, as far as it is known; it does not grow with the number of images.

    stems: of the shards of the job, or of its part. there: how many were done before. done, rows,
    errors: now. claimed: how many others work on. failed: stem -> why, the first of them; failures:
    how many.
    """

    stems: list[str]
    there: int = 0
    done: int = 0
    rows: int = 0
    errors: int = 0
    failures: int = 0
    claimed: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, report: Report) -> None:
        """One more shard."""
        self.there += report.status == THERE
        self.done += report.status == DONE
        self.claimed += report.status == CLAIMED
        self.rows += report.rows
        self.errors += report.errors
        if report.status == FAILED:
            self.failures += 1
            if len(self.failed) < _NAMED:
                self.failed[report.stem] = report.sentence


def drive(command: str, options: Any, engine: Engine, progress: Progress = SILENT) -> Tally:
    """Do what is missing of a job.

    Raises UserError for what cannot be done, and where other options or shards began in `--out`.
    """
    out = Place.of(options.out)
    if out.is_local:
        check_writable(Path(out.path(PLAN)))
    shards = find_shards(options.images, size=options.shard_size, image_column=options.image_column)
    _check_apart(out, shards)
    elsewhere = next((shard.address for shard in shards if is_address(shard.address)), None)
    if elsewhere is not None:
        store_of(elsewhere)  # no network, library or such protocol: said before a model is loaded
    began = settle_plan(out, command, options, shards)
    number, of = options.numbers_of_part()
    shards = shards[number - 1 :: of]
    missing = missing_of(out, shards, retry_errors=options.retry_errors)
    tally = Tally([shard.stem for shard in shards], len(shards) - len(missing))
    if began and tally.there:
        progress.message(f"{tally.there:,} of {counted(len(shards), 'shard')} were there")
    sample = max(1, SAMPLE // max(1, len(shards)))
    work = Work(command, options, out, sample, options.workers)
    started = time.monotonic()
    with progress.bar("shards", len(shards)) as advance:
        if tally.there:
            advance(tally.there, before=True)
        for report in engine(work, missing, options) if missing else ():
            tally.add(report)
            tally.seconds = time.monotonic() - started
            rate = tally.rows / tally.seconds if tally.seconds else 0.0
            advance(1, f"{tally.rows:,} images, {rate:,.1f} per second")
    return tally


def settle_plan(out: Place, command: str, options: Any, shards: Sequence[Shard]) -> bool:
    """Write down what is done in `out`, or go on with it: then True.

    Raises UserError where it was begun with other options, and where a stem is of another shard.
    """
    asked = _asked(command, options, shards)
    ours = {shard.stem: shard.identity for shard in shards}
    plan = read_plan(out)
    if plan is None:
        if any(name == "run.json" or name.endswith((".parquet", ".tar")) for name in out.names()):
            raise UserError(
                f"{printable(out.address)} holds files that no captune of shards wrote; choose"
                " another --out"
            )
        plan = Plan(command, asked, json_value(options), ours)  # type: ignore[arg-type]
        if out.create(PLAN, _written(plan)):
            return False
        plan = read_plan(out)  # somebody else began at the same moment
        assert plan is not None
    then = plan.asked
    for name in sorted(then.keys() | asked):
        if then.get(name) != asked.get(name):
            raise UserError(
                f"{printable(out.address)} was started {_told(name, then.get(name))}, and this is"
                f" {_told(name, asked.get(name))}; use the same options to go on, or another --out"
            )
    known = plan.shards
    for stem, identity in ours.items():
        if known.get(stem, identity) != identity:
            raise UserError(
                f"{printable(out.address)}: {printable(stem)} is of {printable(known[stem])} there,"
                f" and of {printable(identity)} now; use the same images, or another --out"
            )
    if ours.keys() - known.keys():
        out.write(PLAN, _written(structs.replace(plan, shards=known | ours)))
    return True


def forget_plan(out: Place) -> None:
    """Where nothing is done and nobody is at work, `out` may begin anew, with other options."""
    if not any(name.endswith((STATS, SUFFIX)) for name in out.names()):
        for name in (PLAN, MODELS):
            out.remove(name)


def _written(plan: Plan) -> bytes:
    return json.dumps({**json_value(plan), "captune": captune.__version__}).encode()


def _asked(command: str, options: Any, shards: Sequence[Shard]) -> dict[str, Any]:
    """All that answers depend on, by the names of options."""
    asked = {
        one.name.replace("_", "-"): json_value(getattr(options, one.name))
        for one in fields(options)
        if one.name not in _FREE
    }
    if "labels" in asked:
        from captune.zeroshot.labels import read_labels

        labels = read_labels(options.labels)
        told = json.dumps([labels.ids, labels.names, labels.prompts])
        digest = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        asked["labels"] = f"{counted(len(labels), 'label')} ({digest})"
    if any(shard.images or shard.rows for shard in shards):
        asked["shard-size"] = options.shard_size
    return {"command": command, **asked}


def _told(name: str, value: Any) -> str:
    option = name if name == "command" else f"--{name}"
    if value is None or value is False or value == []:
        return f"without {option}"
    if value is True:
        return f"with {option}"
    words = value if isinstance(value, list) else [value]
    return f"with {option} {printable(' '.join(map(str, words)))}"


def _check_apart(out: Place, shards: Iterable[Shard]) -> None:
    """Answers have the names of their shards, so they may not lie beside them."""
    for shard in shards:
        if shard.rows is not None:
            continue
        folder = shard.address if shard.images else shard.address.rpartition("/")[0]
        is_same = folder == out.address
        if out.is_local and not is_address(folder):
            here, there = real_path(folder), real_path(out.address)
            # what is left beside answers would be found among the images of a folder
            inside = bool(shard.images) and there.is_relative_to(here)
            is_same = inside or here.is_relative_to(there)
        if is_same:
            raise UserError(
                f"--out {printable(out.address)} holds what is read, or lies in it; choose another"
                " folder"
            )


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


H = TypeVar("H", bound=Hand)


def hand_out(
    out: Place,
    shards: Sequence[Shard],
    jobs: int,
    start: Callable[[int], H],
    hear: Callable[[Sequence[H]], Iterable[tuple[H, Any]]],
) -> Iterator[Report]:
    """What came of each shard, in the order in which they are done.

    start: a worker, given its place in the pool. hear: waits until some of the workers say
    something: READY, a Report, an exception to raise here, or it says that one is Dead. How often
    a shard ends its worker is counted by its claim. Raises UserError where none can begin.
    """
    queue = deque(shards)
    places = {start(place): place for place in range(jobs)}
    held: dict[H, deque[Shard]] = {worker: deque() for worker in places}
    ready: set[H] = set()
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
