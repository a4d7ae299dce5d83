"""`captune prompts`: which prompt is best for these images, and how sure is that?"""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import PromptsOptions
from captune.options.codec import add_options, read_options

HELP = "compare prompt templates, also negated ones, over one image pass"
EXAMPLES = """  captune prompts images/ --labels id2label.json --truth from-name
  captune prompts images/ --labels names.txt --truth truth.csv --prompt "a photo of a {}" \\
      --prompt "not a photo of a {}" --out runs/prompts
  captune prompts images/ --labels names.txt --truth from-folder --prompt openai-7 --csv t.csv"""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, PromptsOptions)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print the tables."""
    from captune.jobs.prompts import run as prompts

    result = prompts(read_options(PromptsOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
