"""Runs of every job that have been changed, or come from another machine."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.mutations import change_value
from tests.report_runs import (
    caption_run,
    classify_run,
    compare_run,
    explain_run,
    faithful_run,
    images,
    score_run,
    tune_run,
)

from captune.runs.signature import FIELD, signature_of

NAMES = [f"{n}.jpg" for n in range(6)]
CAPTIONS = {name: f"a caption of {name}" for name in NAMES}
OTHER = {name: f"another of {name}" for name in NAMES}
JSON_FILES = ("run.json", "metrics.json", "records.jsonl")


def good_runs(folder: Path) -> dict[str, Path]:
    """A run of every job that the reports know, of the same images; signed by the test's key."""
    root = images(folder / "images", NAMES)
    return {
        "classify": classify_run(folder / "classify", root, NAMES),
        "tune": tune_run(folder / "tune", root, {"adapter": CAPTIONS, "lora": OTHER}),
        "caption": caption_run(folder / "caption", root, CAPTIONS),
        "score": score_run(folder / "score", root, CAPTIONS),
        "compare": compare_run(folder / "compare", root, CAPTIONS, OTHER),
        "explain": explain_run(folder / "explain", root, CAPTIONS),
        "faithful": faithful_run(folder / "faithful", root),
    }


def sign_again(run: Path) -> None:
    """Make a changed run one of this machine's again."""
    about = json.loads((run / "run.json").read_text())
    digests = {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest()
        for name in ("metrics.json", "records.jsonl")
    }
    about[FIELD] = signature_of(about, digests)
    (run / "run.json").write_text(json.dumps(about))


def from_elsewhere(run: Path, root: str | Path | None = None) -> None:
    """Make a run one that another machine wrote, its images below `root`."""
    about = json.loads((run / "run.json").read_text())
    about.pop(FIELD, None)
    if root is not None:
        about["root"] = str(root)
    (run / "run.json").write_text(json.dumps(about))


def mutations(run: Path, count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(file, what was done to it, its new text): one change a time, of any value in it."""
    chance = random.Random(seed)
    for _ in range(count):
        path = run / chance.choice(JSON_FILES)
        kept = path.read_text()
        told = change_value(path, chance)
        changed = path.read_text()
        path.write_text(kept)
        yield path.name, told, changed
