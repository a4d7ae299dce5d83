"""Hostile input of every kind, made here, and what captune does with it: a table.

python -m tests.hostile                     images, runs, models, files, outputs, strings, app
python -m tests.hostile chaos               kills, full disks, two at once
python -m tests.hostile shards              kills of workers and drivers, 500 hostile of 10,000
python -m tests.hostile strings --minutes 60
python -m tests.hostile images --only WebP --verbose
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile import app, chaos, shards, strings
from tests.hostile.runner import Outcome, Table, as_text, run, some

FAMILIES = ("images", "runs", "models", "files", "outputs", "strings", "app")
OTHERS = ("chaos", "shards")


def main() -> int:
    """Run families of cases; 1 where something has to be mended."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "families", nargs="*", metavar="FAMILY", help=", ".join((*FAMILIES, *OTHERS))
    )
    parser.add_argument("--part", action="store_true", help="some of each kind")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has it")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cases at once")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="of each command")
    parser.add_argument("--minutes", type=float, default=0, metavar="N", help="of other strings")
    parser.add_argument("--verbose", action="store_true", help="every case, as it ends")
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="captune-hostile-cache-") as cache:
        os.environ["CAPTUNE_CACHE"] = cache
        os.environ["CAPTUNE_CONFIG"] = f"{cache}/config"
        os.environ["CAPTUNE_OFFLINE"] = "1"
        for family in asked.families or FAMILIES:
            begun = time.monotonic()
            found += tables(family, asked)
            print(f"{family}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    bad = [outcome for table in found for outcome in table.bad]
    for outcome in bad:
        print(_line(outcome))
    print(as_text(found))
    return 1 if bad else 0


def tables(family: str, asked: argparse.Namespace) -> list[Table]:
    """What came of a family."""

    def tell(outcome: Outcome) -> None:
        if asked.verbose or outcome.is_bad:
            print(_line(outcome), file=sys.stderr, flush=True)

    found: list[Table]
    if family == "strings":
        count = strings.PART if asked.part else strings.ALL
        found = [strings.table(count=count, minutes=asked.minutes)]
    elif family == "app":
        found = app.tables(part=asked.part, only=asked.only, tell=tell)
    elif family == "shards":
        found = shards.tables(kills=asked.kills, tell=tell)
    elif family == "chaos":
        found = chaos.tables(kills=asked.kills, only=asked.only, tell=tell)
    else:
        every = importlib.import_module(f"tests.hostile.{family}").cases()
        cases = [case for case in every if asked.only in f"{case.kind}: {case.name}"]
        found = [run(family, some(cases, 2) if asked.part else cases, jobs=asked.jobs, tell=tell)]
    return found


def _line(outcome: Outcome) -> str:
    case = outcome.case
    figures = f"{outcome.seconds:.1f} s, {outcome.mb:,.0f} MB"
    return f"{outcome.end}: {case.kind}: {case.name} ({figures}) {outcome.why}"


if __name__ == "__main__":
    Path("tests").resolve(strict=True)
    sys.exit(main())
