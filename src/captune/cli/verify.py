"""`captune verify`: does a page, a run or a metrics.json hold?"""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.errors import UserError
from captune.files import printable
from captune.options import VerifyOptions
from captune.options.codec import add_options, read_options
from captune.text import counted

HELP = "check that a page, a run or a metrics.json holds: compute its figures again"
EXAMPLES = """  captune verify report.html
  captune verify runs/score
  captune verify runs/compare --references moved/val.json --images moved/val/
  captune verify old/metrics.json
  captune verify report.html moved/runs/zero-shot moved/runs/tuned --json"""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, VerifyOptions)


def run(arguments: argparse.Namespace) -> int:
    """Verify and print what differs; status 2 where something does."""
    from captune.jobs import verify

    options = read_options(VerifyOptions, arguments)
    found = verify.run(options, **job_arguments(arguments))
    print_result(found, arguments)
    if not found.holds and not arguments.json:
        differing = counted(len(found.differing), "difference")
        raise UserError(f"{printable(str(options.place))}: does not hold; {differing}")
    return 0 if found.holds else 2
