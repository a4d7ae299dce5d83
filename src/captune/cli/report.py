"""`captune report`: run folders become one page that can be handed to somebody."""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import ReportOptions
from captune.options.codec import add_options, read_options

HELP = "one page of any runs, to be handed to somebody: answer, pictures, how to make it again"
EXAMPLES = """  captune report runs/zero-shot --out report.html
  captune report runs/zero-shot runs/prompts runs/tuned runs/score --out report.html
  captune report runs/tuned --out report.html --figures figures/
  captune report runs/prompts runs/tune runs/score-lora --published dlcv-hw3 --out report.html
  captune report from-ann/run --images images/ --out report.html
  captune report runs/a runs/b --out ab.html --title "Adapter against LoRA" --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ReportOptions)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and the figures, and print the answers."""
    from captune.jobs.report import run as report

    result = report(read_options(ReportOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
