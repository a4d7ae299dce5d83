"""`captune classify`: recognise labels in images that nothing was trained on."""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import ClassifyOptions
from captune.options.codec import add_options, read_options

HELP = "recognise any labels in images, without training"
EXAMPLES = """  captune classify images/ --labels cat,dog
  captune classify images/ --labels id2label.json --csv pred.csv
  captune classify images/ --labels id2label.json --truth from-name --out runs/zero-shot --top5 3
  captune classify images/ --labels names.txt --prompt openai-7 --ensemble mean
  captune classify images/ --labels names.txt --model open_clip:ViT-B-32/openai
  find . -name '*.jpg' | captune classify - --labels cat,dog --json"""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ClassifyOptions)


def run(arguments: argparse.Namespace) -> int:
    """Classify, print, and write what was asked for."""
    from captune.jobs.classify import run as classify

    result = classify(read_options(ClassifyOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
