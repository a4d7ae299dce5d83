"""Tuning a captioner: captune, plain loops and encoding again, in one process and one run.

    python benchmarks/tune.py            about 10 minutes on 2 cores
    python benchmarks/tune.py --quick    about two minutes, for a first look

Two measurements, each of a few batches of an epoch. The ways take turns in an order that rotates,
and every ratio is taken within one round. All train the same weights with AdamW.

Computed is in float32, and again in bfloat16 where the processor multiplies it in hardware: there
`captune tune` takes it by itself. With lite the plain loop then gets torch's autocast too; the
assignment's layout is encoded, and its code's step taken, in float32 only.

lite: SmolLM2-135M, the default bridge and LoRA, the grids of lite's image encoder. captune's loop
stands beside a plain one of transformers and peft over the same cached grids, and beside captune's
own where the image of every caption is read and encoded again.

The assignment's layout: timm's ViT-L/14 at 336 pixels and GPT-2, both with random weights. Measured
are the seconds to read and encode an image, those of a step as the assignment's code took it
(full-width cross-attention, one caption an image), and those of captune's. What an epoch, and ten,
would take with five captions an image is arithmetic from there, and printed as such.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor

from caption_contenders import END, HEADS, WIDTH, gpt2
from captune.captioning.bridge import GridShape
from captune.captioning.model import CaptionModel, build_model
from captune.models.decoders import Decoder, load_decoder
from captune.models.devices import resolve_precision
from captune.models.load import load_model
from limits import about, in_turn, matmul_gflops, measured, ratios, spread, timed
from synthetic import machine, write_images
from tune_contenders import PER_IMAGE, Learnt, Training, made_up_rows, rows_of

VIT = "vit_large_patch14_clip_336"
VIT_GRID = GridShape(tokens=577, channels=1024, rows=24, columns=24, leading=1)
IMAGES = 32  # different ones; images beyond them share theirs
SIDES = (375, 500)

CAPTUNE = "captune"
PLAIN = "transformers + peft, the same cached grids"
ENCODE_LITE = "lite: read and encode an image"
AGAIN = "captune, every caption's image encoded again"
FULL = "captune, the same full-width cross-attention"
DEFAULT = "captune, its default bridge"
FULL_SETTINGS = {"width": WIDTH, "heads": HEADS, "every": 1, "bias": True}
ASSIGNMENT = "a step as the assignment's, without the encoder, float32"
ENCODE = "ViT-L/14 at 336 px: read and encode an image, float32"
EPOCHS = 10
LARGEST_DIFFERENCE = {"float32": 1e-3, "bfloat16": 3e-2}  # of two losses: rounding


@dataclass(frozen=True)
class Plan:
    """steps: batches a round of each way; images: that captions are drawn for; encodes: a round."""

    rounds: int = 5
    steps: int = 4
    counted: int = 3
    images: int = 384
    batch: int = 32
    layout_rounds: int = 6
    layout_batch: int = 15
    encodes: int = 3


QUICK = Plan(rounds=2, steps=1, counted=1, layout_rounds=2, layout_batch=10, encodes=1)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer batches and rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    return measured(lambda: measure(plan), show, as_json=arguments.json)


def measure(plan: Plan) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        images = write_images(Path(folder), IMAGES, SIDES)
        usual = resolve_precision("auto", torch.device("cpu"))
        precisions = list(dict.fromkeys(["float32", usual]))
        return {
            "lite": [measure_lite(images, plan, precision) for precision in precisions],
            "layout": measure_layout(images, plan, precisions),
            "machine": machine(),
        }


def measure_lite(images: Sequence[Path], plan: Plan, precision: str) -> dict[str, Any]:
    """captune, the plain loop and encoding again, with SmolLM2."""
    encoder = load_model("lite", device="cpu").image

    def encoded(rows: Sequence[int]) -> Tensor:
        paths = [images[row % len(images)] for row in rows]
        pixels = [encoder.whole(Image.open(path).convert("RGB")) for path in paths]
        return encoder.encode_grid(torch.stack(pixels))

    held = encoded(range(len(images)))

    def cached(rows: Sequence[int]) -> Tensor:
        chosen = held[[row % len(images) for row in rows]]
        return encoder.finish_grid(chosen).float()

    def again(rows: Sequence[int]) -> Tensor:
        return encoder.finish_grid(encoded(rows)).float()

    shape = encoder.require_patches().shape
    captioner, twin = twins(lambda: load_decoder("lite", device="cpu", dtype=precision), shape, {})
    rows, source = rows_of(captioner.decoder, plan.images)
    training = Training(captioner, twin, rows, cached, plan.batch, precision)
    flops = training.flops_a_token(plan.counted)
    training.plain(0, 1)
    # after these steps: before them neither the bridge nor LoRA adds anything
    difference = training.largest_loss_difference()
    if difference > LARGEST_DIFFERENCE[precision]:
        raise SystemExit(f"captune's loss and transformers' differ by {difference}")

    def encode() -> Learnt:
        again(range(plan.batch))
        return Learnt(plan.batch, 0, 0.0)

    found: dict[str, list[dict[str, float]]] = {}
    peaks = []
    for number in range(plan.rounds):
        steps, epoch = plan.steps, number + 1
        peaks.append(matmul_gflops(getattr(torch, precision)))
        ways: list[tuple[str, Callable[[], Learnt]]] = [
            (CAPTUNE, partial(training.captune, epoch, steps)),
            (PLAIN, partial(training.plain, epoch, steps)),
            (AGAIN, partial(training.encoding_again, epoch, steps, again)),
            (ENCODE_LITE, encode),
        ]
        take_turns(ways, number, found)
        say(number, plan.rounds, found)
    captions = [row for own in rows for row in own]
    encodes = found.pop(ENCODE_LITE)
    return {
        "precision": precision,
        "source": source,
        "tokens_a_caption": statistics.mean(map(len, captions)),
        "batch": plan.batch,
        "steps_a_round": plan.steps,
        "trained": sum(p.numel() for p in training.trained),
        "loss_difference": difference,
        "flops_a_token": flops,
        "matmul_gflops": peaks,
        "encode_s": [one["seconds"] / one["captions"] for one in encodes],
        "ways": found,
    }


def measure_layout(images: Sequence[Path], plan: Plan, precisions: Sequence[str]) -> dict[str, Any]:
    """The assignment's layout: encoding and its step in float32, captune's in each precision."""
    model = timm.create_model(VIT, pretrained=False, num_classes=0).eval().requires_grad_(False)
    prepare = timm.data.create_transform(
        **timm.data.resolve_data_config({}, model=model), is_training=False
    )

    @torch.inference_mode()
    def encode(number: int) -> Learnt:
        paths = [images[(number + place) % len(images)] for place in range(plan.encodes)]
        pixels = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
        if model.forward_features(pixels).shape[1:] != (VIT_GRID.tokens, VIT_GRID.channels):
            raise SystemExit(f"{VIT} yielded another grid than {VIT_GRID}")
        return Learnt(plan.encodes, 0, 0.0)

    grids = torch.randn(len(images), VIT_GRID.tokens, VIT_GRID.channels).half()

    def cached(rows: Sequence[int]) -> Tensor:
        return grids[[row % len(images) for row in rows]].float()

    rows = made_up_rows(END, END, plan.images)
    trainings = {}
    for precision in precisions:
        for name, settings in ((FULL, FULL_SETTINGS), (DEFAULT, {})):
            both = twins(partial(gpt2, getattr(torch, precision)), VIT_GRID, settings)
            training = Training(*both, rows, cached, plan.layout_batch, precision)
            training.captune(0, 1)
            trainings[f"{name}, {precision}"] = training
    assignment = trainings[f"{FULL}, float32"]
    assignment.plain(0, 1)
    found: dict[str, list[dict[str, float]]] = {}
    peaks = []
    for number in range(plan.layout_rounds):
        epoch = number + 1
        peaks.append(matmul_gflops())
        ways = [
            (ENCODE, lambda n=number: encode(n)),
            (ASSIGNMENT, lambda e=epoch: assignment.plain(e, 1)),
            *(
                (name, lambda t=training, e=epoch: t.captune(e, 1))
                for name, training in trainings.items()
            ),
        ]
        take_turns(ways, number, found)
        say(number, plan.layout_rounds, found)
    return {
        "batch": plan.layout_batch,
        "trained": {
            name: sum(p.numel() for p in training.trained) for name, training in trainings.items()
        },
        "matmul_gflops": peaks,
        "ways": found,
    }


def twins(
    decoder: Callable[[], Decoder], grid: GridShape, settings: dict[str, Any]
) -> tuple[CaptionModel, CaptionModel]:
    """Two captioners with the same weights: captune's loop trains one, a plain one the other."""
    both = []
    for _ in range(2):
        torch.manual_seed(0)
        both.append(
            build_model(
                decoder(), grid, bridge="cross-attention", method="lora", bridge_settings=settings
            )
        )
    return both[0], both[1]


def take_turns(
    ways: Sequence[tuple[str, Callable[[], Learnt]]],
    number: int,
    found: dict[str, list[dict[str, float]]],
) -> None:
    """One round of all the ways."""
    for name, way in in_turn(ways, number):
        learnt, seconds = timed(way)
        one = {"seconds": seconds, "captions": learnt.captions, "tokens": learnt.tokens}
        found.setdefault(name, []).append(one)


def say(number: int, rounds: int, found: dict[str, list[dict[str, float]]]) -> None:
    """Progress."""
    done = ", ".join(
        f"{name} {values[-1]['seconds'] / values[-1]['captions']:.3f}"
        for name, values in found.items()
    )
    print(f"round {number + 1}/{rounds}, s each: {done}", flush=True)


def show(result: dict[str, Any]) -> None:
    """Tables for people, in Markdown."""
    print(about(result["machine"], result["seconds"]))
    for lite in result["lite"]:
        show_lite(lite)
    show_layout(result["layout"])


def show_lite(lite: dict[str, Any]) -> None:
    """Per target token, as the batches of different ways are of different captions."""
    length = lite["tokens_a_caption"]
    # random batches and batches of one length differ in their tokens, not in what an epoch has
    seconds = {
        name: [one["seconds"] / one["tokens"] * length for one in values]
        for name, values in lite["ways"].items()
    }
    rates = {name: [1 / value for value in values] for name, values in seconds.items()}
    print(
        f"\nlite, {lite['precision']}: SmolLM2-135M, LoRA and the default bridge,"
        f" {lite['trained'] / 1e6:.2f} M trained;"
        f" {lite['source']}, {length:.1f} tokens each; {lite['steps_a_round']} steps of about"
        f" {lite['batch']} captions a round\n"
    )
    print("| | captions/s (lowest to highest) | captune's time is shorter by | bar |")
    print("|---|---|---|---|")
    bars = {PLAIN: "1.6", AGAIN: "1.4"}
    for name, values in rates.items():
        times = "" if name == CAPTUNE else spread(ratios(seconds[name], seconds[CAPTUNE]))
        print(f"| {name} | {spread(values)} | {times} | {bars.get(name, '')} |")
    encode, own = lite["encode_s"], seconds[CAPTUNE]
    limits = [1 + one / step for one, step in zip(encode, own, strict=True)]
    print(
        f"\nThe limit of caching with lite: 1 + encode time / step time = {spread(limits)};"
        f" {spread(encode, 3)} s to read and encode an image, {spread(own, 3)} s a caption's step."
    )
    reached = [lite["flops_a_token"] * length / value / 1e9 for value in seconds[CAPTUNE]]
    shares = [100 * own / peak for own, peak in zip(reached, lite["matmul_gflops"], strict=True)]
    print(
        f"captune's products: {lite['flops_a_token'] * length / 1e9:.2f} GFLOP a caption (counted"
        f" by torch, forward and backward), {spread(reached, 0)} GFLOP/s;"
        f" {spread(shares, 0)} % of the matmul peak of"
        f" {spread(lite['matmul_gflops'], 0)} GFLOP/s in {lite['precision']} (bar 50). The two"
        f" losses over the same captions differ by {lite['loss_difference']:.1e}."
    )


def show_layout(layout: dict[str, Any]) -> None:
    """What was measured, and what follows from it."""
    seconds = {
        name: [one["seconds"] / one["captions"] for one in values]
        for name, values in layout["ways"].items()
    }
    print(
        f"\nThe assignment's layout: {VIT}, GPT-2, LoRA, random weights; steps of about"
        f" {layout['batch']} captions\n"
    )
    print("| measured | s an image or caption (lowest to highest) | trained |\n|---|---|---|")
    for name, values in seconds.items():
        count = layout["trained"].get(name)
        trained = "" if count is None else f"{count / 1e6:.1f} M"
        print(f"| {name} | {spread(values, 3)} | {trained} |")
    print(
        f"\nBy arithmetic from these, {PER_IMAGE} captions an image; encoding again costs an encode"
        " and a step of the assignment's a caption, both in float32:\n"
    )
    print(
        "| captune's time is shorter by | an epoch, cached (bar 20) | the first epoch, with its"
        f" encoding | {EPOCHS} epochs, with the encoding | limit: 1 + encode / step |"
    )
    print("|---|---|---|---|---|")
    slow = list(zip(seconds[ENCODE], seconds[ASSIGNMENT], strict=True))
    for name in layout["trained"]:
        both = list(zip(slow, seconds[name], strict=True))
        cells = [
            [
                PER_IMAGE * epochs * (encode + theirs) / (first * encode + PER_IMAGE * epochs * own)
                for (encode, theirs), own in both
            ]
            for epochs, first in ((1, 0), (1, 1), (EPOCHS, 1))
        ]
        cells.append([1 + encode / own for (encode, _), own in both])
        print(f"| {name} | {' | '.join(spread(values, 1) for values in cells)} |")
    print(f"\nMatmul peak {spread(layout['matmul_gflops'], 0)} GFLOP/s.")


if __name__ == "__main__":
    sys.exit(main())
