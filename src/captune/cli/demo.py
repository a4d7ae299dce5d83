"""`captune demo`: the main job on real photos, offline after the first time."""

from __future__ import annotations

import argparse
from pathlib import Path

from captune.cli.terminal import note, shell

HELP = "recognise a dozen real photos and leave a page of pictures"
EXAMPLES = """  captune demo
  captune demo --out my-demo"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the page goes."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("captune-demo"),
        metavar="FOLDER",
        help="folder for the photos, the run and the page (default: captune-demo)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Gather the photos, then run the same command that a user would type."""
    from captune.cli import main
    from captune.demo import gather_photos

    photos, labels, truth = gather_photos(arguments.out)
    out = arguments.out / "run"
    words = ["classify", str(photos), "--labels", str(labels), "--truth", str(truth)]
    words += ["--out", str(out), "--top5", "3"]
    for flag in ("json", "offline", "debug"):
        if getattr(arguments, flag):
            words.append(f"--{flag}")
    note(f"$ {shell(['captune', *words])}", quiet=arguments.json)
    status = main(words)
    if status == 0 and not arguments.json:
        note(f"\nopen this page: {(out / 'report.html').resolve().as_uri()}")
    return status
