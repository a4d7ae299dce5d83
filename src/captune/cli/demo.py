"""`captune demo`: the five jobs on real images, offline after the first time."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from captune.cli.running import run_words
from captune.cli.terminal import note, print_json
from captune.files import check_writable

HELP = "recognise, describe and explain a dozen real images, and leave one page of it"
EXAMPLES = """  captune demo
  captune demo --out my-demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the page goes."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("captune-demo"),
        metavar="FOLDER",
        help="folder for the images, the runs and the page (default: captune-demo)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Gather the images, then run the same commands that a user would type."""
    from captune.demo import gather_images, steps, why_no_captions

    started = time.monotonic()
    check_writable(arguments.out / "images" / "any")
    material = gather_images(arguments.out)
    reason = why_no_captions()
    result: dict[str, Any] = {"command": "demo", "run": None, "images": 0, "skipped": []}
    if reason is not None:
        result["notes"] = [reason]
        note("", reason, "", quiet=arguments.json)
    for verb, words in steps(material, arguments.out, captions=reason is None).items():
        status, printed = run_words(words, arguments)
        if status != 0:
            return status
        found = json.loads(printed or "{}")
        result[verb] = found
        if verb == "classify":
            result |= {name: found.get(name) for name in ("run", "images", "skipped")}
    page = arguments.out / "report.html"
    if arguments.json:
        print_json(result | {"page": str(page), "seconds": round(time.monotonic() - started, 1)})
        return 0
    note("", f"all of it took {time.monotonic() - started:.0f} s; open this page:")
    note(page.resolve().as_uri())
    return 0
