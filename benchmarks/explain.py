"""What maps cost beside the caption that they explain, by each method, for one caption of 12 words.

    python benchmarks/explain.py                 the captioner that ships
    python benchmarks/explain.py --model RUN     one of your own

The features are given, as they are when an image was captioned before. The ways take turns in an
order that rotates. Processor seconds stand beside the clock's: on a busy machine they say more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from captune.attribution.captioned_image import CaptionedImage, captioned_images
from captune.attribution.deletion_insertion import quick_marks
from captune.attribution.masking import token_masking
from captune.attribution.methods import MAP_METHODS
from captune.captioning.captioner import captioner_folder, load_captioner
from captune.images import ImageFile
from captune.options.captioning import ExplainOptions
from limits import about, in_turn, measured, spread
from synthetic import machine

CAPTION = "A man in a red shirt and black pants rides a bike"
WRITING = "writing the caption, beam 5"
MARKS = "quick marks"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lite", metavar="RUN|lite")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    work = partial(measure, arguments.model, arguments.rounds)
    return measured(work, show, as_json=arguments.json)


def measure(model: str, rounds: int) -> dict[str, Any]:
    """Seconds by the clock and of the processor, by way."""
    options = ExplainOptions(images=["x"], model=model, device="cpu")
    place = captioner_folder(model)
    loaded = load_captioner(options, place)
    captioner = loaded.model
    clock: dict[str, list[float]] = {}
    processor: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "noise.png"
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(image)
        (one,) = captioned_images(loaded, [ImageFile(image, image.name)], [CAPTION], on_skip=print)
        ways: list[tuple[str, Callable[[], object]]] = [
            (WRITING, lambda: captioner.generate(one.grid, beams=5, max_tokens=len(one.ids)))
        ]
        ways += [
            (name, maps_by(name, captioner, one))
            for name in MAP_METHODS.names()
            if name != "token-activation"
        ]
        drawn = maps_by(ways[1][0], captioner, one)()
        ways.append((MARKS, lambda: quick_marks(token_masking(one), drawn)))
        for _, way in ways:
            way()
        for number in range(rounds):
            for name, way in in_turn(ways, number):
                before, begun = time.process_time(), time.perf_counter()
                way()
                clock.setdefault(name, []).append(time.perf_counter() - begun)
                processor.setdefault(name, []).append(time.process_time() - before)
    return {
        "machine": machine(),
        "model": model,
        "words": len(one.words),
        "tokens": len(one.ids),
        "patches": one.shape.rows * one.shape.columns,
        "blocks": len(captioner.parts.blocks),
        "threads": torch.get_num_threads(),
        "clock_s": {name: clock[name] for name, _ in ways},
        "processor_s": {name: processor[name] for name, _ in ways},
    }


def maps_by(name: str, captioner: Any, one: CaptionedImage) -> Callable[[], torch.Tensor]:
    """Maps of all words by the default layer and head of a method."""
    method = MAP_METHODS.get(name)
    layer_head = method.layer_heads(captioner)[0]
    return lambda: method.maps(one, layer_head, range(len(one.words)))


def show(result: dict[str, Any]) -> None:
    """A table for people, in Markdown."""
    print(f"{about(result['machine'], result['seconds'])}\n")
    print(
        f"{result['model']}: {result['blocks']} blocks, {result['patches']} patches, a caption of"
        f" {result['words']} words ({result['tokens']} tokens), {result['threads']} threads\n"
    )
    print("| | s by the clock (lowest to highest) | s of the processor |\n|---|---|---|")
    for name, values in result["clock_s"].items():
        print(f"| {name} | {spread(values)} | {spread(result['processor_s'][name])} |")


if __name__ == "__main__":
    sys.exit(main())
