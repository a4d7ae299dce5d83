"""`captune tune`: teach a frozen language model to describe images."""

from __future__ import annotations

import argparse

from captune.cli.terminal import command_line, job_arguments, print_result
from captune.options import TuneOptions
from captune.options.codec import add_options, read_options, typed_options

HELP = "teach a frozen language model to describe your images"
EXAMPLES = """  captune tune images/ --captions train.json --val val.json --out runs/tuned
  captune tune images/ --captions train.json --val val.json --method adapter,prefix,lora \\
    --captions-per-image 1 --epochs 4 --limit 2000 --out runs/three
  captune tune images/ --captions train.json --val val.json --set lora.rank=32 --out runs/rank-32
  captune tune images/ --captions train.json --val val.json --bridge bidirectional \\
    --tags objects.txt --augment mirror --out runs/tags
  captune tune train/ --captions train.json --val-images val/ --val val.json \\
    --encoder timm:vit_large_patch14_clip_336.openai_ft_in12k_in1k --decoder hf:gpt2 --out runs/big
  captune tune --config runs/three/config.yaml --seed 1 --out runs/three-again
  accelerate launch -m captune tune images/ --captions train.json --val val.json --out runs/gpus

A killed tune goes on when the same command is run again."""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, TuneOptions)


def run(arguments: argparse.Namespace) -> int:
    """Train and print the table; of several processes the first one does."""
    from captune.captioning.training.setup import this_process
    from captune.captioning.training.state import with_config
    from captune.jobs.tune import run as tune

    typed = typed_options(TuneOptions, arguments, command_line(arguments))
    options = with_config(read_options(TuneOptions, arguments), typed)
    is_first = this_process(options).is_main_process
    result = tune(options, **job_arguments(arguments, quiet=arguments.json or not is_first))
    return print_result(result, arguments) if is_first else 0
