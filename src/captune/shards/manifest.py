"""What is asked of a process that computes shards, and what stands beside the answers.

    _captune.json     the command, the options that decide answers, and stem -> shard
    _models.json      the models, by the first worker
    STEM.claim        who works on the shard, without a lock service: only one can create it
    STEM_stats.json   how many rows, what failed, a few images for the page of the run

Somebody else may have written them: the files are held against types, and a stem names one here.

A claim is renewed while its process works. One that was not for ten minutes, or whose process is
no longer on this machine, is taken over; it counts how often a process ended over the shard.
Two that take one over at the same moment compute it twice: each writes it whole, and the same.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct

from captune.errors import UserError
from captune.json_yaml import Count, Finite, convert, parse_json
from captune.options.shards import PLAN
from captune.shards.places import Place, StoreError
from captune.shards.shard import Shard
from captune_metrics.display import printable

STATS, MODELS = "_stats.json", "_models.json"
DONE, THERE, CLAIMED, FAILED = "done", "there", "claimed", "failed"
SAMPLE = 200  # images on the page of the run
_MOST_REASONS = 10_000
S = TypeVar("S", bound=Struct)
Stem = Annotated[str, Meta(pattern=r"^[^/\\\x00]{1,250}$")]


@dataclass(frozen=True)
class Work:
    """What is done with each shard; it travels to other machines.

    command: classify, caption or embed, with its options. sample: images of a shard that the page
    of the run may show. threads: that decode.
    """

    command: str
    options: Any
    out: Place
    sample: int = 4
    threads: int = 0


@dataclass
class Report:
    """What came of a shard. status: DONE, THERE, CLAIMED or FAILED; sentence: why it failed."""

    stem: str
    status: str
    rows: int = 0
    errors: int = 0
    seconds: float = 0.0
    sentence: str = ""


class Plan(Struct, frozen=True):
    """`_captune.json`. asked: what answers depend on. shards: stem -> what it is of."""

    command: Literal["classify", "caption", "embed"]
    asked: dict[str, Any]
    options: dict[str, Any]
    shards: dict[Stem, str]


class Models(Struct, frozen=True):
    """`_models.json`. figures: of metrics.json, what does not come from the images."""

    models: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}


class Sampled(Struct, frozen=True):
    """An image of a shard. record: its line in a run folder. jpeg: a thumbnail, in base64."""

    row: Count
    record: dict[str, Any]
    jpeg: str
    key: str = ""


class Statistics(Struct, frozen=True):
    """`STEM_stats.json`. sums: what means of metrics.json are made of."""

    rows: Count
    errors: Count
    seconds: Finite
    reasons: dict[str, Count]
    sums: dict[str, Finite]
    sample: list[Sampled]


def read_plan(out: Place) -> Plan | None:
    """What was begun in `out`; None where nothing was. Raises UserError for a damaged file."""
    try:
        return _read(out, PLAN, out.read(PLAN), Plan)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(out: Place, name: str, data: bytes, kind: type[S]) -> S:
    shown = printable(out.path(name))
    content = parse_json(data.decode("utf-8", "replace"), shown)
    try:
        return convert(content, kind)
    except ValueError as error:
        raise UserError(f"{shown} is damaged ({printable(error)}); remove it") from None


def read_models(out: Place) -> Models:
    """The models of `out`; none where no worker has begun. Raises UserError for a damaged file."""
    try:
        return _read(out, MODELS, out.read(MODELS), Models)
    except FileNotFoundError:
        return Models()


def read_statistics(out: Place, stems: Sequence[str]) -> Iterator[Statistics]:
    """Those of finished shards, in this order. Raises UserError for a damaged file."""
    names = [f"{stem}{STATS}" for stem in stems]
    for name, data in zip(names, out.read_all(names), strict=True):
        yield _read(out, name, data, Statistics)


def is_done(out: Place, stem: str) -> bool:
    """Whether a shard is whole."""
    return out.has(f"{stem}{STATS}") and out.has(f"{stem}.parquet")


def finished(names: set[str], stems: Iterable[str]) -> list[str]:
    """The stems that are done, where `names` are the files of a folder of answers."""
    return [stem for stem in stems if {f"{stem}{STATS}", f"{stem}.parquet"} <= names]


def missing_of(out: Place, shards: Sequence[Shard], *, retry_errors: bool = False) -> list[Shard]:
    """The shards that are not done; with `retry_errors` also those in which an image failed."""
    done = finished(out.names(), [shard.stem for shard in shards])
    if retry_errors:
        found = zip(done, read_statistics(out, done), strict=True)
        done = [stem for stem, stats in found if not stats.errors]
    known = set(done)
    return [shard for shard in shards if shard.stem not in known]


@dataclass
class Total:
    """Finished shards added up. sample: records with their thumbnails.

    open: stems that are not done; claimed: those of them that a process works on.
    """

    plan: Plan
    models: Models
    shards: int = 0
    rows: int = 0
    errors: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[str, Sampled]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)


def total_of(out: Place, stems: Iterable[str] | None = None) -> Total:
    """Read the statistics of those that are finished of `stems`, or of all shards of `out`.

    Raises UserError where nothing was begun.
    """
    plan = read_plan(out)
    if plan is None:
        raise UserError(
            f"{printable(out.address)} holds no shards of captune; name the --out of a command"
        )
    names = out.names()
    known = sorted(plan.shards if stems is None else stems)
    done = finished(names, known)
    total = Total(plan, read_models(out), len(done))
    total.open = sorted(set(known) - set(done))
    claims = [stem for stem in total.open if stem + SUFFIX in names]
    total.claimed = [stem for stem in claims if is_alive(claim_of(out, stem) or {})]
    for stem, stats in zip(done, read_statistics(out, done), strict=True):
        total.rows += stats.rows
        total.errors += stats.errors
        total.seconds += stats.seconds
        total.reasons.update(stats.reasons)
        if len(total.reasons) > _MOST_REASONS:  # there are sizes in some
            total.reasons = Counter(dict(total.reasons.most_common(_MOST_REASONS // 10)))
        total.sums.update(stats.sums)
        room = SAMPLE - len(total.sample)
        total.sample += [(stem, one) for one in stats.sample[:room]]
    return total


def write_sample(folder: Path, sample: Iterable[tuple[str, Sampled]]) -> Iterator[dict[str, Any]]:
    """The sampled images as files below a run folder; yields their records. Raises UserError."""
    (folder / "sample").mkdir(parents=True, exist_ok=True)
    for stem, one in sample:
        name = f"sample/{stem}-{one.row}.jpg"
        try:
            data = base64.b64decode(one.jpeg, validate=True)
        except ValueError:
            raise UserError(f"{printable(stem)}{STATS} is damaged; remove it") from None
        (folder / name).write_bytes(data)
        yield {**one.record, "path": name, "name": one.key or None}


SUFFIX = ".claim"
MOST_TRIES = 3  # processes that a shard may end
RENEWED_S, ABANDONED_S = 60.0, 600.0


@dataclass
class Claims:
    """What this process has claimed in `place`, kept fresh until it lets go."""

    place: Place
    _held: dict[str, int] = field(default_factory=dict)
    # a signal may come while it is held
    _lock: Any = field(default_factory=threading.RLock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Start renewing."""
        threading.Thread(target=self._renew, name="captune-claims", daemon=True).start()

    def take(self, stem: str) -> int | None:
        """How many processes ended over the shard before; None where somebody works on it."""
        tries = 0
        for _ in range(3):  # another may take it over or let go of it in between
            if self.place.create(stem + SUFFIX, _written(tries)):
                with self._lock:
                    self._held[stem] = tries
                return tries
            other = claim_of(self.place, stem)
            if other is None:
                continue
            if is_alive(other):
                return None
            before = other.get("tries", 0)
            tries = before + 1 if isinstance(before, int) else 1
            self.place.remove(stem + SUFFIX)
        return None

    def let_go(self, stem: str) -> None:
        """The shard is done, or given back."""
        with self._lock:
            held = self._held.pop(stem, None)
        if held is not None:
            self.place.remove(stem + SUFFIX)

    def close(self) -> None:
        """Let go of all, also where the process is asked to end."""
        self._ended.set()
        for stem in list(self._held):
            with suppress(OSError, StoreError):
                self.let_go(stem)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_S):
            with self._lock:
                for stem, tries in self._held.items():
                    with suppress(OSError, StoreError):  # the next time, or another takes it over
                        self.place.write(stem + SUFFIX, _written(tries))


def abandon(place: Place, stem: str) -> None:
    """The process that had the shard is known to be gone, wherever it was: nobody waits for it."""
    with suppress(OSError, StoreError):  # else it is taken over when it is old
        claim = claim_of(place, stem)
        if claim is not None:
            place.write(stem + SUFFIX, json.dumps({**claim, "at": 0}).encode())


def claim_of(place: Place, stem: str) -> dict[str, Any] | None:
    """What stands in a claim; None where there is none."""
    try:
        found = json.loads(place.read(stem + SUFFIX))
    except FileNotFoundError:
        return None
    except ValueError:  # of a store that has no whole files
        return {}
    return found if isinstance(found, dict) else {}


def is_alive(claim: dict[str, Any]) -> bool:
    """Whether its process seems to be at work."""
    at, pid = claim.get("at"), claim.get("pid")
    if not isinstance(at, int | float) or not isinstance(pid, int):
        return False
    if claim.get("host") == socket.gethostname() and not _runs(pid):
        return False
    return time.time() - at < ABANDONED_S


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # where the signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _written(tries: int) -> bytes:
    claim = {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time(), "tries": tries}
    return json.dumps(claim).encode()
