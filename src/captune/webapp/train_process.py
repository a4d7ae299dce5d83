"""`captune tune` in a process of its own: the same job as the command, which the app listens to.

Apart from the server it takes no time from the page, draws its random numbers alone as the command
does, and gives all of its memory back.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from captune.errors import Stopped, UserError
from captune.escaping import plain_streams
from captune.options.tuning import TuneOptions
from captune.progress import Advance
from captune.threads import end_with_parent
from captune.webapp.queue import QueuedJob

_LISTEN_S = 0.2


def tune_apart(job: QueuedJob, options: TuneOptions) -> None:
    """Train, and show in `job` what is heard of it.

    Raises UserError for what cannot be done, and Stopped, with a checkpoint, after a Stop.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    stop = context.Event()
    process = context.Process(
        target=tell, args=(theirs, stop, options, job.command), name="tune", daemon=True
    )
    process.start()
    theirs.close()
    try:
        _listen(job, ours, stop.set)
    finally:
        process.join(0 if job.is_overdue else 5)
        if process.exitcode is None:
            process.kill()
            process.join(1)


def _listen(job: QueuedJob, connection: Any, stop: Callable[[], None]) -> None:
    shown: dict[str, Callable[..., None]] = {
        "bar": job.begin,
        "advance": job.advance,
        "message": job.message,
    }
    while True:
        if job.is_stopping:
            stop()
        if job.is_overdue:
            raise Stopped("ended with the app; the same command resumes from the last checkpoint")
        try:
            if not connection.poll(_LISTEN_S):
                continue
            what, *told = connection.recv()
        except (EOFError, OSError):
            raise UserError(
                "the training ended without a message, perhaps for lack of memory; start it again"
                " to resume from its last checkpoint"
            ) from None
        if what == "done":
            return
        if what == "failed":
            raise told[0]
        shown[what](*told)


def tell(connection: Any, stop: Any, options: TuneOptions, command: Sequence[str]) -> None:
    """Of the process: train, and send what happens as tuples."""
    killed: list[int] = []
    with suppress(ValueError):  # it is so in the main thread only
        # what ends the app reaches its whole group: the app then asks for a checkpoint
        for name in ("SIGINT", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: killed.append(number))
    end_with_parent()  # an app that was killed leaves no training behind

    def is_stopping() -> bool:
        return bool(killed) or bool(stop.is_set())

    try:
        from captune.jobs.tune import run

        with plain_streams():
            told = _Told(connection, is_stopping, options.methods)
            run(options, told, command=command, stop=is_stopping)
        connection.send(("done",))
    except Stopped as stopped:
        connection.send(("failed", Stopped(str(stopped))))
    except UserError as error:
        connection.send(("failed", UserError(str(error))))
    except Exception as error:
        logging.getLogger("captune").exception("captune app: the training failed")
        connection.send(("failed", RuntimeError(f"{type(error).__name__}: {error}")))
    finally:
        connection.close()


@dataclass(frozen=True)
class _Told:
    """The `Progress` of the training, which is sent to the app."""

    connection: Any
    is_stopping: Callable[[], bool]
    methods: Sequence[str]

    @contextmanager
    def bar(self, what: str, total: int = 0) -> Iterator[Advance]:
        self.connection.send(("bar", what, total))

        def advance(done: int, said: str = "", before: bool = False) -> None:
            self.connection.send(("advance", done, said, before))
            # a training ends by itself, after it has written a checkpoint
            if self.is_stopping() and what not in self.methods:
                raise Stopped("stopped; start it again to resume")

        yield advance

    def message(self, sentence: str) -> None:
        self.connection.send(("message", sentence))
