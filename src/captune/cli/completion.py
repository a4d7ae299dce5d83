"""`captune completion SHELL`: a script by which a shell completes commands and options (shtab)."""

from __future__ import annotations

import argparse
import sys

from captune.cli.console import print_json
from captune.errors import MissingExtra
from captune.escaping import bare
from captune.options.codec import names_a_path

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help="bash, zsh or tcsh")


def run(arguments: argparse.Namespace) -> int:
    """Print the script. Raises MissingExtra without shtab."""
    try:
        import shtab
    except ImportError:
        raise MissingExtra("making the script", "completion") from None
    from captune.cli import build_parser

    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if names_a_path(action):
                action.complete = shtab.FILE
    script = shtab.complete(parser, arguments.shell)
    if arguments.json:
        print_json("completion", shell=arguments.shell, script=script)
        return 0
    # a shell reads it as it is, tabs and all, and nothing in it is of others
    bare(sys.stdout).write(f"{script}\n")
    return 0
