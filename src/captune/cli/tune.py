"""`captune tune`: teach a frozen language model to describe images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from captune.cli.terminal import (
    command_line,
    print_json,
    print_written,
    report_skipped,
    told,
)
from captune.options import TuneOptions
from captune.options.codec import add_options, read_options, typed_options
from captune.printing import console
from captune.text import counted, duration

if TYPE_CHECKING:
    from captune.captioning.training.recording import TuneResult

HELP = "teach a frozen language model to describe your images"
EXAMPLES = """  captune tune images/ --captions train.json --val val.json --out runs/tuned
  captune tune images/ --captions train.json --val val.json --method adapter,prefix,lora \\
    --captions-per-image 1 --epochs 4 --limit 2000 --out runs/three
  captune tune images/ --captions train.json --val val.json --set lora.rank=32 --out runs/rank-32
  captune tune images/ --captions train.json --val val.json --bridge bidirectional \\
    --known-words objects.txt --augment mirror --out runs/words
  captune tune train/ --captions train.json --val-images val/ --val val.json \\
    --encoder timm:vit_large_patch14_clip_336.openai_ft_in12k_in1k --decoder hf:gpt2 --out runs/big
  captune tune --config runs/three/config.yaml --seed 1 --out runs/three-again
  accelerate launch -m captune tune images/ --captions train.json --val val.json --out runs/gpus

A killed tune goes on when the same command is run again."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, TuneOptions)


def run(arguments: argparse.Namespace) -> int:
    """Train, print the table, draw the curves."""
    from captune.captioning.training.config import with_config
    from captune.captioning.training.preparation import this_process
    from captune.captioning.training.recording import tune_captioner
    from captune.pages.figures import draw_figures
    from captune.runs import read_run
    from captune.runs.place import run_place

    typed = typed_options(TuneOptions, arguments, command_line(arguments))
    options = with_config(read_options(TuneOptions, arguments), typed)
    is_first = this_process(options).is_main_process
    quiet = arguments.json or not is_first
    heard = told(arguments, quiet=quiet)
    if not is_first:
        tune_captioner(options, **heard)
        return 0
    with run_place(options, "tune", heard["say"]):
        result = tune_captioner(options, **heard)
        report_skipped(result.skipped, quiet=arguments.json)
        assert options.out is not None
        for paths in draw_figures(read_run(options.out), []):
            result.written["curves"] = paths[0]
    if arguments.json:
        print_json({"command": "tune", **result.summary()})
    else:
        _print_table(result)
    return 0


def _print_table(result: TuneResult) -> None:
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    for heading in ("method", "trained", "CIDEr-D", "CLIPScore", "BLEU-4", "best epoch", "time"):
        table.add_column(heading)
    for one in result.methods:
        row = one.row()
        table.add_row(
            one.method,
            f"{one.parameters / 1e6:.2f} M",
            *(_cell(row, id) for id in ("cider", "clipscore", "bleu_4")),
            str(one.best_epoch),
            duration(one.seconds),
        )
    out.print(table)
    out.print(
        f"{counted(result.images, 'validation image')} (95 % intervals in brackets), trained on"
        f" {counted(result.trained_on, 'image')}, best by {result.select}: {result.best}"
    )
    for one in result.methods:
        for finding in one.findings:
            mark = "wrong: " if finding["wrong"] else ""
            out.print(f"{one.method}: {mark}{finding['sentence']}")
    print_written(out, result.written)


def _cell(row: dict[str, Any], id: str) -> str:
    if row[id] is None:
        return "-"
    low, high = row[f"{id}_low"], row[f"{id}_high"]
    return f"{row[id]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else "")
