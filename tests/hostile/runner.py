"""Runs cases, each in a process of its own with a limit of time and memory, and judges the ends.

A case lays out files in an empty folder and names the words of a command. Its end is one of
ENDS: it was answered; refused with one sentence and status 2; it crashed (another status, a signal,
"a bug in captune", or more memory than a machine has); it hung; a file of those it was asked about
is neither answered nor named (lost); or the answer is not what it must be (wrong).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.hostile.stages import ERR, FINISHED, OUT, cpu_seconds, memory_mb, serve
from tests.processes import start

# a start looks after all processes, also those that another thread waits for
_ONE_AT_A_TIME = threading.Lock()
ENDS = ("answered", "refused", "crashed", "hung", "lost", "wrong")
LIMIT_S = 30.0  # of a processor, so that a machine with other work judges as an idle one does
_PATIENCE = 20  # times as long by the clock for what only waits
LIMIT_MB = 1500.0
_KILLED_MB = 5000.0  # over idle; the machine has other things to do
_SAMPLE_S = 0.05
_NOT_YET_A_PROGRAM = 0x40  # PF_FORKNOEXEC of Linux
_LONGEST_SENTENCE = 10_000  # it may quote what was typed


class Lost(Exception):
    """Files that were asked about and are in no answer."""


class Wrong(Exception):
    """An answer that is not what it must be."""


@dataclass(frozen=True)
class Said:
    """What a command gave. seconds: of a processor. mb: most memory over idle."""

    status: int | None
    out: str
    err: str
    seconds: float = 0.0
    mb: float = 0.0

    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        try:
            found: dict[str, Any] = json.loads(self.out)
        except ValueError as error:
            raise Wrong(f"--json prints what is no JSON: {error}") from None
        return found


def nothing_more(folder: Path, said: Said) -> None:
    """Any answer will do."""


@dataclass(frozen=True)
class Case:
    """make: lays out its files in an empty folder and gives the words of the command.

    check: raises Lost or Wrong; it is asked of answers and, with `always`, of refusals too.
    kind: of several cases alike, for the list of what went wrong. stage: as in stages.
    """

    kind: str
    name: str
    make: Callable[[Path], Sequence[str]]
    check: Callable[[Path, Said], None] = nothing_more
    stage: str = "colours"
    limit_s: float = LIMIT_S
    always: bool = False
    is_alone: bool = False  # nothing else runs beside it


@dataclass(frozen=True)
class Outcome:
    """How a case ended. why: of whatever is neither answered nor refused."""

    case: Case
    end: str
    why: str
    seconds: float
    mb: float

    @property
    def is_bad(self) -> bool:
        """Whether something has to be mended."""
        return self.end not in ("answered", "refused") or self.mb > LIMIT_MB


@dataclass
class Table:
    """A row of the report: what came of a family of cases."""

    family: str
    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, end: str) -> int:
        """How many ended so."""
        return sum(outcome.end == end for outcome in self.outcomes)

    @property
    def bad(self) -> list[Outcome]:
        """What has to be mended."""
        return [outcome for outcome in self.outcomes if outcome.is_bad]

    def row(self) -> list[str]:
        """Family, tried, the ends, most memory, longest time."""
        mb = max((outcome.mb for outcome in self.outcomes), default=0.0)
        seconds = max((outcome.seconds for outcome in self.outcomes), default=0.0)
        counts = [f"{self.count(end):,}" for end in ENDS]
        return [
            self.family,
            f"{len(self.outcomes):,}",
            *counts,
            f"{mb:,.0f} MB",
            f"{seconds:.1f} s",
        ]


HEADINGS = ["", "tried", *ENDS, "most memory", "longest (CPU)"]


def as_text(tables: Sequence[Table]) -> str:
    """The rows, in Markdown."""
    rows = [HEADINGS, *(table.row() for table in tables)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def some(cases: Iterable[Case], of_each: int) -> list[Case]:
    """So many of each kind, spread over them, the same each time; none that is alone."""
    kinds: dict[str, list[Case]] = {}
    for case in cases:
        if not case.is_alone:
            kinds.setdefault(case.kind, []).append(case)
    return [case for kind in kinds.values() for case in kind[:: -(-len(kind) // of_each)]]


def run(
    family: str,
    cases: Iterable[Case],
    *,
    jobs: int = 2,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> Table:
    """All cases, `jobs` at once; those that want the machine for themselves come last."""
    table = Table(family)
    every = list(cases)
    together = [case for case in every if not case.is_alone]
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(run_case, together):
            table.outcomes.append(outcome)
            tell(outcome)
    for case in every:
        if case.is_alone:
            table.outcomes.append(run_case(case))
            tell(table.outcomes[-1])
    return table


def run_case(case: Case) -> Outcome:
    """Lay out, run, judge, clear away."""
    with _folders() as (folder, notes):
        words = case.make(folder)
        said = command(case.stage, words, folder, notes, limit_s=case.limit_s)
        end, why = judge(case, folder, said)
        return Outcome(case, end, why, said.seconds, said.mb)


@contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    place = Path(tempfile.mkdtemp(prefix="captune-hostile-"))
    try:
        for name in ("here", "notes"):
            (place / name).mkdir()
        yield place / "here", place / "notes"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def command(
    stage: str, words: Sequence[str], folder: Path, notes: Path, *, limit_s: float = LIMIT_S
) -> Said:
    """`captune WORDS` in a process of its own; status None where it had to be ended."""
    return finish(launch(stage, words, folder, notes), notes, limit_s=limit_s)[0]


def launch(
    stage: str,
    words: Sequence[str],
    folder: Path,
    notes: Path,
    environment: Mapping[str, str] | None = None,
    dies_at: int = 0,
) -> BaseProcess:
    """The process of `stages.serve`."""
    arguments = (stage, list(words), str(folder), str(notes), dict(environment or {}), dies_at)
    with _ONE_AT_A_TIME:
        return start(serve, *arguments, daemon=False)


def status_of(process: BaseProcess) -> int | None:
    """Its exit status, or None while it runs."""
    with _ONE_AT_A_TIME:
        return process.exitcode


def finish(process: BaseProcess, notes: Path, *, limit_s: float) -> tuple[Said, dict[str, Any]]:
    """Wait for the end, or make one; what it said, and what it noted about itself."""
    begun = time.monotonic()
    assert process.pid is not None
    most = idle = seconds = 0.0
    is_over = False
    while (status := status_of(process)) is None and not is_over:
        time.sleep(_SAMPLE_S)
        idle = idle or memory_mb(process.pid, "VmRSS")
        tree = process_tree(process.pid)
        programs = [process.pid, *(pid for pid in tree[1:] if not _is_starting(pid))]
        most = max(most, sum(memory_mb(pid, "VmRSS") for pid in programs))
        seconds = max(seconds, sum(map(cpu_seconds, tree)))
        is_over = most - idle > _KILLED_MB or seconds > limit_s
        is_over |= time.monotonic() - begun > _PATIENCE * limit_s
    if status is None:
        end_process(process)
    note = _noted(notes)
    seconds = max(seconds, note.get("seconds", 0.0))
    # at one moment by all of them, or by the first one between two looks
    mb = max(0.0, max(most, note.get("peak", 0.0)) - note.get("idle", idle))
    return read_notes(notes, status, seconds, mb), note


def read_notes(notes: Path, status: int | None, seconds: float, mb: float | None = None) -> Said:
    """What a process said; mb: from its own note where nobody watched it."""
    if mb is None:
        note = _noted(notes)
        mb = note.get("peak", 0.0) - note.get("idle", 0.0)
    out, err = (
        path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        for path in (notes / OUT, notes / ERR)
    )
    return Said(status, out, err, seconds, mb)


def _noted(notes: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((notes / FINISHED).read_text())
        return found
    return {}


def process_tree(pid: int) -> list[int]:
    """A process and all that it started, the deepest last."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def _is_starting(pid: int) -> bool:
    """Whether it is a copy of what started it, with the same memory, until it is a program."""
    with suppress(OSError, IndexError):
        flags = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6])
        return bool(flags & _NOT_YET_A_PROGRAM)
    return False


def end_process(process: BaseProcess) -> None:
    """Kill it and all that it started."""
    assert process.pid is not None
    for one in reversed(process_tree(process.pid)):
        with suppress(OSError):
            os.kill(one, 9)
    while status_of(process) is None:
        time.sleep(0.01)


def judge(case: Case, folder: Path, said: Said) -> tuple[str, str]:
    """(one of ENDS, why it is so)."""
    if said.status is None:
        if said.mb > _KILLED_MB:
            return "crashed", f"ended at {said.mb:,.0f} MB over idle"
        return "hung", f"ended after {said.seconds:.0f} s of CPU: {said.err[-200:]}"
    if said.status not in (0, 2):
        return "crashed", f"status {said.status}: {said.err[-400:]}"
    why = "Traceback" in said.err and f"a traceback: {said.err[-400:]}"
    if why:
        return "crashed", why
    try:
        raw = [character for character in said.out + said.err if _is_raw(character)]
        if raw:
            raise Wrong(f"reaches the terminal raw: {''.join(raw[:5])!a}")
        if said.status == 2 and '"holds": false' not in said.out:  # what verify --json answers
            _check_sentence(said.err)
        if said.status == 0 or case.always:
            case.check(folder, said)
    except Lost as lost:
        return "lost", str(lost)
    except Wrong as wrong:
        return "wrong", str(wrong)
    return ("answered", "") if said.status == 0 else ("refused", said.err.strip())


def _is_raw(character: str) -> bool:
    """A control character that a terminal acts on, or one that turns the order of the text."""
    return character not in "\n\t" and (
        not character.isprintable() and (character < "\xa0" or character in BIDI)
    )


BIDI = "".join(map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def _check_sentence(err: str) -> None:
    lines = err.rstrip("\n").split("\n")
    if not lines[-1].startswith("captune"):
        raise Wrong(f"ends with no sentence of captune's: {err[-300:]!r}")
    if len(lines[-1]) > _LONGEST_SENTENCE:
        raise Wrong(f"a sentence of {len(lines[-1]):,} characters: {lines[-1][:200]!r}")
