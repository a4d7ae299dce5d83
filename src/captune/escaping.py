"""What is printed is seen and does nothing else, whoever wrote it.

Labels, prompts, captions and file names come from others. Raw, they would colour a terminal, set
its clipboard or turn a sentence around; here each such character is shown as its escape. Whatever
is printed goes through `plain_streams`, so that nothing can forget it; what is drawn by rich goes
through `console`. HTML is escaped where pages are rendered (`pages.blocks`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from captune_metrics.display import printable

if TYPE_CHECKING:
    from rich.console import Console


def printable_lines(text: str) -> str:
    """Several lines as `printable`: line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


class PlainStream:
    """A text stream that shows what is written to it, by `printable_lines`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write lines; returns the characters that were given."""
        self._stream.write(printable_lines(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Within: standard output and standard error are plain, whoever prints."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_plain, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _plain(stream: Any) -> Any:
    return stream if isinstance(stream, PlainStream) else PlainStream(stream)


def bare(stream: Any) -> Any:
    """The stream below, for those who draw: what of others they draw, they make printable."""
    while True:
        if isinstance(stream, PlainStream):
            stream = stream._stream
        elif hasattr(stream, "rich_proxied_file"):  # rich's own, while it shows a bar
            stream = stream.rich_proxied_file
        else:
            return stream


def console(*, error: bool = False) -> Console:
    """Standard output for results, standard error for everything else.

    Text is text: `[red]` and `:dog:` stay as they are, and every string is made printable before
    it is measured. Whatever comes otherwise is so at the latest when it is drawn.
    """
    from rich import console as rich_console
    from rich.segment import Segment

    class Console(rich_console.Console):
        """One that leaves it to `main` that nobody reads any more; rich's own exits with 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

        def render_str(self, text: str, **how: Any) -> Any:
            return super().render_str(printable(text), **how)

        def render(self, *what: Any, **how: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*what, **how):
                # a control is rich's own: where the cursor of a bar goes
                yield Segment(text if control else printable_lines(text), style, control)

    stream = bare(sys.stderr if error else sys.stdout)
    piped = not stream.isatty()
    # a file has no width of its own, and 80 columns would fold the prompts of a table
    width = 120 if piped and "COLUMNS" not in os.environ else None
    return Console(
        file=stream, highlight=False, markup=False, emoji=False, width=width, soft_wrap=piped
    )


@contextmanager
def bar(*columns: Any) -> Iterator[Any]:
    """rich's progress on standard error; what is printed meanwhile stands above it, plain."""
    from rich.progress import Progress

    # rich puts streams of its own in the place of ours, which would read colours out of text
    with Progress(*columns, console=console(error=True)) as progress, plain_streams():
        yield progress
