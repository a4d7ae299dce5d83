"""Models of toy size in the place of those that are embedded, and a folder of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.captioning.caption_job import use_encoder, write_captioner
from tests.report_runs import caption_run, classify_run, explain_run, images
from tests.webapp.app_page import HOSTILE, HOSTILE_NAME

from captune.captioning import captioner

NAMES = [HOSTILE_NAME, "a/1.jpg", "a/2.jpg"]
CAPTIONS = {name: f"{HOSTILE} number {n}" for n, name in enumerate(NAMES)}
OTHER = {name: f"another dog {n}" for n, name in enumerate(NAMES)}


def little_captioner(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`lite` is a captioner of random weights."""
    place = write_captioner(folder / "captioner" / "run")
    use_encoder(monkeypatch)
    monkeypatch.setattr(captioner, "lite_captioner", lambda: place)


def write_runs(folder: Path) -> Path:
    """Four runs of the same images, and captions by people."""
    root = images(folder / "images", NAMES)
    runs = folder / "runs"
    classify_run(runs / "recognised", root, NAMES)
    caption_run(runs / "first", root, CAPTIONS)
    caption_run(runs / "second", root, OTHER)
    explain_run(runs / "maps", root, CAPTIONS)
    references = folder / "references.json"
    references.write_text(json.dumps({Path(name).stem: ["a dog runs"] for name in NAMES}))
    return references
