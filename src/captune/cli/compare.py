"""`captune compare`: which of two sets of captions is better, by how much, and is it luck?"""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import CompareOptions
from captune.options.codec import add_options, read_options

HELP = "compare two sets of captions of the same images: which is better, and is it luck?"
EXAMPLES = """  captune compare lora.json prefix.json --references captions_val.json
  captune compare runs/lora runs/prefix --references val.json --images val/ \\
      --metrics cider,clipscore --out runs/lora-prefix
  captune compare a.csv b.csv --references refs.csv --csv both.csv --json"""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, CompareOptions)


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print table, images and verdicts."""
    from captune.jobs import compare

    result = compare.run(read_options(CompareOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
