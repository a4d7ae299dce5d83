"""What of a job is missing, who does it, and what came of it.

In the folder or address of the answers:

    _captune.json   the command, the options that decide answers, and stem -> shard: the manifest
    _models.json    the models, by the first worker
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import captune
from captune.errors import UserError
from captune.files import real_path
from captune.json_yaml import parse_json
from captune.options.base import ImageOptions, RowOptions
from captune.options.shards import PLAN, ShardOptions, is_address
from captune.progress import SILENT, Progress
from captune.runs.records import plain
from captune.shards.claims import SUFFIX, claim_of, is_alive
from captune.shards.places import Place
from captune.shards.sources import Shard, find_shards
from captune.shards.task import CLAIMED, DONE, FAILED, MODELS, STATS, THERE, Report, Work
from captune.text import counted
from captune_metrics.text import printable

_SAMPLE = 200  # images on the page of the run
_NAMED = 20  # failed shards that are named
# options that decide where and how fast, and nothing of an answer
_FREE = {
    *(one.name for kind in (ImageOptions, RowOptions, ShardOptions) for one in fields(kind)),
    *("out", "overwrite", "device", "batch_size", "workers", "no_cache", "texts", "csv"),
    *("truth", "label_column", "all_probabilities", "top5", "predictions", "sidecar", "existing"),
    *("prefix", "suffix", "keep_candidates"),
} - {"image_column"}


class Engine(Protocol):
    """Hands shards to workers, wherever these are, and yields what came of each as it is known."""

    def __call__(self, work: Work, shards: Sequence[Shard], options: Any) -> Iterator[Report]:
        """Raises UserError where no worker can begin. A worker that dies costs one shard."""
        ...


@dataclass
class Tally:
    """What came of a job, as far as it is known; it does not grow with the number of images.

    shards: of the job, or of its part. there: how many were done before. done, rows, errors: now.
    claimed: stems that others work on. failed: stem -> why, the first of them; failures: how many.
    """

    shards: int
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


def drive(
    command: str,
    options: Any,
    engine: Engine,
    progress: Progress = SILENT,
    every: Callable[[], object] = lambda: None,
) -> Tally:
    """Do what is missing of a job. every: called after each shard.

    Raises UserError for what cannot be done, and where other options or shards began in `--out`.
    """
    out = Place.of(options.out)
    shards = find_shards(options.images, size=options.shard_size, image_column=options.image_column)
    _check_apart(out, shards)
    began = settle_plan(out, command, options, shards)
    number, of = options.numbers_of_part()
    shards = shards[number - 1 :: of]
    missing = missing_of(out, shards, retry_errors=options.retry_errors)
    tally = Tally(len(shards), len(shards) - len(missing))
    if began:
        progress.message(f"{tally.there:,} of {counted(len(shards), 'shard')} were there")
    sample = max(1, _SAMPLE // max(1, len(shards)))
    work = Work(command, options, out, sample, options.workers)
    started = time.monotonic()
    with progress.bar("shards", len(shards)) as advance:
        if tally.there:
            advance(tally.there, before=True)
        for report in engine(work, missing, options) if missing else ():
            tally.add(report)
            tally.seconds = time.monotonic() - started
            rate = tally.rows / tally.seconds if tally.seconds else 0.0
            advance(1, f"{tally.rows:,} images, {rate:,.1f} a second")
            every()
    return tally


def settle_plan(out: Place, command: str, options: Any, shards: Sequence[Shard]) -> bool:
    """Write down what is done in `out`, or go on with it: then True.

    Raises UserError where it was begun with other options, and where a stem is of another shard.
    """
    asked = _asked(command, options, shards)
    ours = {shard.stem: shard.identity for shard in shards}
    plan = read_plan(out)
    if plan is None:
        others = out.names() - {"run.json"}
        if any(name.endswith((".parquet", ".tar")) for name in others):
            raise UserError(
                f"{printable(out.address)}: holds files that no captune of shards wrote; choose"
                " another --out"
            )
        plan = {"captune": captune.__version__, "asked": asked, "shards": ours}
        plan |= {"command": command, "options": plain(options)}
        out.write(PLAN, json.dumps(plan).encode())
        return False
    _refuse_other(out, plan["asked"], asked)
    known = plan["shards"]
    for stem, identity in ours.items():
        if known.get(stem, identity) != identity:
            raise UserError(
                f"{printable(out.address)}: {printable(stem)} is of {printable(known[stem])} there,"
                f" and of {printable(identity)} now; use the same images, or another --out"
            )
    if ours.keys() - known.keys():
        out.write(PLAN, json.dumps({**plan, "shards": known | ours}).encode())
    return True


def read_plan(out: Place) -> dict[str, Any] | None:
    """What was begun in `out`; None where nothing was. Raises UserError for a damaged file."""
    try:
        data = out.read(PLAN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    shown = f"{out.address}/{PLAN}"
    plan: Any = parse_json(data.decode("utf-8", "replace"), printable(shown))
    kinds = {"asked": dict, "shards": dict, "command": str, "options": dict}
    if not isinstance(plan, dict) or not all(isinstance(plan.get(k), v) for k, v in kinds.items()):
        raise UserError(f"{printable(shown)} is damaged; remove it, or choose another --out")
    return plan


def _asked(command: str, options: Any, shards: Sequence[Shard]) -> dict[str, Any]:
    """All that answers depend on, by the names of options."""
    asked = {
        one.name.replace("_", "-"): plain(getattr(options, one.name))
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


def _refuse_other(out: Place, then: dict[str, Any], now: dict[str, Any]) -> None:
    for name in sorted(then.keys() | now):
        if then.get(name) != now.get(name):
            what = name if name == "command" else f"--{name}"
            raise UserError(
                f"{printable(out.address)}: was begun with {what} {printable(str(then.get(name)))},"
                f" and this has {printable(str(now.get(name)))}; use the same options to go on, or"
                " another --out"
            )


def _check_apart(out: Place, shards: Iterable[Shard]) -> None:
    """Answers have the names of their shards, so they may not lie beside them."""
    for shard in shards:
        if shard.rows is not None:
            continue
        folder = shard.address if shard.images else shard.address.rpartition("/")[0]
        is_same = folder == out.address
        if out.is_local and not is_address(folder):
            is_same = real_path(folder).is_relative_to(real_path(out.address))
        if is_same:
            raise UserError(
                f"--out {printable(out.address)}: holds what is read; choose another folder"
            )


def missing_of(out: Place, shards: Sequence[Shard], *, retry_errors: bool = False) -> list[Shard]:
    """The shards that are not done; with `retry_errors` also those in which an image failed."""
    names = out.names()
    done = {s.stem for s in shards if {f"{s.stem}{STATS}", f"{s.stem}.parquet"} <= names}
    if retry_errors:
        stems = [shard.stem for shard in shards if shard.stem in done]
        found = zip(stems, read_statistics(out, stems), strict=True)
        done = {stem for stem, stats in found if not stats.get("errors")}
    return [shard for shard in shards if shard.stem not in done]


def read_statistics(out: Place, stems: Sequence[str]) -> Iterator[dict[str, Any]]:
    """`STEM_stats.json` of finished shards, in this order."""
    for data in out.read_all([f"{stem}{STATS}" for stem in stems]):
        found: Any = parse_json(data.decode("utf-8", "replace"), printable(out.address))
        yield found if isinstance(found, dict) else {}


@dataclass
class Total:
    """All finished shards of `out` added up. sample: records with their thumbnails.

    open: stems that are not done; claimed: those of them that a process works on.
    """

    plan: dict[str, Any]
    models: dict[str, Any]
    shards: int = 0
    rows: int = 0
    errors: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)


def total_of(out: Place) -> Total:
    """Read the statistics of all finished shards. Raises UserError where nothing was begun."""
    plan = read_plan(out)
    if plan is None:
        raise UserError(
            f"{printable(out.address)}: holds no shards of captune; name the --out of a command"
        )
    names = out.names()
    stems = sorted(plan["shards"])
    done = [stem for stem in stems if {f"{stem}{STATS}", f"{stem}.parquet"} <= names]
    models = json.loads(out.read(MODELS)) if MODELS in names else {"models": [], "figures": {}}
    total = Total(plan, models, len(done))
    total.open = sorted(set(stems) - set(done))
    claims = [stem for stem in total.open if stem + SUFFIX in names]
    total.claimed = [stem for stem in claims if is_alive(claim_of(out, stem) or {})]
    for stem, stats in zip(done, read_statistics(out, done), strict=True):
        total.rows += int(stats.get("rows", 0))
        total.errors += int(stats.get("errors", 0))
        total.seconds += float(stats.get("seconds", 0))
        total.reasons.update(stats.get("reasons", {}))
        if len(total.reasons) > 10_000:  # reasons with sizes in them
            total.reasons = Counter(dict(total.reasons.most_common(1000)))
        total.sums.update(stats.get("sums", {}))
        room = _SAMPLE - len(total.sample)
        total.sample += [(stem, one) for one in stats.get("sample", [])[: max(0, room)]]
    return total


def write_sample(folder: Path, sample: Iterable[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The sampled images as files below a run folder, and their records."""
    import base64

    records = []
    (folder / "sample").mkdir(parents=True, exist_ok=True)
    for stem, one in sample:
        name = f"sample/{stem}-{int(one['row'])}.jpg"
        (folder / name).write_bytes(base64.b64decode(one["jpeg"]))
        records.append({**one["record"], "path": name})
    return records
