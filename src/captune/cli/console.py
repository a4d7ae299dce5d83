"""What a person sees: progress and notes on standard error, results on standard output."""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from captune.printing import bar, bare, console
from captune.progress import Advance
from captune_metrics.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from captune.images import Skipped
    from captune.jobs import Result
    from captune.tables import Table


def open_streams() -> None:
    """Where standard output or standard error is closed (`captune ... >&-`), nothing is said."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def discard_stream(stream: IO[str]) -> None:
    """Nobody reads the stream any more: what was and will be written to it goes nowhere."""
    with suppress(OSError):  # what is no file has nothing to be flushed
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def say(*lines: str) -> None:
    """A line on standard error, or several; nobody has to read them."""
    try:
        for line in lines:
            print(printable(line), file=sys.stderr)
    except OSError:
        discard_stream(sys.stderr)


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on standard output: ASCII only, so any file name survives any terminal."""
    sys.stdout.write(_json_line(content))


def print_line(content: dict[str, Any]) -> None:
    """One of many JSON objects on standard output, there at once."""
    below = bare(sys.stdout)
    # a bar takes what is printed meanwhile to standard error: right above it, wrong for a pipe
    stream = sys.stdout if below.isatty() else below
    stream.write(_json_line(content))
    stream.flush()


def _json_line(content: dict[str, Any]) -> str:
    # the one control that JSON leaves as it is
    return json.dumps(content, default=_default).replace("\x7f", r"\u007f") + "\n"


def _default(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


@contextmanager
def progress(what: str, total: int, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A bar on standard error with rate and time left; yields a function that advances it.

    The function takes how many more are done, and what stands beside the bar if something does.
    total: 0 where nobody knows it.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda done, said="": None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[said]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with bar(*columns) as shown:
        task = shown.add_task(printable(what), total=total or None, rate="", said="")

        def advance(done: int, said: str = "") -> None:
            speed = shown.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            shown.update(task, advance=done, rate=rate, said=printable(said))

        yield advance


def note(*lines: str, quiet: bool = False) -> None:
    """A line on standard error, or several."""
    if not quiet:
        say(*lines)


def report_skipped(skipped: Sequence[Skipped], *, quiet: bool = False, show: int = 10) -> None:
    """Name the first skipped files and count the rest."""
    if quiet or not skipped:
        return
    for item in skipped[:show]:
        note(f"skipped {item.path}: {item.reason}")
    if len(skipped) > show:
        note(f"... and {len(skipped) - show} more (all of them in --json)")


def command_line(arguments: argparse.Namespace) -> list[str]:
    """The words that were typed, for the run folder and the page."""
    words: list[str] = getattr(arguments, "typed", sys.argv[1:])
    return ["captune", *words]


@dataclass(frozen=True)
class TerminalProgress:
    """Bars and sentences on standard error."""

    quiet: bool = False

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        """A bar with rate and time left."""
        return progress(what, total, quiet=self.quiet)

    def message(self, sentence: str) -> None:
        """A line."""
        note(sentence, quiet=self.quiet)


def job_arguments(arguments: argparse.Namespace, *, quiet: bool | None = None) -> dict[str, Any]:
    """What every job takes besides its options: progress, and command, the words that were typed.

    quiet: say nothing; None where `--json` is asked for.
    """
    quiet = arguments.json if quiet is None else quiet
    return {"command": command_line(arguments), "progress": TerminalProgress(quiet)}


def print_result(result: Result, arguments: argparse.Namespace) -> int:
    """What a job came to: as JSON, as tables alone, or for a person. Returns the exit status."""
    report_skipped(result.skipped, quiet=arguments.json)
    if arguments.json:
        print_json({"command": arguments.command, **result.summary()})
        return 0
    if getattr(arguments, "jsonl", False):
        written = (f"{what}: {path}" for what, path in result.written.items())
        note(*result.sentences(), *written)
        return 0
    form = getattr(arguments, "table", None)
    print_tables(result.tables(), form)
    if form is None:
        out = console()
        for sentence in result.sentences():
            out.print(sentence, soft_wrap=True)
        print_written(out, result.written)
    return 0


def print_tables(tables: Sequence[Table], form: str | None) -> None:
    """Tables on standard output. form: "md", "tex", or None for a terminal."""
    if form is not None:
        texts = (one.markdown() if form == "md" else one.latex() for one in tables)
        sys.stdout.write("\n".join(texts))
        return
    out = console()
    for table in tables:
        out.print(table.for_terminal())


def print_written(out: Console, written: Mapping[str, Path]) -> None:
    """What was written where, a line each."""
    for what, path in written.items():
        out.print(f"{what}: {path}", soft_wrap=True)


def shell(words: Sequence[str]) -> str:
    """Words as one line that a shell reads back."""
    return shlex.join(words)


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
    with redirect_stdout(held):
        status = main([*words, *flags])
    if status != 0:
        print(held.getvalue(), end="")
    return status, held.getvalue()
