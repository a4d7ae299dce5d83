"""What a person sees: progress and notes on standard error, results on standard output."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from captune.images import Skipped


def console(*, error: bool = False) -> Console:
    """Standard output for results, standard error for everything else."""
    from rich.console import Console

    piped = not (sys.stderr if error else sys.stdout).isatty()
    # a file has no width of its own, and 80 columns would fold the prompts of a table
    width = 120 if piped and "COLUMNS" not in os.environ else None
    return Console(stderr=error, highlight=False, width=width, soft_wrap=piped)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output: ASCII only, so any file name survives any terminal."""
    json.dump(content, sys.stdout, default=_default)
    sys.stdout.write("\n")


def _default(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


@contextmanager
def progress(what: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on standard error with rate and time left; yields a function that advances it."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(error=True)) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, advance=done, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def note(sentence: str, *, quiet: bool = False) -> None:
    """A line on standard error."""
    if not quiet:
        print(sentence, file=sys.stderr)


def report_skipped(skipped: Sequence[Skipped], *, quiet: bool = False, show: int = 10) -> None:
    """Name the first skipped files and count the rest."""
    if quiet or not skipped:
        return
    from captune.images import printable

    for item in skipped[:show]:
        note(f"skipped {printable(item.path)}: {item.reason}")
    if len(skipped) > show:
        note(f"... and {len(skipped) - show} more (all of them in --json)")


def counted(number: int, noun: str) -> str:
    """`1 photo`, `2 photos`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def command_line(arguments: argparse.Namespace) -> list[str]:
    """The words that were typed, for the run folder and the page."""
    words: list[str] = getattr(arguments, "words", sys.argv[1:])
    return ["captune", *words]


def shell(words: Sequence[str]) -> str:
    """Words as one line that a shell reads back."""
    return shlex.join(words)
