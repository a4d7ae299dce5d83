"""`captune rank`: which pairs of image and caption are the best and the worst?"""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import RankOptions
from captune.options.codec import add_options, read_options

HELP = "the best and the worst pairs of image and caption, as a gallery"
EXAMPLES = """  captune rank runs/score --by clipscore
  captune rank runs/score --by cider --top 20 --out gallery
  captune rank runs/score --by bleu_4 --images images/val --json"""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, RankOptions)


def run(arguments: argparse.Namespace) -> int:
    """Rank, and print both ends."""
    from captune.jobs import rank

    result = rank.run(read_options(RankOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
