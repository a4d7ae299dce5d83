"""Shards of answers: the job that makes them, `captune shards status`, and `captune shards merge`.

`classify`, `caption` and `embed` come here where their inputs or options speak of shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from captune.answer_files import parquet
from captune.errors import UserError
from captune.files import real_path
from captune.jobs import Result, check_outputs, files_among
from captune.options.shards import ShardOptions, ShardsOptions
from captune.progress import SILENT, Progress
from captune.runs import RunWriter
from captune.runs.kinds import KINDS
from captune.runs.metrics import Sharded
from captune.runs.records import json_value
from captune.runs.writer import claim
from captune.shards.driver import Tally, drive, forget_plan
from captune.shards.engines import run_local, run_ray
from captune.shards.manifest import Total, total_of, write_sample
from captune.shards.places import Place
from captune.tables import Column, Table, numbers
from captune.text import count, counted, duration, listed
from captune_metrics.display import printable

_REASONS = 5
_TURN_S = 60.0  # for another to write the run of the same shards
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(kw_only=True, eq=False)
class ShardsResult(Result):
    """What is done of shards. tally: by this command, None where it only looks.

    total: of a `part` alone where the command does one.
    """

    place: str
    total: Total
    tally: Tally | None = None
    part: str | None = None

    @property
    def sharded(self) -> Sharded:
        """How much is done, as metrics.json has it."""
        total = self.total
        return Sharded(
            self.place,
            total.shards,
            total.shards + len(total.open),
            total.rows,
            total.errors,
            dict(total.reasons.most_common(_REASONS)),
            total.rows / total.seconds if total.seconds else None,
        )

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        total, tally = self.total, self.tally
        failed = {} if tally is None else {"failed": tally.failed, "were_there": tally.there}
        return super().summary() | {
            **{name: value for name, value in json_value(self.sharded).items() if name != "rate"},
            "claimed": len(total.claimed),
            **failed,
        }

    def tables(self) -> list[Table]:
        """The most frequent reasons why there is no answer."""
        rows = [[reason, count(n)] for reason, n in self.sharded.reasons.items()]
        columns = [Column("no answer because", wide=True), *numbers("images")]
        return [Table("errors", "errors", columns, rows)] if rows else []

    def sentences(self) -> list[str]:
        """How much is done."""
        total, tally = self.total, self.tally
        of = counted(total.shards + len(total.open), "shard")
        of += f" of part {self.part}" if self.part else ""
        said = [
            f"{printable(self.place)}: {total.shards:,} of {of} done,"
            f" {counted(total.rows, 'image')}, {total.errors:,} of them without an answer"
        ]
        if tally is not None and tally.done:
            rate = tally.rows / tally.seconds if tally.seconds else 0.0
            said.append(
                f"now {counted(tally.done, 'shard')} in {duration(tally.seconds)},"
                f" {rate:,.1f} images per second"
            )
        if total.claimed:
            said.append(
                f"{counted(len(total.claimed), 'shard')} in work by other processes; the same"
                " command later does what they leave"
            )
        return said

    def failure(self) -> str:
        """The sentence for shards that failed; "" where none did."""
        if self.tally is None or not self.tally.failures:
            return ""
        told = [f"{stem} ({sentence})" for stem, sentence in list(self.tally.failed.items())[:3]]
        more = self.tally.failures - len(told)
        told += [f"{more:,} more"] if more else []
        failed, of = self.tally.failures, len(self.tally.stems)
        return (
            f"{failed:,} of {counted(of, 'shard')} failed: {listed(told)}; the same command tries"
            f" {'it' if failed == 1 else 'them'} again"
        )


def takes_shards(kind: str) -> Callable[[F], F]:
    """Decorate a job: where its options speak of shards, it runs as such."""

    def decorated(job: F) -> F:
        @wraps(job)
        def inside(
            options: ShardOptions,
            progress: Progress = SILENT,
            *,
            command: Sequence[str] = (),
            **more: Any,
        ) -> Any:
            if options.is_sharded:
                return run_sharded(kind, options, progress, command=command)
            return job(options, progress, command=command, **more)

        return cast("F", inside)

    return decorated


def run_sharded(
    kind: str, options: Any, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> ShardsResult:
    """Do what is missing of a job of shards. All of it, in a folder here, is a run as well.

    Raises UserError for what cannot be done; shards that fail are in the result's `failure`.
    """
    check_outputs(files_among(*options.images, getattr(options, "labels", None)), {}, None)
    parquet()  # which what is written needs
    out = Place.of(options.out)
    engine = run_ray if options.engine == "ray" else run_local
    tally = drive(kind, options, engine, progress)
    folder = Path(out.address)
    is_run = out.is_local and options.part is None and kind in KINDS
    # of several processes that end at the same moment the last one has all shards
    with claim(folder, kind, goes_on=True, waits_s=_TURN_S) if is_run else nullcontext():
        total = total_of(out, tally.stems if options.part else None)
        result = _result_of(out, total, tally, options.part)
        if is_run and result.total.models.models:
            _write_run(folder, result, command, progress)
    if tally.failures == len(tally.stems) and options.part is None:
        forget_plan(out)
    return result


def run(
    options: ShardsOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> ShardsResult:
    """Look at shards, or make a run folder of those that are done. Raises UserError."""
    out = Place.of(options.place)
    result = _result_of(out, total_of(out))
    if options.out is not None:
        if not result.total.models.models:
            raise UserError(f"{printable(out.address)}: no shard is done; there is no run to make")
        _write_run(options.out, result, command, progress)
    return result


def _result_of(
    out: Place, total: Total, tally: Tally | None = None, part: str | None = None
) -> ShardsResult:
    images = total.rows - total.errors
    return ShardsResult(images=images, place=out.address, total=total, tally=tally, part=part)


def _write_run(
    folder: Path, result: ShardsResult, command: Sequence[str], progress: Progress
) -> None:
    """run.json, metrics.json and the page, with a sample of the images; of a kind that has them."""
    total = result.total
    kind, options = total.plan.command, total.plan.options
    if kind not in KINDS or not total.sample:
        return
    models = total.models.models
    is_here = real_path(folder) == real_path(result.place)
    with RunWriter(folder, kind, options, folder, models, command, keeps=is_here) as run:
        for record in write_sample(folder, total.sample):
            run.record(record)
        run.metrics = _metrics(result)
    result.finish(folder, progress)


def _metrics(result: ShardsResult) -> dict[str, Any]:
    total, sums = result.total, result.total.sums
    images = max(1, result.images)
    found = {**total.models.figures, "images": result.images, "skipped": []}
    if "words" in sums:
        found |= {"ended": round(sums["ended"]), "words_mean": sums["words"] / images}
    if "agreement" in sums:
        found["agreement_mean"] = sums["agreement"] / images
    if "flagged" in sums:
        found["flagged"] = round(sums["flagged"])
    return found | {"sharded": result.sharded}
