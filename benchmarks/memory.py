"""Memory stays flat and a killed run goes on where it was.

    python benchmarks/memory.py            20,000 images, about 2 minutes on 2 cores
    python benchmarks/memory.py --quick    4,000 images

Generated JPEGs of 64 pixels, a tiny encoder with random weights, two labels. Each run is a process
of its own, and reports its largest resident size so far after a tenth of the images and after all.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from captune.features.cache import FeatureCache
from captune.images import find_images
from captune.models.encoders import ImageEncoder, ImageTextModel, SimilarityScale, TextEncoder
from captune.zeroshot.classifier import ZeroShotClassifier

BATCH = 64
DIMENSION = 512
MB = 1e6


def main() -> int:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4,000 images, not 20,000")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--classify", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--mark", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.classify is not None:
        classify(arguments.classify, arguments.cache, arguments.mark)
        return 0
    count = 4_000 if arguments.quick else 20_000
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        result = measure(Path(folder), count)
    if arguments.json:
        print(json.dumps(result))
        return 0
    cold, warm, killed = result["cold"], result["warm"], result["killed"]
    print("| run | images/s | peak RSS at a tenth (MB) | peak RSS at the end (MB) | ratio |")
    print("|---|---|---|---|---|")
    for name, run in (("cold", cold), ("cached", warm)):
        print(
            f"| {name}, {count:,} images | {count / run['seconds']:.0f} "
            f"| {run['peak_at_mark'] / MB:.0f} | {run['peak'] / MB:.0f} "
            f"| {run['peak'] / run['peak_at_mark']:.3f} |"
        )
    print(
        f"Killed (-9) after {killed['reported']:,} images were reported; the next run encoded "
        f"{killed['encoded']:,} of {count:,}: {killed['again']} of the reported ones again "
        f"(a batch is {BATCH})."
    )
    return 0


def measure(folder: Path, count: int) -> dict[str, Any]:
    """Three runs: cold, cached, and one killed half-way with its successor."""
    images = folder / "images"
    write_images(images, count)
    cold = run(images, folder / "cache", count // 10)
    warm = run(images, folder / "cache", count // 10)
    process = start(images, folder / "other", 0)
    reported = 0
    assert process.stdout is not None
    while reported < count // 2:
        reported += json.loads(process.stdout.readline()).get("done", 0)
    process.send_signal(signal.SIGKILL)
    # what it had reported before the signal came is still in the pipe
    for line in process.stdout:
        if line.endswith("\n"):
            reported += json.loads(line).get("done", 0)
    process.wait()
    after = run(images, folder / "other", 0)
    killed = {
        "reported": reported,
        "encoded": after["encoded"],
        "again": max(0, after["encoded"] - (count - reported)),
    }
    return {"images": count, "batch": BATCH, "cold": cold, "warm": warm, "killed": killed}


def start(images: Path, cache: Path, mark: int) -> subprocess.Popen[str]:
    """A process that classifies."""
    words = [sys.executable, __file__, "--classify", images, "--cache", cache, "--mark", mark]
    return subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True)


def run(images: Path, cache: Path, mark: int) -> dict[str, Any]:
    """The report of a process that classifies all images."""
    output, _ = (process := start(images, cache, mark)).communicate()
    if process.returncode:
        raise SystemExit(f"the measured process ended with status {process.returncode}")
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    return report


def classify(folder: Path, cache: Path, mark: int) -> None:
    """What is measured: one line of JSON for each step, and a last one with the whole."""
    model = tiny_model()
    with FeatureCache(cache) as features:
        classifier = ZeroShotClassifier(
            ["light", "dark"], model=model, batch_size=BATCH, cache=features
        )
        found = find_images([folder])
        peak_at_mark = 0

        def report(more: int) -> None:
            print(json.dumps({"done": more}), flush=True)

        started = time.perf_counter()
        for done, _ in enumerate(classifier.classify(found, on_progress=report), start=1):
            if done == mark:
                peak_at_mark = peak_bytes()
        seconds = time.perf_counter() - started
    encoded = model.image.module.images
    end = {"seconds": seconds, "peak_at_mark": peak_at_mark, "peak": peak_bytes()}
    print(json.dumps({**end, "encoded": encoded, "threads": threading.active_count()}), flush=True)


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Projection(nn.Module):
    """8 x 8 mean colours, projected; counts the images that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0
        self.project = nn.Linear(3 * 8 * 8, DIMENSION).eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        found: Tensor = self.project(nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1))
        return found


class Letters(nn.Module):
    """A random vector for each letter, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(256, DIMENSION).eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.letters(ids).mean(1)
        return found


def tiny_model() -> ImageTextModel:
    """Random weights, the same in every process."""
    torch.manual_seed(0)
    cpu, dtype = torch.device("cpu"), torch.float32

    def transform(image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((64, 64)), dtype=np.float32) / 255
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def tokenize(texts: Any) -> dict[str, Tensor]:
        rows = [list(text.encode()[:40].ljust(40)) for text in texts]
        return {"ids": torch.tensor(rows)}

    image = ImageEncoder(Projection(), transform, "64", "tiny", DIMENSION, cpu, dtype)
    text = TextEncoder(Letters(), tokenize, "tiny", DIMENSION, cpu, dtype)
    return ImageTextModel("tiny", "tiny", None, image, text, SimilarityScale(100.0))


def write_images(folder: Path, count: int) -> None:
    """Small JPEGs, no two alike: the number of each is painted into its corner, bit by bit."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), dtype=np.uint8)
    scenes = [Image.fromarray(cells).resize((64, 64)) for cells in noise]
    for number in range(count):
        picture = np.array(scenes[number % len(scenes)])
        bits = [255 * (number >> bit & 1) for bit in range(16)]
        picture[:16, :64] = np.repeat(np.array(bits, np.uint8), 4)[None, :, None]
        Image.fromarray(picture).save(folder / f"{number:06d}.jpg", quality=80)


if __name__ == "__main__":
    os.environ.setdefault("CAPTUNE_OFFLINE", "1")
    sys.exit(main())
