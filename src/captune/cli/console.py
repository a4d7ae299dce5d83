"""What a person sees: progress and notes on standard error, results on standard output."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from captune.errors import UserError
from captune.escaping import bar, bare, console
from captune.progress import SILENT, Advance, Meter
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.jobs import Result
    from captune.tables import Table

_FIRST_LINE_S = 5.0
_LINES_S = 30.0
_OBJECTS_S = 0.5
_NAMED = 10  # skipped files


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


def say(*lines: str, quiet: bool = False) -> None:
    """A line on standard error, or several; nobody has to read them. quiet: none."""
    if quiet:
        return
    try:
        for line in lines:
            print(printable(line), file=sys.stderr)
    except OSError:
        discard_stream(sys.stderr)


def print_json(command: str | None, **content: Any) -> None:
    """The one object of `--json`, which has these four keys of every command.

    ASCII only, so any file name survives any terminal.
    """
    common: dict[str, Any] = {"command": command, "run": None, "images": 0, "skipped": []}
    sys.stdout.write(_json_line(common | content))


def print_line(content: dict[str, Any]) -> None:
    """One of many JSON objects on standard output, there at once."""
    below = bare(sys.stdout)
    # a bar takes what is printed meanwhile to standard error: right above it, wrong for a pipe
    stream = sys.stdout if below.isatty() else below
    stream.write(_json_line(content))
    stream.flush()


def _json_line(content: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        return value.tolist() if hasattr(value, "tolist") else str(value)

    # the one control that JSON leaves as it is
    return json.dumps(content, default=plain).replace("\x7f", r"\u007f") + "\n"


@contextmanager
def _drawn(meter: Meter) -> Iterator[Advance]:
    """A bar on a terminal, with the rate and, from the second batch on, the time left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[said]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with bar(*columns) as shown:
        fields = {"rate": "", "said": "", "left": ""}
        task = shown.add_task(printable(meter.what), total=meter.total or None, **fields)

        def advance(done: int, said: str = "", *, before: bool = False) -> None:
            meter.advance(done, said, before=before)
            rate, left = _speed(meter)
            shown.update(task, advance=done, rate=rate, left=left, said=printable(said))

        yield advance


def _speed(meter: Meter) -> tuple[str, str]:
    """(rate, time left) for a person; "" for what nobody knows yet."""
    rate, left = meter.rate, meter.left
    shown = "" if rate is None else f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
    return shown, "" if left is None else f"left {timedelta(seconds=round(left))}"


def _log_line(meter: Meter) -> str:
    of = f" of {meter.total:,}" if meter.total else ""
    parts = (f"{meter.what}: {meter.done:,}{of}", *_speed(meter), meter.said)
    return ", ".join(filter(None, parts))


def command_line(arguments: argparse.Namespace) -> list[str]:
    """The words that were typed, for the run folder and the page."""
    words: list[str] = getattr(arguments, "typed", sys.argv[1:])
    return ["captune", *words]


class TerminalProgress:
    """Bars and sentences on standard error; in a log or a pipe lines in the place of bars.

    quiet: neither. CAPTUNE_PROGRESS: "json" writes a JSON object a line in the place of bars,
    also beside `--json`; "none" writes nothing in their place.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        # a command that is soon done writes no line at all
        self._due = time.monotonic() + _FIRST_LINE_S

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        """A bar with rate and time left."""
        asked = os.environ.get("CAPTUNE_PROGRESS", "")
        if asked == "json":
            return self._objects(Meter(what, total))
        if self.quiet or asked == "none":
            return SILENT.bar(what, total)
        meter = Meter(what, total)
        return _drawn(meter) if sys.stderr.isatty() else self._lines(meter)

    @contextmanager
    def _lines(self, meter: Meter) -> Iterator[Advance]:
        """A line at most every 30 s, over all bars of a command."""

        def advance(done: int, said: str = "", *, before: bool = False) -> None:
            meter.advance(done, said, before=before)
            if time.monotonic() >= self._due and (said or not before):
                self._due = time.monotonic() + _LINES_S
                say(_log_line(meter))

        yield advance

    @contextmanager
    def _objects(self, meter: Meter) -> Iterator[Advance]:
        """A JSON object when the bar opens, when it closes, and twice a second between."""
        told, at = -1, 0.0

        def tell() -> None:
            nonlocal told, at
            told, at = meter.done, time.monotonic()
            say(_json_line(meter.values()).rstrip("\n"))

        def advance(done: int, said: str = "", *, before: bool = False) -> None:
            meter.advance(done, said, before=before)
            if time.monotonic() >= at + _OBJECTS_S:
                tell()

        tell()
        yield advance
        if told != meter.done:
            tell()

    def message(self, sentence: str) -> None:
        """A line."""
        say(sentence, quiet=self.quiet)


def job_arguments(arguments: argparse.Namespace, *, quiet: bool | None = None) -> dict[str, Any]:
    """What every job takes besides its options: progress, and command, the words that were typed.

    quiet: say nothing; None where `--json` is asked for.
    """
    quiet = arguments.json if quiet is None else quiet
    return {"command": command_line(arguments), "progress": TerminalProgress(quiet)}


def print_result(result: Result, arguments: argparse.Namespace) -> int:
    """What a job came to: as JSON, as tables alone, or for a person. Returns the exit status.

    Raises UserError for what failed of it, which JSON tells.
    """
    if not arguments.json:
        for item in result.skipped[:_NAMED]:
            say(f"skipped {item.path}: {item.reason}")
        if len(result.skipped) > _NAMED:
            say(f"... and {len(result.skipped) - _NAMED} more (all of them in --json)")
    failure = result.failure()
    if arguments.json:
        print_json(arguments.command, **result.summary())
        return 2 if failure else 0
    _print_for_person(result, arguments)
    if failure:
        raise UserError(failure)
    return 0


def _print_for_person(result: Result, arguments: argparse.Namespace) -> None:
    if getattr(arguments, "jsonl", False):
        written = (f"{what}: {path}" for what, path in result.written.items())
        say(*result.sentences(), *written)
        return
    form = getattr(arguments, "table", None)
    out = console()
    if form is None and (headline := result.headline()):
        for line in headline.split("\n"):
            out.print(line, soft_wrap=True)
    tables = result.tables()
    print_tables(tables, form)
    if form is not None and not tables:
        say("there is no table to print:", *result.sentences())
    if form is None:
        for sentence in result.sentences():
            out.print(sentence, soft_wrap=True)
        for what, path in result.written.items():
            out.print(f"{what}: {path}", soft_wrap=True)


def print_tables(tables: Sequence[Table], form: str | None) -> None:
    """Tables on standard output. form: "md", "tex", or None for a terminal."""
    if form is not None:
        texts = (one.markdown() if form == "md" else one.latex() for one in tables)
        sys.stdout.write("\n".join(texts))
        return
    out = console()
    for table in tables:
        out.print(table.for_terminal())
