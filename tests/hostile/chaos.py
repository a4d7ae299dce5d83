"""Kills, full disks and two at once: every job, run again, ends as one that nothing happened to.

A kill comes at a moment drawn by chance of the time that the job takes, or before a change of a
file drawn by chance: a random moment hits the renames of the end too seldom.
"""

from __future__ import annotations

import csv
import filecmp
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.hostile import small_disk
from tests.hostile.runner import (
    Case,
    Outcome,
    Said,
    Table,
    end_process,
    finish,
    judge,
    launch,
    status_of,
)
from tests.hostile.seeds import commands, write_inputs
from tests.hostile.stages import BEGUN

JOBS = ("classify", "caption", "tune", "explain", "faithful", "score")
KILLS = 20
LIMIT_S = 120.0
_TIMES = re.compile(
    r"[\d-]{10}T[\d:]{8}Z(, [\d.,]+ (s|min|h))?"
    r"|<data [^>]*seconds[^>]*>[^<]*</data>"  # a figure of a page
    r"|\b[0-9a-f]{12}([0-9a-f]{52})?\b"  # digests of run.json, which holds times too
)
_TABLE = re.compile(r'(<script type="application/json" class="csv">)(.*?)(</script>)', re.DOTALL)
_TIME_KEYS = ("started", "resumed", "signature")  # which signs the time too
_FILES: dict[str, list[str]] = {
    "classify": ["--csv", "disk/answers.csv"],
    "caption": ["--predictions", "disk/pred.json"],
    "score": ["--per-image", "disk/scores.csv"],
}


@dataclass(frozen=True)
class Whole:
    """What an uninterrupted run took and left: seconds, changes of files, its folder."""

    seconds: float
    steps: int
    disk: Path
    notes: str


def tables(
    *, kills: int = KILLS, tell: Callable[[Outcome], None] = lambda outcome: None, only: str = ""
) -> list[Table]:
    """A row a job and a kind of harm."""
    found = []
    with tempfile.TemporaryDirectory(prefix="captune-chaos-") as place:
        write_inputs(Path(place) / "inputs", images=8)
        for job in JOBS:
            if only not in job:
                continue
            whole = _uninterrupted(Path(place), job)
            harms = {"kill -9": _kills(Path(place), job, whole, kills)}
            if small_disk.is_possible():
                harms["disk full"] = _full_disks(Path(place), job, whole)
            harms["two at once"] = _pairs(Path(place), job, whole)
            for kind, outcomes in harms.items():
                table = Table(f"{kind}: {job}")
                for outcome in outcomes:
                    table.outcomes.append(outcome)
                    tell(outcome)
                found.append(table)
    return found


def _uninterrupted(place: Path, job: str) -> Whole:
    with _trial(place) as folder:
        said, note = _run(job, folder)
        assert said.status == 0, said.err
        kept = place / f"whole-{job}"
        shutil.copytree(folder / "disk", kept, symlinks=True)
        shutil.copytree(folder / "model", kept / "model")
        return Whole(note["main_s"], int(note["steps"]), kept, said.out)


@contextmanager
def _trial(place: Path) -> Iterator[Path]:
    """A folder with all inputs, and `disk` for all that is written; runs name it, so it is one."""
    folder = place / "trial"
    try:
        shutil.copytree(place / "inputs", folder)
        (folder / "disk").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def words_of(job: str) -> list[str]:
    """Its command, with paths below the folder of the trial."""
    return [*commands(Path())[job], "--out", "disk/run", *_FILES.get(job, ())]


def environment_of(folder: Path) -> dict[str, str]:
    """A cache of the trial's own, on its disk."""
    return {"CAPTUNE_CACHE": str(folder / "disk" / "cache"), "CAPTUNE_OFFLINE": "1"}


def _run(
    job: str, folder: Path, dies_at: int = 0, dies_after: float | None = None
) -> tuple[Said, dict[str, float]]:
    """dies_at: before the nth change of a file. dies_after: so many seconds of its own time."""
    notes = Path(tempfile.mkdtemp(dir=folder))
    process = launch("captioner", words_of(job), folder, notes, environment_of(folder), dies_at)
    end = time.monotonic() + LIMIT_S
    while not (notes / BEGUN).exists() and status_of(process) is None and time.monotonic() < end:
        time.sleep(0.01)
    begun = time.monotonic()
    if dies_after is not None:
        time.sleep(dies_after)
        end_process(process)
    said, note = finish(process, notes, limit_s=LIMIT_S)
    return said, note | {"main_s": time.monotonic() - begun}


def _kills(place: Path, job: str, whole: Whole, kills: int) -> Iterator[Outcome]:
    """Chains of one to three kills, each followed by a run that is left to end."""
    chance = random.Random(job)
    left = kills
    tries = 0
    while left > 0 and tries < 4 * kills:
        with _trial(place) as folder:
            moments = []
            for _ in range(min(left, chance.choice((1, 1, 2, 3)))):
                tries += 1
                if chance.random() < 0.5:
                    step = chance.randrange(1, whole.steps + 1)
                    said, _ = _run(job, folder, dies_at=step)
                    moment = f"before change {step} of {whole.steps}"
                else:
                    after = chance.random() * whole.seconds
                    said, _ = _run(job, folder, dies_after=after)
                    moment = f"after {after:.2f} of {whole.seconds:.2f} s"
                if said.status == -9:
                    moments.append(moment)
                    left -= 1
                else:
                    break  # it was faster, or what is left of it takes fewer changes
            if moments:
                said, _ = _run(job, folder)
                outcome = _ended_as(f"kill -9: {job}", " and ".join(moments), said, folder, whole)
                yield outcome
                # every kill of the chain is one that was tried
                yield from [outcome] * (len(moments) - 1)


def _ended_as(kind: str, name: str, said: Said, folder: Path, whole: Whole) -> Outcome:
    """The run after the harm must be answered, and have left what the uninterrupted one left."""
    case = Case(kind, name, lambda folder: ())
    end, why = judge(case, folder, said)
    if end == "refused":
        end, why = "lost", f"it does not go on: {why}"
    elif end == "answered":
        differing = differences(folder / "disk", folder / "model", whole.disk)
        if differing:
            end, why = "lost", f"differs from the uninterrupted run in {', '.join(differing[:5])}"
    return Outcome(case, end, why, said.seconds, said.mb)


def differences(disk: Path, model: Path, whole: Path) -> list[str]:
    """Files that differ, times aside, with a line of each; and those of one side alone."""
    one, other = _tree(disk), _tree(whole)
    one |= {f"model/{name}": path for name, path in _tree(model).items()}
    found = sorted(one.keys() ^ other.keys())
    for name in sorted(one.keys() & other.keys()):
        line = _difference(one[name], other[name])
        if line is not None:
            found.append(f"{name} ({line[:200]})" if line else name)
    return found


def _tree(folder: Path) -> dict[str, Path]:
    """All files but those of the cache, whose form depends on who wrote what when; locks stay."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file()
        and "cache" not in path.relative_to(folder).parts
        and not path.name.endswith(".lock")
    }


def _difference(one: Path, other: Path) -> str | None:
    """The first line that only one of them has, times aside; None where they are the same."""
    if filecmp.cmp(one, other, shallow=False):
        return None
    if one.suffix not in (".json", ".html", ".csv", ".yaml", ".svg"):
        return ""
    texts = [path.read_text(encoding="utf-8").replace("other/", "disk/") for path in (one, other)]
    if one.suffix == ".html":
        texts = [_TABLE.sub(_table_without_seconds, text) for text in texts]
    lines = [_TIMES.sub("", text).splitlines() for text in texts]
    if one.suffix == ".json":
        lines = [
            json.dumps(_without_times(json.loads("\n".join(rows))), indent=1).splitlines()
            for rows in lines
        ]
    if one.suffix == ".csv":
        lines = [_without_seconds(rows) for rows in lines]
    if lines[0] == lines[1]:
        return None
    both = zip_longest(*lines, fillvalue="nothing more")
    a, b = next(pair for pair in both if pair[0] != pair[1])
    place = next((n for n, signs in enumerate(zip(a, b, strict=False)) if len({*signs}) > 1), 40)
    start = max(0, place - 40)
    return f"{a[start:][:100]} instead of {b[start:][:100]}"


def _without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {
            key: _without_times(value)
            for key, value in content.items()
            if "seconds" not in key and key not in _TIME_KEYS
        }
    return [_without_times(item) for item in content] if isinstance(content, list) else content


def _without_seconds(lines: list[str]) -> list[str]:
    rows = csv.DictReader(lines)
    return [
        json.dumps({k: v for k, v in row.items() if k != "time" and "second" not in (k or "")})
        for row in rows
    ]


def _table_without_seconds(table: re.Match[str]) -> str:
    """The CSV of a page's table."""
    rows = _without_seconds(json.loads(table[2]).splitlines())
    return table[1] + "\n".join(rows) + table[3]


def _full_disks(place: Path, job: str, whole: Whole) -> Iterator[Outcome]:
    """Disks that are full at one or another point; then there is room, and it is run again."""
    needed = sum(path.stat().st_size for path in whole.disk.rglob("*") if path.is_file())
    for fraction in (0.02, 0.2, 0.4, 0.6, 0.8, 0.95):
        name = f"{fraction:.0%} of what it needs"
        case = Case(f"disk full: {job}", name, lambda folder: ())
        with _trial(place) as folder:
            size = max(16384, int(fraction * needed))
            full, again = small_disk.run(
                "captioner", words_of(job), folder, environment_of(folder), size, LIMIT_S
            )
            end, why = judge(case, folder, full)
            if end not in ("answered", "refused"):
                yield Outcome(case, end, why, full.seconds, full.mb)
                continue
            outcome = _ended_as(f"disk full: {job}", name, again, folder, whole)
            if end == "refused" and "no space left" not in why.lower():
                outcome = Outcome(case, "wrong", f"does not say that it is full: {why}", 0.0, 0.0)
            if end == "refused" and outcome.end == "answered":
                outcome = Outcome(case, "refused", why, full.seconds, full.mb)
            yield outcome


def _pairs(place: Path, job: str, whole: Whole) -> Iterator[Outcome]:
    """Two on one cache, and two that write the same files."""
    for where in ("one cache", "one --out"):
        with _trial(place) as folder:
            second = words_of(job)
            if where == "one cache":
                second = [word.replace("disk/", "other/") for word in second]
                (folder / "other").mkdir()
            both = [words_of(job), second]
            notes = [Path(tempfile.mkdtemp(dir=folder)) for _ in both]
            running = [
                launch("captioner", words, folder, note, environment_of(folder))
                for words, note in zip(both, notes, strict=True)
            ]
            ends = [
                finish(process, note, limit_s=LIMIT_S)[0]
                for process, note in zip(running, notes, strict=True)
            ]
            yield from _judged_pair(job, where, ends, folder, whole)


def _judged_pair(
    job: str, where: str, ends: Sequence[Said], folder: Path, whole: Whole
) -> Iterator[Outcome]:
    kind = f"two at once: {job}"
    case = Case(kind, where, lambda folder: ())
    if where == "one --out" and not any(said.status == 0 for said in ends):
        why = "; ".join(said.err.strip()[-200:] for said in ends)
        yield Outcome(case, "lost", f"neither of them ended well: {why}", 0.0, 0.0)
        return
    for number, said in enumerate(ends):
        if said.status == 2 and where == "one --out":
            end, why = judge(case, folder, said)
            yield Outcome(case, end, why, said.seconds, said.mb)
        elif number and where == "one cache":
            other = folder / "other"
            shutil.rmtree(folder / "disk" / "run")
            for path in (*(folder / "disk").glob("*.*"),):
                path.unlink()
            for path in other.iterdir():
                shutil.move(path, folder / "disk" / path.name)
            yield _ended_as(kind, where, said, folder, whole)
        else:
            yield _ended_as(kind, where, said, folder, whole)
