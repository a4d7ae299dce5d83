"""Score runs with invented scores, and folders of images, for what reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from captune.runs import RunWriter


@dataclass
class Options:
    candidates: Path | None = Path("my captions.json")
    references: Path | None = Path("refs.json")
    images: Path | None = None


def write_run(
    folder: Path,
    scores: dict[str, dict[str, Any]],
    *,
    root: Path | None = None,
    paths: dict[str, str] | None = None,
    kind: str = "score",
    captions: dict[str, str] | None = None,
) -> Path:
    """A score run of images with invented scores: image id -> metric -> score."""
    metrics = dict.fromkeys(name for row in scores.values() for name in row)
    words = ["captune", "score", "my captions.json"]
    with RunWriter(folder, kind=kind, options=Options(), root=root or folder, command=words) as run:
        for image, row in scores.items():
            run.record(
                {
                    "image": image,
                    "path": (paths or {}).get(image),
                    "caption": (captions or {}).get(image, f"a caption of {image}"),
                    "references": [f"a reference of {image}"],
                    "scores": row,
                }
            )
        run.metrics = {
            "images": len(scores),
            "metrics": {
                metric: {
                    "name": f"{metric.upper()}[ptb]",
                    "corpus": 0.5,
                    "interval": [0.25, 0.75],
                    "recipe": {"tokenizer": "ptb"},
                }
                for metric in metrics
            },
        }
    return folder


def image_folder(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(folder / name)
    return folder
