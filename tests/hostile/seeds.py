"""A run folder of every job and a captioner, made by the commands themselves with toy models.

They are made once for a process, and are what hostile ones are mutations of.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.captioning.caption_job import write_captioner, write_images
from tests.captioning.little_job import write_job
from tests.hostile.stages import STAGES
from tests.processes import ended, start

KINDS = ("classify", "prompts", "tune", "caption", "score", "compare", "explain", "faithful")
IMAGES = 6
SETTINGS = ("--set", "bridge.width=16", "--set", "bridge.heads=2")
DECODER = "decoder-llama"


@cache
def seeds() -> Path:
    """A folder of `images`, `runs/<kind>`, `model/run` and files of captions, labels and boxes."""
    place = Path(tempfile.mkdtemp(prefix="captune-seeds-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    with (place / "said").open("wb") as said:
        status = ended(start(_make, str(place), said.name))
    assert status == 0, (place / "said").read_text()
    return place


def commands(place: Path) -> dict[str, list[str]]:
    """What makes a run of each kind, without --out."""
    images, model = str(place / "images"), str(place / "model" / "run")
    labels, references = str(place / "labels.json"), str(place / "references.json")
    job = place / "job"
    return {
        "classify": [
            *("classify", str(job / "images"), "--labels", labels, "--truth", "from-name"),
            *("--top5", "1", "--all-probabilities"),
        ],
        "prompts": [
            *("prompts", str(job / "images"), "--labels", labels, "--truth", "from-name"),
            *("--prompt", "a photo of {}", "--prompt", "red, but {}"),
        ],
        "tune": [
            *("tune", str(job / "images"), "--captions", str(job / "train.jsonl")),
            *("--val-captions", str(job / "val.jsonl"), "--epochs", "2"),
            *("--batch-size", "12", "--lr", "1e-2"),
            *("--max-tokens", "12", "--method", "adapter,lora", "--device", "cpu", *SETTINGS),
            *("--save-steps", "1"),
        ],
        "caption": [
            *("caption", images, "--model", model, "--max-tokens", "8", "--device", "cpu"),
            *("--batch-size", "2", "--beam", "2"),
        ],
        "score": [
            *("score", str(place / "candidates.json"), "--references", references),
            *("--images", images, "--metrics", "bleu,rouge_l,cider,clipscore"),
        ],
        "compare": [
            *("compare", str(place / "candidates.json"), str(place / "others.json")),
            *("--references", references, "--images", images, "--metrics", "cider,rouge_l"),
        ],
        "explain": [
            *("explain", images, "--model", model, "--max-tokens", "8", "--device", "cpu"),
        ],
        "faithful": [
            *("faithful", model, "--images", images, "--captions", references, "--quick"),
            *("--max-tokens", "4", "--device", "cpu"),
        ],
    }


def write_inputs(place: Path, images: int = IMAGES) -> None:
    """Images, captions by two, references, labels, a captioner with its decoder."""
    write_images(place / "images", images)
    write_job(place / "job")
    stems = sorted(path.stem for path in (place / "images").iterdir())
    captions = {stem: f"w{20 + n % 4} w22 a" for n, stem in enumerate(stems)}
    (place / "candidates.json").write_text(json.dumps(captions))
    others = {stem: f"w{21 + n % 3} w20" for n, stem in enumerate(stems)}
    (place / "others.json").write_text(json.dumps(others))
    references = {stem: [f"w{20 + n % 5} w22"] for n, stem in enumerate(stems)}
    (place / "references.json").write_text(json.dumps(references))
    names = dict(zip("0123", ("red", "green", "blue", "white"), strict=True))
    (place / "labels.json").write_text(json.dumps(names))
    write_captioner(place / "model" / "run")


def _make(place: str, said: str) -> None:
    from captune.cli import main

    with Path(said).open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    folder = Path(place)
    os.environ["CAPTUNE_CACHE"] = str(folder / "cache")
    STAGES["captioner"]()
    write_inputs(folder)
    for kind, words in commands(folder).items():
        status = main([*words, "--out", str(folder / "runs" / kind)])
        assert status == 0, kind
