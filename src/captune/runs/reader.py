"""A run folder read back: anybody may have written it, so all is bounded and checked here, once.

Nothing is read that is not a regular file. One sentence says which file of which run is damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, TypeVar

from msgspec import Struct

from captune.errors import UserError
from captune.files import real_path
from captune.json_yaml import MOST_MEMORY, as_shown, convert, differences, json_cost, json_kind
from captune.runs.kinds import KINDS, Kind
from captune.runs.records import About, Record
from captune.runs.signature import is_signed
from captune.tables import NotebookDisplay
from captune_metrics.display import printable
from captune_metrics.files import open_regular, read_regular

S = TypeVar("S", bound=Struct)
T = TypeVar("T")

SCHEMA = 1
_TOLERANCE = 1e-6  # of a figure that is counted again
ABOUT, METRICS, RECORDS = "run.json", "metrics.json", "records.jsonl"
LOCK = ".captune.lock"
LARGEST = 128 * 2**20  # bytes of run.json and metrics.json
LARGEST_RECORDS = 8 * 2**30  # bytes of records.jsonl
LONGEST_LINE = 8 * 2**20  # bytes of a record
MOST_RECORDS = 5_000_000
DEEPEST = 64  # objects and lists in one another
_ANY = Kind(Struct, Struct)  # of a kind that this captune does not know


class DamagedRun(UserError):
    """A file of a run is not what captune writes."""


@dataclass(frozen=True)
class Run(NotebookDisplay):
    """A run folder that was read: `about` is run.json.

    images: a folder that the user named for the images of this run.
    """

    folder: Path
    about: dict[str, Any]
    metrics: dict[str, Any]
    images: Path | None = None

    @property
    def kind(self) -> str:
        """The job that made it: classify, prompts, ..."""
        return str(self.about["kind"])

    @property
    def root(self) -> Path:
        """The folder that the records' paths are relative to."""
        return Path(self.about["root"])

    def records(self) -> Iterator[dict[str, Any]]:
        """One dictionary an image, in the order of the run, as its kind has it (`runs.kinds`).

        Raises DamagedRun for a line that is none.
        """
        return (record for record, _ in self._lines())

    def typed_records(self, kind: type[S]) -> Iterator[S]:
        """As `records`, each of the type that this kind of run has in `runs.records`."""
        return (record for _, record in self._lines() if isinstance(record, kind))

    def typed_metrics(self, kind: type[S]) -> S:
        """metrics.json as the type that this kind of run has in `runs.metrics`."""
        return convert(self.metrics, kind)

    def _lines(self) -> Iterator[tuple[dict[str, Any], Struct]]:
        path = self.folder / RECORDS
        kind = KINDS.get(self.kind, _ANY)
        metrics = convert(self.metrics, kind.metrics)
        try:
            with open_regular(path) as file:
                number = 0
                while line := file.readline(LONGEST_LINE + 1):
                    number += 1
                    record = self._record(line, number)
                    try:
                        typed = convert(record, kind.record)
                        kind.check(typed, metrics)
                    except ValueError as error:
                        raise damaged(self.folder, RECORDS, f"line {number}: {error}") from None
                    yield record, typed
        except FileNotFoundError:
            raise damaged(self.folder, RECORDS, "it is not there") from None
        except OSError as error:
            raise unreadable(self.folder, RECORDS, error) from None

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        place = f"line {number}"
        if len(line) > LONGEST_LINE:
            raise damaged(self.folder, RECORDS, f"{place} is over {LONGEST_LINE // 2**20} MiB")
        if number > MOST_RECORDS:
            raise damaged(self.folder, RECORDS, f"it has more than {MOST_RECORDS:,} lines")
        try:
            record = _parsed(line)
        except ValueError as error:
            raise damaged(self.folder, RECORDS, f"{place} is {error}") from None
        if not isinstance(record, dict):
            raise damaged(
                self.folder, RECORDS, f"{place} is {json_kind(record)}, and an object was expected"
            )
        return record

    @cached_property
    def is_own(self) -> bool:
        """Whether this machine's captune wrote it, and nobody has changed it since."""
        try:
            return is_signed(self.about, {name: self.digest(name) for name in (METRICS, RECORDS)})
        except DamagedRun:
            return False

    def digest(self, name: str) -> str:
        """sha256 of a file of the run. Raises DamagedRun."""
        try:
            with open_regular(self.folder / name) as file:
                if os.fstat(file.fileno()).st_size > LARGEST_RECORDS:
                    raise damaged(self.folder, name, f"it is over {LARGEST_RECORDS // 2**30} GiB")
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(self.folder, name, error) from None

    def image_path(self, path: str | None) -> Path | None:
        """The file of an image that a record names, or None where it must not be opened.

        Files in the run's own folder are shown, and those in a folder that the user named. Others
        only of a run that this machine's captune wrote: one from elsewhere may name any file here.
        """
        if not path or leaves_root(path):
            return None
        if self.images is not None:
            named = self.images / path
            if named.exists() or not self.is_own:
                return named
        place = self.root / path
        return place if _lies_in(place, self.folder) or self.is_own else None

    def hides(self, path: str | None) -> bool:
        """Whether an image is not opened because nobody said that its folder may be read."""
        return bool(path) and not leaves_root(str(path)) and self.image_path(path) is None


def read_run(folder: str | Path, *, images: str | Path | None = None) -> Run:
    """Open a finished run. images: where its images lie, for one from elsewhere.

    Raises UserError where there is none, where it is damaged, and where a newer captune wrote it.
    """
    folder = Path(folder)
    if is_running(folder):
        raise UserError(f"{printable(folder)} is a run that is running now; wait for it")
    about = _read_object(folder, ABOUT)
    if about.get("schema") != SCHEMA:
        shown = printable(f"{about.get('schema')!r:.40}")
        raise UserError(
            f"{printable(folder)} was written with schema {shown}, this captune reads {SCHEMA}"
        )
    typed(folder, ABOUT, about, About)
    kind = KINDS.get(about["kind"], _ANY)
    if len(about["models"]) < kind.models:
        raise damaged(folder, ABOUT, "it names no model")
    metrics = _read_object(folder, METRICS)
    typed(folder, METRICS, metrics, kind.metrics)
    return Run(folder, about, metrics, None if images is None else Path(images))


def check_records(run: Run) -> Iterator[str]:
    """A sentence for each figure of metrics.json that the run's own records do not bear out.

    Raises DamagedRun.
    """
    shown = printable(run.folder)
    for place, then, now in differences(run.metrics, recount(run), lambda _: _TOLERANCE, part=True):
        values = as_shown(then), as_shown(now)
        yield f"{shown}: metrics.json has {values[0]} at {place}, its records give {values[1]}"


def recount(run: Run) -> dict[str, Any]:
    """The part of metrics.json that the records determine. Raises DamagedRun."""
    if run.metrics.get("sharded"):
        return {}  # they are a sample
    found = list(run.typed_records(Record))
    kind = KINDS.get(run.kind)
    more = {} if kind is None else kind.recount(run.typed_metrics(kind.metrics), found)
    return {"images": len(found), **more}


def read_metrics(folder: Path, name: str = METRICS) -> Run:
    """The metrics.json of a score or a comparison, kept without its run.json.

    `about` of the run has nothing but its kind. Raises UserError.
    """
    metrics = _read_object(folder, name)
    kind = "compare" if "a" in metrics and "b" in metrics else "score"
    try:
        convert(metrics, KINDS[kind].metrics)
    except ValueError as error:
        raise UserError(
            f"{printable(folder / name)} is not the metrics.json of a score or a comparison"
            f" ({printable(error)}); make one with captune score ... --out RUN"
        ) from None
    return Run(folder, {"kind": kind, "root": str(folder)}, metrics)


def kind_of(folder: Path) -> str | None:
    """The job whose run stands in a folder; "" where nobody can tell, None where there is none."""
    try:
        return str(_read_object(folder, ABOUT).get("kind", ""))
    except UserError:
        return "" if (folder / ABOUT).exists() or (folder / ABOUT).is_symlink() else None


def is_running(folder: Path) -> bool:
    """Whether a job is writing a run there now, and none stands there yet."""
    from filelock import FileLock, Timeout

    lock = folder / LOCK
    if (folder / ABOUT).is_file() or not lock.is_file() or lock.is_symlink():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False  # left by one that was killed
    except Timeout:
        return True
    except OSError:  # nobody may lock it
        return False


def leaves_root(path: str) -> bool:
    """Whether a path may lead out of its root: a run from elsewhere must not show local files."""
    parts = PurePath(path)
    return bool(parts.anchor) or ".." in parts.parts or "\0" in path


def typed(folder: Path, name: str, value: Any, kind: type[T], what: str = "") -> T:
    """A value in a file of a run as its type. what: the value, in a sentence. Raises DamagedRun."""
    try:
        return convert(value, kind)
    except ValueError as error:
        raise damaged(folder, name, f"{what}: {error}" if what else str(error)) from None


def damaged(folder: Path, name: str, what: str) -> DamagedRun:
    """The one sentence for a file of a run that is not what captune writes."""
    return DamagedRun(f"{_shown(folder)}{name} is damaged ({printable(what)}); make the run again")


def unreadable(folder: Path, name: str, error: OSError) -> DamagedRun:
    """The one sentence for a file of a run that the system does not give."""
    reason = (error.strerror or str(error)).lower()
    return DamagedRun(f"{_shown(folder)}{name} cannot be read ({printable(reason)})")


def _shown(folder: Path) -> str:
    return "" if folder == Path() else f"{printable(folder)}: "


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a file is one of a folder, wherever links on the way lead."""
    try:
        return real_path(path).is_relative_to(real_path(folder))
    except (OSError, RuntimeError, ValueError):  # links in a circle; names that no file can have
        return False


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        data = read_regular(folder / name, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        if not folder.exists():
            raise UserError(
                f"{printable(folder)} does not exist; name a folder that --out wrote"
            ) from None
        raise UserError(
            f"{printable(folder)} is not a finished run folder (it has no {name}); make the"
            " run again"
        ) from None
    except OSError as error:
        raise unreadable(folder, name, error) from None
    except ValueError:  # a zero byte
        raise UserError(f"{printable(folder)} is not the path of a run folder") from None
    try:
        content = _parsed(data)
    except ValueError as error:
        raise damaged(folder, name, f"it is {error}") from None
    if not isinstance(content, dict):
        raise damaged(folder, name, f"it holds {json_kind(content)}, and an object was expected")
    return content


def _parsed(data: bytes) -> Any:
    """The value of a JSON text; numbers that are not finite are nothing. Raises ValueError."""
    if json_cost(data) > MOST_MEMORY:
        raise ValueError("made of more values than a run has")
    try:
        value = _DECODER.decode(data.decode("utf-8"))
        is_deep = _is_deep(value)
    except RecursionError:
        is_deep = True
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if is_deep:
        raise ValueError(f"nested more than {DEEPEST} deep")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


_DECODER = json.JSONDecoder(parse_constant=lambda name: None)  # NaN and Infinity are no JSON
