"""A model backend `toy:NAME` for worker processes, and shards of images that it tells apart.

toy:colours   the scripted colour model
toy:slow      the same, a hundredth of a second an image
toy:places    the encoder of the toy captioner
toy:deadly    the same, but an image of pure magenta kills the process that looks at it
"""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch import Tensor

from tests.colour_model import colour_model

COLOURS = {"red": (220, 20, 30), "green": (10, 200, 40), "blue": (20, 10, 210)}
MAGENTA = (255, 0, 255)
NAMES = list(COLOURS)


def load(spec: Any, device: Any, dtype: Any) -> Any:
    if spec.name == "places":
        from tests.captioning.caption_job import image_model

        return image_model()
    model = colour_model()
    plain = model.image.transform

    def transform(image: Image.Image) -> Tensor:
        if spec.name == "deadly" and image.getpixel((0, 0)) == MAGENTA:
            os.kill(os.getpid(), signal.SIGKILL)
        if spec.name == "slow":
            time.sleep(0.01)
        return plain(image)

    return replace(model, spec=spec.text, image=replace(model.image, transform=transform))


def fetch(spec: Any, source: Any = None) -> list[Path]:
    return []


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and those that it starts know the backend."""
    about = folder / "toy_models-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-models\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[captune.models]\ntoy = tests.shards.toy\n")
    monkeypatch.syspath_prepend(str(folder))
    root = str(Path(__file__).parents[2])
    others = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), root, others])))


def picture(colour: tuple[int, int, int], kind: str = "PNG", side: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_tars(folder: Path, count: int, images: int = 9) -> list[Path]:
    """`00000.tar`, ...: images `000000000.png`, each with a `.txt` and a `.json` beside it."""
    paths = []
    for shard in range(count):
        members = []
        for n in range(images):
            name = NAMES[n % 3]
            key = f"{shard:05d}{n:04d}"
            members.append((f"{key}.png", picture(COLOURS[name], side=16 + n)))
            members.append((f"{key}.txt", f"a {name} thing".encode()))
            members.append((f"{key}.json", json.dumps({"key": key}).encode()))
        paths.append(write_tar(folder / f"{shard:05d}.tar", members))
    return paths
