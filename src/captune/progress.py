"""How a job says what it is doing: a bar while it counts, a sentence where there is one to say."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

# advance(done, said=""): so many more are done, and what stands beside the bar. before=True: they
# were done by an earlier run, or other work came before them, and the rate is measured from here
Advance = Callable[..., None]
_WINDOW_S = 30.0  # the rate is that of the last seconds


class Progress(Protocol):
    """What every job takes; the command line and the app each have one."""

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:
        """Open a progress bar. total: 0 where nobody knows it."""
        ...

    def message(self, sentence: str) -> None:
        """Say a sentence."""
        ...


class Meter:
    """How far a bar is, how fast, and how long the rest takes.

    total: 0 where nobody knows it. done: how many are. said: what stands beside the bar.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self.said = what, total, 0, ""
        self._began = time.monotonic()
        self._start = (self._began, 0)
        self._marks: deque[tuple[float, int]] = deque()  # when so many were done, of late

    def advance(self, done: int, said: str = "", *, before: bool = False) -> None:
        """So many more are done; before: by an earlier run, or after something else was done."""
        self.done += done
        self.said = said
        now = time.monotonic()
        if before:
            self._start = (now, self.done)
            self._marks.clear()
            return
        self._marks.append((now, self.done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW_S:
            self._marks.popleft()

    @property
    def seconds(self) -> float:
        """Since the bar was opened."""
        return time.monotonic() - self._began

    @property
    def rate(self) -> float | None:
        """Done per second of late; None before the first."""
        if not self._marks:
            return None
        # the first batch pays for what is set up once, and is left out as soon as there is another
        first, before = self._marks[0] if len(self._marks) > 1 else self._start
        last, done = self._marks[-1]
        return (done - before) / (last - first) if last > first and done > before else None

    @property
    def left(self) -> float | None:
        """Seconds until all are done; None where nobody knows, as after the first batch."""
        rate = self.rate if len(self._marks) > 1 else None
        return max(0, self.total - self.done) / rate if rate and self.total else None

    def values(self) -> dict[str, Any]:
        """The object of a line of CAPTUNE_PROGRESS=json."""
        rate, left = self.rate, self.left
        found = {
            "what": self.what,
            "done": self.done,
            "total": self.total or None,
            "seconds": round(self.seconds, 1),
            "rate": None if rate is None else round(rate, 3),
            "left": None if left is None else round(left, 1),
        }
        return found | ({"said": self.said} if self.said else {})


class Silent:
    """A progress that shows nothing."""

    def bar(self, what: str, total: int = 0) -> AbstractContextManager[Advance]:  # noqa: ARG002
        """A bar that nobody sees."""
        return nullcontext(lambda done, said="", before=False: None)

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
