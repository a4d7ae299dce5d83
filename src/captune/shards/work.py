"""One shard in, one shard out: what a process of this machine, a Ray actor and a Slurm task do.

    worker = Worker(Work("classify", options, Place.of("answers/"), threads=2))
    report = worker.do(shard, upcoming)

While a shard is computed, the next one is read: a store may be slow. In `out` appear

    STEM.parquet        a row for every image: key, shard, the columns of the command, error
    STEM.tar            with --to webdataset, the images with their answers beside them
    STEM_stats.json     how many rows, what failed, a few images for the page of the run
"""

from __future__ import annotations

import io
import json
import logging
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import captune
from captune.answer_files import parquet, parquet_rows
from captune.errors import UserError
from captune.files import private_folder
from captune.images import Skipped, UnreadableImage
from captune.images.decode import read_image, stop_decoding
from captune.images.formats import find_format
from captune.options.shards import WEBDATASET
from captune.pages.thumbnails import thumbnail_of
from captune.runs.records import json_value
from captune.shards.answers import Answered, Answerer, answered_before, load_answerer, sums_of
from captune.shards.manifest import (
    CLAIMED,
    DONE,
    FAILED,
    MODELS,
    MOST_TRIES,
    STATS,
    THERE,
    Claims,
    Models,
    Report,
    Sampled,
    Statistics,
    Work,
    is_done,
    read_models,
    read_statistics,
)
from captune.shards.places import TEMPORARY, Place, StoreError
from captune.shards.shard import OpenShard, Shard, open_shard
from captune.text import counted
from captune_metrics.display import printable

logger = logging.getLogger("captune")

_GROUP = 1000  # rows of a group of a Parquet file
_REASONS = 20  # of a shard's statistics, the most frequent ones
_PLAIN_KEY = re.compile(r"(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_/+ -]{0,199}")


@dataclass
class _Begun:
    """A shard that was claimed, and whose images are at hand; or a report instead.

    tries: how many processes ended over it.
    """

    report: Report | None = None
    tries: int = 0
    opened: OpenShard | None = None
    held: ExitStack = field(default_factory=ExitStack)


class Worker:
    """A loaded model and what it has begun."""

    def __init__(self, work: Work) -> None:
        """Raises UserError where the model cannot be loaded, or another one began in `out`."""
        self.work = work
        self._answerer: Answerer = load_answerer(work.command, work.options, work.threads)
        settle_models(work.out, self._answerer)
        self._claims = Claims(work.out)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="captune-shard")
        self._ahead: dict[str, Future[_Begun]] = {}

    def do(self, shard: Shard, upcoming: Shard | None = None) -> Report:
        """Compute a shard, unless it is there or another process has it.

        upcoming: what this worker is likely to be given next. A shard that fails does not raise.
        """
        ahead = self._ahead.pop(shard.stem, None)
        try:
            self._give_back()
            begun = self._begin(shard) if ahead is None else ahead.result()
            if begun.report is not None:
                return begun.report
            with begun.held:
                if begun.opened is None:
                    begun.opened = begun.held.enter_context(open_shard(shard))
                # what ended a process before is alone: so it is known which shard does it
                if upcoming is not None and not begun.tries:
                    future = self._threads.submit(self._begin, upcoming, ahead=True)
                    self._ahead[upcoming.stem] = future
                return self._compute(shard, begun.opened)
        except UserError as error:
            return Report(shard.stem, FAILED, sentence=str(error))
        except Exception as error:  # the other shards are not lost for it
            logger.exception("a bug in captune: shard %s failed", printable(shard.stem))
            sentence = f"a bug in captune ({type(error).__name__}: {printable(error)[:200]})"
            return Report(shard.stem, FAILED, sentence=sentence)
        finally:
            self._let_go(shard.stem)

    def close(self) -> None:
        """Let go of what was begun."""
        self._give_back()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._claims.close()

    def release(self) -> None:
        """Let go of all claims at once: the process is about to end."""
        stop_decoding()
        self._claims.close()

    def _begin(self, shard: Shard, *, ahead: bool = False) -> _Begun:
        tries = self._claims.take(shard.stem)
        if tries is None:
            return _Begun(Report(shard.stem, CLAIMED))
        if not self.work.options.retry_errors and is_done(self.work.out, shard.stem):
            return _Begun(self._settled(shard, THERE))
        if tries >= MOST_TRIES:
            said = f"it ended the process that worked on it {counted(tries, 'time')}"
            return _Begun(self._settled(shard, FAILED, said))
        begun = _Begun(tries=tries)
        if not ahead or not tries:
            try:
                begun.opened = begun.held.enter_context(open_shard(shard))
            except UserError as error:
                return _Begun(self._settled(shard, FAILED, str(error)))
        return begun

    def _settled(self, shard: Shard, status: str, sentence: str = "") -> Report:
        self._let_go(shard.stem)
        return Report(shard.stem, status, sentence=sentence)

    def _give_back(self) -> None:
        """What was begun ahead and goes to another worker."""
        for stem, future in self._ahead.items():
            if not future.cancel() and future.exception() is None:
                future.result().held.close()
            self._let_go(stem)
        self._ahead.clear()

    def _let_go(self, stem: str) -> None:
        with suppress(StoreError):  # nobody renews the claim, and so another takes it over
            self._claims.let_go(stem)

    def _compute(self, shard: Shard, opened: OpenShard) -> Report:
        began = time.monotonic()
        out, stem = self.work.out, shard.stem
        stats = _Gathered(self.work.sample)
        with ExitStack() as stack:
            write = stack.enter_context(self._table(shard))
            beside = None
            if WEBDATASET in self.work.options.to:
                file = stack.enter_context(out.writing(f"{stem}.tar"))
                beside = stack.enter_context(tarfile.open(fileobj=file, mode="w"))
            for row, outcome in self._outcomes(shard, opened):
                key, image = opened.keys[row], opened.images[row]
                cells = {} if isinstance(outcome, Skipped) else outcome.row
                error = outcome.reason if isinstance(outcome, Skipped) else None
                line = {"key": key, "shard": stem, **cells, "error": error}
                write(line)
                stats.add(row, key, image.path, outcome, cells)
                if beside is not None:
                    _write_beside(beside, row, opened, outcome, line)
        seconds = time.monotonic() - began
        written = {"shard": shard.identity, **json_value(stats.statistics(seconds))}
        data = json.dumps({**written, "captune": captune.__version__}).encode()
        out.write(f"{stem}{STATS}", data)
        return Report(stem, DONE, stats.rows, stats.errors, seconds)

    def _outcomes(
        self, shard: Shard, opened: OpenShard
    ) -> Iterator[tuple[int, Answered | Skipped]]:
        """Each row with what came of it; with --retry-errors what was answered before stays."""
        before = self._before(shard, len(opened)) if self.work.options.retry_errors else {}
        wanted = [
            row for row in range(len(opened)) if row not in opened.refused and row not in before
        ]
        answers = self._answerer.answer([opened.images[row] for row in wanted])
        for row in range(len(opened)):
            if row in opened.refused:
                yield row, Skipped(opened.keys[row], opened.refused[row])
            else:
                yield row, before.get(row) or next(answers)

    def _before(self, shard: Shard, rows: int) -> dict[int, Answered]:
        """The answers of an earlier run; none where it had other rows."""
        name = f"{shard.stem}.parquet"
        if not self.work.out.has(name):
            return {}
        with private_folder(TEMPORARY) as folder:
            (folder / name).write_bytes(self.work.out.read(name))
            table = parquet().parquet.read_table(folder / name).to_pylist()
        if len(table) != rows:
            return {}
        records = {}
        if self.work.out.has(f"{shard.stem}{STATS}"):
            (stats,) = read_statistics(self.work.out, [shard.stem])
            records = {one.row: one.record for one in stats.sample}
        columns = self._answerer.columns
        return {
            row: answered_before({name: cells[name] for name in columns}, records.get(row))
            for row, cells in enumerate(table)
            if cells["error"] is None
        }

    @contextmanager
    def _table(self, shard: Shard) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Takes the rows of a shard; its file appears whole when the block ends well."""
        about = {
            "command": self.work.command,
            "models": self._answerer.models,
            "options": json_value(self.work.options),
            "captune": captune.__version__,
            "shard": shard.identity,
        }
        arrow = parquet()
        text = arrow.string()
        fields = {"key": text, "shard": text, **self._answerer.columns, "error": text}
        schema = arrow.schema(fields.items())
        with (
            self.work.out.writing(f"{shard.stem}.parquet") as file,
            parquet_rows(file, about, _GROUP, schema) as write,
        ):
            yield write


class _Gathered:
    """What `STEM_stats.json` holds."""

    def __init__(self, most: int) -> None:
        self.rows = self.errors = 0
        self._most = most
        self._reasons: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._sample: list[Sampled] = []

    def add(
        self, row: int, key: str, path: Path, outcome: Answered | Skipped, cells: dict[str, Any]
    ) -> None:
        self.rows += 1
        if isinstance(outcome, Skipped):
            self.errors += 1
            self._reasons[outcome.reason] += 1
            return
        self._sums.update(sums_of(cells))
        if outcome.record is not None and len(self._sample) < self._most:
            uri = thumbnail_of(path)
            if uri is not None:
                record = json_value(outcome.record)
                self._sample.append(Sampled(row, record, uri.partition(",")[2], key))

    def statistics(self, seconds: float) -> Statistics:
        reasons = dict(self._reasons.most_common(_REASONS))
        sums: dict[str, float] = dict(self._sums)
        return Statistics(self.rows, self.errors, round(seconds, 3), reasons, sums, self._sample)


def _write_beside(
    archive: tarfile.TarFile,
    row: int,
    opened: OpenShard,
    outcome: Answered | Skipped,
    line: dict[str, Any],
) -> None:
    """The image as it is, and its answer beside it.

    A key that is no plain name, or that an earlier image has, gets the number of the row.
    """
    key = line["key"]
    if not _PLAIN_KEY.fullmatch(key):
        key = f"row-{row}"
    elif row in opened.repeated:
        key = f"{key}-row-{row}"
    files = []
    with suppress(UnreadableImage):
        data = read_image(opened.images[row].path)
        files.append((opened.endings[row] or _ending_of(data), data))
    if isinstance(outcome, Answered):
        if outcome.text is not None:
            files.append((".txt", outcome.text.encode()))
        if outcome.vector is not None:
            buffer = io.BytesIO()
            np.save(buffer, outcome.vector)
            files.append((".npy", buffer.getvalue()))
    told = {name: cell for name, cell in line.items() if name != "features"}
    files.append((".json", json.dumps(told).encode()))
    for ending, content in files:
        member = tarfile.TarInfo(f"{key}{ending}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def _ending_of(data: bytes) -> str:
    try:
        return f".{find_format(data)[0].lower()}"
    except UnreadableImage:
        return ".bin"


def settle_models(out: Place, answerer: Answerer) -> None:
    """The first worker says which models compute in `out`. Raises UserError for another one."""
    ours = json_value(Models(answerer.models, answerer.figures))
    if out.create(MODELS, json.dumps(ours).encode()):
        return
    there = read_models(out).models
    for then, now in zip(there, answerer.models, strict=False):
        for name in ("weights_id", "preprocessing_id", "decoder_id", "normalised"):
            if then.get(name) != now.get(name):
                raise UserError(
                    f"{printable(out.address)} was started with {printable(then.get('spec'))},"
                    f" {name} {then.get(name)}, and this is {printable(now.get('spec'))},"
                    f" {now.get(name)}; use the same model, or another --out"
                )
