"""`captune report`: run folders become one page that can be handed to somebody."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captune.cli.terminal import job_arguments, print_json, print_result
from captune.errors import UserError
from captune.files import printable
from captune.options import ReportOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted

if TYPE_CHECKING:
    from captune.pages.checking import Checked

HELP = "one page of any runs, to be handed to somebody: answer, pictures, how to make it again"
EXAMPLES = """  captune report runs/zero-shot --out report.html
  captune report runs/zero-shot runs/prompts runs/tuned runs/score --out report.html
  captune report runs/tuned --out report.html --figures figures/
  captune report runs/prompts runs/tune runs/score-lora --published dlcv-hw3 --out report.html
  captune report from-ann/run --images images/ --out report.html
  captune report --check report.html
  captune report runs/a runs/b --out ab.html --title "Adapter against LoRA" --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ReportOptions)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and the figures, or check a page."""
    options = read_options(ReportOptions, arguments)
    if options.check is not None:
        if options.out is not None or options.figures is not None:
            raise UserError("--check: reads a page and writes none; leave --out and --figures away")
        return _check(options, arguments)
    from captune.jobs.report import run as report

    return print_result(report(options, **job_arguments(arguments)), arguments)


def _check(options: ReportOptions, arguments: argparse.Namespace) -> int:
    from captune.pages.checking import check_page

    assert options.check is not None
    found = check_page(options.check, options.runs)
    if arguments.json:
        print_json({"command": "report", **found.summary()})
        return 0 if found.holds else 2
    _print_check(found)
    if not found.holds:
        shown = printable(str(options.check))
        raise UserError(f"{shown}: does not hold; {counted(len(found.differing), 'difference')}")
    return 0


def _print_check(found: Checked) -> None:
    out = console()
    for sentence in found.differing[:20]:
        out.print(sentence, soft_wrap=True)
    if len(found.differing) > 20:
        out.print(f"... and {len(found.differing) - 20:,} more (all of them in --json)")
    for sentence in found.notes:
        out.print(sentence, soft_wrap=True)
    if found.holds:
        figures = counted(found.figures, "figure")
        out.print(f"{figures} of {counted(found.runs, 'run')} derived again: the page holds")
