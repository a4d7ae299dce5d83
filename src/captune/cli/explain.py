"""`captune explain`: where on the image the captioner saw each word."""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import ExplainOptions
from captune.options.codec import add_options, read_options

HELP = "where on the image a captioner saw each word, and how far to believe it"
EXAMPLES = """  captune explain image.jpg --out runs/maps
  captune explain images/ --model runs/tuned --out runs/maps --json
  captune explain image.jpg --caption "a dog with a ball" --words dog,ball --out runs/dog
  captune explain image.jpg --words dog --against cat --method occlusion --out runs/why
  captune explain image.jpg --method attention --layer last --head mean --faithfulness none

Figures are in RUN/plots, the maps in RUN/maps: numpy.load("RUN/maps/image.npz")["maps"] is an array
[words, rows, columns] over the whole image."""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ExplainOptions)


def run(arguments: argparse.Namespace) -> int:
    """Explain, draw, and print."""
    from captune.jobs.explain import run as explain

    result = explain(read_options(ExplainOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
