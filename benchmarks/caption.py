"""Captioning by beam search: captune and its peers with one GPT-2, in one process and one run.

    python benchmarks/caption.py            about 10 minutes on 2 cores
    python benchmarks/caption.py --quick    about a minute and a half, for a first look

A GPT-2 of 124 M random parameters, 257 image tokens, encoder features given to all, beam 5, and a
fixed number of tokens (the end is suppressed, so that all write as many). The ways take turns in an
order that rotates, and every ratio is taken within one round. captune, transformers'
VisionEncoderDecoderModel and the decoder without a cache have the same weights and must write the
same tokens; captune's figures include the log-probability of each word, which the others lack.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from caption_contenders import GRID, Contenders
from captune.captioning.captioner import Captioner
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from limits import about, in_turn, matmul_gflops, measured, ratios, read_gbytes, spread, timed
from synthetic import machine

FULL = "captune, the same full-width cross-attention"
DEFAULT = "captune, its default bridge"
LORA = "captune, its default bridge and LoRA, not merged"
THEIRS = "VisionEncoderDecoderModel.generate"
THEIRS_FEW = "VisionEncoderDecoderModel.generate, fewer images at once"
UNCACHED = "no cache, as the assignment's decoder"
BARS = [
    (THEIRS_FEW, FULL, 1.5),
    (THEIRS_FEW, DEFAULT, 2.0),
    (THEIRS, FULL, 1.5),
    (THEIRS, DEFAULT, 2.0),
    (UNCACHED, FULL, 15.0),
]


@dataclass(frozen=True)
class Plan:
    """images: a round, as many at once as `captune caption` takes.

    few: of these, where transformers is quickest. uncached: those that the slowest way writes.
    """

    rounds: int = 6
    images: int = 32
    few: int = 8
    uncached: int = 2
    tokens: int = 20
    beams: int = 5
    shipped: int = 32


QUICK = Plan(rounds=2, images=8, few=2, uncached=1, shipped=8)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    return measured(lambda: measure(plan), show, as_json=arguments.json)


def measure(plan: Plan) -> dict[str, Any]:
    """All figures."""
    contenders = Contenders(plan.tokens, plan.beams)
    agreement = check_tokens(contenders, plan)
    print(f"the same tokens, {agreement} different ones among them", flush=True)
    seconds: dict[str, list[float]] = {}
    peaks, bandwidths = [], []
    for number in range(plan.rounds):
        grids = torch.randn(plan.images, GRID.tokens, GRID.channels)
        few, fewest = grids[: plan.few], grids[: plan.uncached]
        works: list[tuple[str, Callable[[], object], int]] = [
            (FULL, partial(contenders.captune, contenders.full, grids), plan.images),
            (THEIRS, partial(contenders.generate, grids), plan.images),
            (THEIRS_FEW, partial(contenders.generate, few), plan.few),
            (DEFAULT, partial(contenders.captune, contenders.default, grids), plan.images),
            (LORA, partial(contenders.captune, contenders.lora, grids), plan.images),
            (UNCACHED, partial(contenders.uncached, fewest), plan.uncached),
        ]
        for name, work, count in in_turn(works, number):
            seconds.setdefault(name, []).append(timed(work)[1] / count)
        peaks.append(matmul_gflops())
        bandwidths.append(read_gbytes())
        done = ", ".join(f"{name} {values[-1]:.2f}" for name, values in seconds.items())
        print(f"round {number + 1}/{plan.rounds}, s a caption: {done}", flush=True)
    default = contenders.default
    return {
        "machine": machine(),
        "images_a_round": plan.images,
        "few_images_a_round": plan.few,
        "uncached_images_a_round": plan.uncached,
        "tokens": plan.tokens,
        "beams": plan.beams,
        "different_tokens": agreement,
        "s_a_caption": seconds,
        "matmul_gflops": peaks,
        "read_gbytes": bandwidths,
        "least": least(default, plan.images, plan.tokens, plan.beams, peaks, bandwidths),
        "shipped": shipped(plan),
    }


def check_tokens(contenders: Contenders, plan: Plan) -> int:
    """How many different tokens there are in what all the ways with the same weights write.

    It also warms them up. Raises SystemExit where they do not write the same.
    """
    grids = torch.randn(plan.images, GRID.tokens, GRID.channels)
    ours, theirs = contenders.captune(contenders.full, grids), contenders.generate(grids)
    plain = contenders.uncached(grids[:1])
    contenders.captune(contenders.default, grids[:1])
    contenders.captune(contenders.lora, grids[:1])
    if ours != theirs:
        raise SystemExit(f"captune wrote {ours}, VisionEncoderDecoderModel {theirs}")
    if plain != theirs[:1]:
        raise SystemExit(f"without a cache {plain}, VisionEncoderDecoderModel {theirs[:1]}")
    if any(len(row) != plan.tokens for row in ours):
        raise SystemExit(f"not all captions have {plan.tokens} tokens: {ours}")
    return len({id for row in ours for id in row})


def least(
    captioner: CaptionModel,
    images: int,
    tokens: int,
    beams: int,
    peaks: list[float],
    bandwidths: list[float],
) -> dict[str, float]:
    """Seconds a caption that no program in float32 could beat on this machine, and of what.

    Every step reads the decoder's matrices (or multiplies by them, whichever takes longer) for
    the rows of all beams. Attention, caches and the search itself are not counted.
    """
    weights = sum(p.numel() for p in captioner.decoder.module.parameters() if p.ndim == 2)
    module = captioner.decoder.module
    tables = [m.weight.numel() for m in module.modules() if isinstance(m, torch.nn.Embedding)]
    head = module.get_output_embeddings().weight
    tied = head is module.get_input_embeddings().weight
    weights -= sum(tables) - (head.numel() if tied else 0)
    weights += sum(p.numel() for p in captioner.bridge.parameters() if p.ndim == 2)
    reading = 4 * weights / statistics.median(bandwidths) / 1e9
    computing = 2 * weights * images * beams / statistics.median(peaks) / 1e9
    step = max(reading, computing)
    return {
        "weights": weights,
        "reading_s_a_step": reading,
        "computing_s_a_step": computing,
        "s_a_caption": step * tokens / images,
    }


def shipped(plan: Plan) -> dict[str, Any] | None:
    """The captioner that comes with captune, where it is installed: features given, own lengths."""
    try:
        captioner = Captioner.from_pretrained("lite", device="cpu").model
    except UserError as error:
        print(f"left out: {error}", flush=True)
        return None
    captioner.eval()
    grid = captioner.grid
    grids = torch.randn(plan.shipped, grid.tokens, grid.channels)
    captioner.generate(grids[:1], beams=plan.beams)
    written, seconds = timed(lambda: captioner.generate(grids, beams=plan.beams))
    steps = max(len(row) + 1 for row in written.ids)
    bounds = least(captioner, plan.shipped, steps, plan.beams, [matmul_gflops()], [read_gbytes()])
    return {
        "images": plan.shipped,
        "steps": steps,
        "s_a_caption": seconds / plan.shipped,
        "least": bounds,
    }


def show(result: dict[str, Any]) -> None:
    """Tables for people, in Markdown."""
    seconds = result["s_a_caption"]
    print(f"{about(result['machine'], result['seconds'])}\n")
    print(
        f"GPT-2 (124 M, random), 257 image tokens, features given, beam {result['beams']},"
        f" {result['tokens']} tokens, {result['images_a_round']} images at once,"
        f" as captune caption takes them (VisionEncoderDecoderModel also"
        f" {result['few_images_a_round']}; without a cache {result['uncached_images_a_round']} a"
        " round, one by one)\n"
    )
    print(
        f"| | s a caption (lowest to highest) | VisionEncoderDecoderModel's time over it,"
        f" {result['few_images_a_round']} images at once |\n|---|---|---|"
    )
    for name, values in seconds.items():
        print(f"| {name} | {spread(values, 3)} | {spread(ratios(seconds[THEIRS_FEW], values))} |")
    print("\n| | times faster (lowest to highest) | bar |\n|---|---|---|")
    for slow, fast, bar in BARS:
        print(
            f"| {fast}, against {slow} | {spread(ratios(seconds[slow], seconds[fast]))} | {bar} |"
        )
    bounds = result["least"]
    own = statistics.median(seconds[DEFAULT])
    print(
        f"\nThe limit: matmul peak {statistics.median(result['matmul_gflops']):.0f} GFLOP/s, memory"
        f" read at {statistics.median(result['read_gbytes']):.1f} GB/s. A step of all beams uses"
        f" {bounds['weights'] / 1e6:.0f} M weights: {1e3 * bounds['reading_s_a_step']:.0f} ms to"
        f" read, {1e3 * bounds['computing_s_a_step']:.0f} ms to compute; so"
        f" {bounds['s_a_caption']:.3f} s a caption, and the default bridge takes"
        f" {own / bounds['s_a_caption']:.1f} times that. The ways with the same weights wrote the"
        f" same tokens ({result['different_tokens']} different ones)."
    )
    found = result["shipped"]
    if found is not None:
        floor = found["least"]["s_a_caption"]
        print(
            f"\nThe shipped captioner, {found['images']} images at once, {found['steps']} steps:"
            f" {1 / found['s_a_caption']:.1f} captions/s, {found['s_a_caption'] / floor:.1f} times"
            f" its limit of {floor:.3f} s a caption."
        )


if __name__ == "__main__":
    sys.exit(main())
