"""How a job says what it is doing: a bar while it counts, a sentence where there is one to say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

# advance(done, said=""): so many more are done, and what stands beside the bar
Advance = Callable[..., None]


class Progress(Protocol):
    """What every job takes; the command line and the app each have one."""

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        """Open a progress bar. total: 0 where nobody knows it."""
        ...

    def message(self, sentence: str) -> None:
        """Say a sentence."""
        ...


class Silent:
    """A progress that shows nothing."""

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:  # noqa: ARG002
        """A bar that nobody sees."""
        return nullcontext(lambda done, said="": None)

    def message(self, sentence: str) -> None:
        """Nobody hears it."""


SILENT: Progress = Silent()


class Noting:
    """A progress whose messages are kept as notes, too."""

    def __init__(self, progress: Progress, notes: list[str]) -> None:
        self.notes = notes
        self._progress = progress

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        """The bar of the progress beneath."""
        return self._progress.bar(what, total)

    def message(self, sentence: str) -> None:
        """Keep a sentence and say it."""
        self.notes.append(sentence)
        self._progress.message(sentence)
