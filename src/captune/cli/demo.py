"""`captune demo`: the main jobs on real photos, offline after the first time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from captune.cli.running import run_words
from captune.cli.terminal import note, print_json

HELP = "recognise and describe a dozen real photos and leave a page of pictures"
EXAMPLES = """  captune demo
  captune demo --out my-demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the page goes."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("captune-demo"),
        metavar="FOLDER",
        help="folder for the photos, the runs and the page (default: captune-demo)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Gather the photos, then run the same commands that a user would type."""
    from captune.demo import gather_photos, why_no_captions, write_page

    photos, labels, truth = gather_photos(arguments.out)
    recognised, described = arguments.out / "run", arguments.out / "captions"
    page = recognised / "report.html"
    words = ["classify", str(photos), "--labels", str(labels), "--truth", str(truth)]
    words += ["--out", str(recognised), "--top5", "3"]
    status, printed = run_words(words, arguments)
    if status != 0:
        return status
    result = _summary(printed) | {"page": str(page)}
    reason = why_no_captions()
    if reason is None:
        status, printed = run_words(["caption", str(photos), "--out", str(described)], arguments)
        if status == 0:
            result["caption"] = json.loads(printed or "null")
            write_page(recognised, described, page)
    else:
        result["notes"] = [reason]
        note(f"\n{reason}", quiet=arguments.json)
    if not arguments.json:
        note(f"\nopen this page: {page.resolve().as_uri()}")
    elif status == 0:
        print_json(result)
    return status


def _summary(printed: str) -> dict[str, Any]:
    """The start of what `--json` prints; `caption` is null where nothing was captioned."""
    found = json.loads(printed or "{}")
    common = {name: found.get(name) for name in ("run", "images", "skipped")}
    return {"command": "demo", **common, "classify": found, "caption": None}
