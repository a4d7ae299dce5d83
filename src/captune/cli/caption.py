"""`captune caption`: describe images in words."""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import CaptionOptions
from captune.options.codec import add_options, read_options

HELP = "describe images in words, with the captioner that comes along or one of yours"
EXAMPLES = """  captune caption image.jpg
  captune caption images/ --predictions pred.json
  captune caption images/ --model runs/tuned --out runs/captions
  captune caption images/ --model runs/tuned/lora --beam 1 --sidecar
  find . -name '*.jpg' | captune caption - --out runs/all --json

With --out, a killed captioning goes on when the same command is run again."""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, CaptionOptions)


def run(arguments: argparse.Namespace) -> int:
    """Caption, print, and write what was asked for."""
    from captune.jobs.caption import run as caption

    result = caption(read_options(CaptionOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
