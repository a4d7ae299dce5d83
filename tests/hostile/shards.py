"""Shards under harm: workers and drivers that are killed, and 500 hostile images among 10,000.

A kill comes at a moment drawn by chance. After it the same command goes on; in the end the rows are
those of a run that nothing happened to, and no shard that was done has been done again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.hostile import image_files
from tests.hostile.runner import Case, Outcome, Table, process_tree
from tests.shards import toy

from captune.images import UnreadableImage, decode_image

SHARDS, IMAGES = 12, 60
ROWS, HOSTILE = 10_000, 500
_LARGEST = 2**22  # bytes of a hostile file; the larger ones have a family of their own
LIMIT_S = 900.0


def tables(*, kills: int, tell: Callable[[Outcome], None]) -> list[Table]:
    """A row for kills, and one for hostile images."""
    found = []
    with tempfile.TemporaryDirectory(prefix="captune-chaos-shards-") as place:
        folder = Path(place)
        with pytest.MonkeyPatch.context() as patch:
            toy.install(folder / "site", patch)
            for name, outcomes in (
                ("kill -9: shards", killed(folder / "kills", kills)),
                (f"shards, {HOSTILE} of {ROWS:,} hostile", map(hostile, [folder / "hostile"])),
            ):
                table = Table(name)
                for outcome in outcomes:
                    table.outcomes.append(outcome)
                    tell(outcome)
                found.append(table)
    return found


def killed(folder: Path, kills: int) -> Iterator[Outcome]:
    """So many kills of one job, each followed by a look at what was done before it."""
    chance = random.Random(0)
    toy.write_tars(folder / "in", SHARDS, IMAGES)
    began = time.monotonic()
    assert _driver(folder, "whole").wait(LIMIT_S) == 0
    whole_s = time.monotonic() - began
    done: dict[str, int] = {}
    left = kills
    while left:
        for name in list(done):  # some of it is lost, so that there is something to do
            if chance.random() < 0.5:
                (folder / "out" / name).unlink()
                del done[name]
        driver = _driver(folder, "out")
        for _ in range(min(left, chance.choice((1, 2, 3)))):
            time.sleep(chance.random() * whole_s / 2)
            tree = process_tree(driver.pid)
            if driver.poll() is not None:
                break
            victim = chance.choice(tree[1:] or tree) if chance.random() < 0.6 else driver.pid
            os.kill(victim, signal.SIGKILL)
            left -= 1
            what = "driver" if victim == driver.pid else "worker"
            yield _judged(what, f"kill {kills - left}", _lost(folder, done))
            if victim == driver.pid:
                break
        driver.wait(LIMIT_S)
        _settled(folder / "out")
        done |= {path.name: path.stat().st_mtime_ns for path in _stats(folder)}
    assert _driver(folder, "out").wait(LIMIT_S) == 0
    yield _judged("end", "rows of all shards", _differing(folder))


def _driver(folder: Path, out: str) -> subprocess.Popen[bytes]:
    words = ["classify", str(folder / "in"), "--labels", "red,green,blue", "--jobs", "2"]
    words += ["--model", "toy:slow", "--out", str(folder / out)]
    command = [sys.executable, "-m", "captune", *words]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=nowhere, stderr=nowhere)


def _stats(folder: Path) -> list[Path]:
    return list((folder / "out").glob("*_stats.json"))


def _settled(out: Path) -> None:
    """Wait for workers that lost their driver: they end, and let go."""
    end = time.monotonic() + 30
    while list(out.glob("*.claim")) and time.monotonic() < end:
        time.sleep(0.1)


def _lost(folder: Path, done: dict[str, int]) -> str:
    """What had been done and is gone, or was done again."""
    now = {path.name: path.stat().st_mtime_ns for path in _stats(folder)}
    return ", ".join(name for name, at in done.items() if now.get(name) != at)


def _differing(folder: Path) -> str:
    bad = [path.name for path in folder.glob("out/*.partial")]
    for path in sorted((folder / "whole").glob("*.parquet")):
        other = folder / "out" / path.name
        if not other.is_file() or pq.read_table(path) != pq.read_table(other):
            bad.append(path.name)
    return ", ".join(bad)


def _judged(kind: str, name: str, why: str) -> Outcome:
    return Outcome(Case(kind, name, lambda folder: ()), "lost" if why else "answered", why, 0, 0)


def _is_refused(data: bytes) -> bool:
    try:
        decode_image(data)
    except UnreadableImage:
        return True
    return False


def hostile(folder: Path) -> Outcome:
    """Each of 10,000 images is answered or has a reason."""
    refused = [*image_files.not_images(), *image_files.lies(), *image_files.truncated()]
    contents = [file.content() for file in refused if not file.is_image]
    small = [data for data in contents if len(data) < _LARGEST and _is_refused(data)]
    harm = islice(cycle(small), HOSTILE)
    plain = {name: toy.picture(colour) for name, colour in toy.COLOURS.items()}
    every = ROWS // HOSTILE
    members = [
        (f"{n:06}.png", next(harm) if n % every == 7 else plain[toy.NAMES[n % 3]])
        for n in range(ROWS)
    ]
    for shard in range(10):
        own = members[shard * 1000 : (shard + 1) * 1000]
        toy.write_tar(folder / "in" / f"{shard:05d}.tar", own)
    words = ["classify", str(folder / "in"), "--labels", "red,green,blue", "--jobs", "2"]
    words += ["--model", "toy:colours", "--out", str(folder / "out")]
    status = subprocess.run([sys.executable, "-m", "captune", *words], timeout=LIMIT_S).returncode
    paths = sorted((folder / "out").glob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    keys = sorted(row["key"] for row in rows)
    failed = [row for row in rows if row["error"]]
    why = []
    if status != 0 or keys != [name.removesuffix(".png") for name, _ in members]:
        why.append(f"status {status}, {len(rows):,} rows")
    if len(failed) != HOSTILE or any(row["label"] for row in failed):
        why.append(f"{len(failed)} have a reason")
    return _judged("hostile", f"{HOSTILE} of {ROWS:,}", "; ".join(why))
