"""`captune faithful`: are the maps faithful, and which of them is the most?"""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import FaithfulOptions
from captune.options.codec import add_options, read_options

HELP = "measure whether a captioner's word maps are faithful, and find the best one"
EXAMPLES = """  captune faithful runs/tuned --images images/ --captions train.json --out runs/maps
  captune faithful lite --images coco/ --captions train.json --boxes instances_train.json \\
    --val-captions val.json --val-boxes instances_val.json --out runs/maps
  captune faithful runs/tuned --images images/ --captions train.json --quick --out runs/look --json

The map that it finds becomes the default of captune explain --model RUN."""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, FaithfulOptions)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the run, draw, print the leaderboard."""
    from captune.jobs.faithful import run as faithful

    result = faithful(read_options(FaithfulOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
