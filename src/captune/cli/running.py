"""Commands that run other commands, as if they were typed."""

from __future__ import annotations

import argparse
import contextlib
import io

from captune.cli.terminal import note, shell


def run_words(words: list[str], arguments: argparse.Namespace) -> tuple[int, str]:
    """Run a command as if it were typed: (exit status, the JSON that it was asked for or "").

    What it prints for `--json` is held back, as a command prints one object, unless it failed.
    """
    from captune.cli import main

    note(f"$ {shell(['captune', *words])}", quiet=arguments.json)
    flags = [f"--{flag}" for flag in ("json", "offline", "debug") if getattr(arguments, flag)]
    if not arguments.json:
        return main([*words, *flags]), ""
    held = io.StringIO()
    with contextlib.redirect_stdout(held):
        status = main([*words, *flags])
    if status != 0:
        print(held.getvalue(), end="")
    return status, held.getvalue()
