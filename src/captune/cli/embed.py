"""`captune embed`: image features as one array, for other tools."""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import EmbedOptions
from captune.options.codec import add_options, read_options

HELP = "write image features to an .npz or .parquet file"
EXAMPLES = """  captune embed images/ --features features.npz
  captune embed images/ --features features.parquet --model timm:resnet50.a1_in1k"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, EmbedOptions)


def run(arguments: argparse.Namespace) -> int:
    """Encode the images and write paths [n] and features [n, d]."""
    from captune.jobs.embed import run as embed

    result = embed(read_options(EmbedOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
