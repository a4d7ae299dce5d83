"""Work that waits its turn, runs beside the page and is found again after a reload.

A job belongs to whoever knows its id, which nobody can guess. Short work and long work wait in
lanes of their own, so that a tuning of hours does not hold up a classification of seconds.

`captune tune` runs in a process of its own, the same job as the command, which the app listens to
(`tune_apart`): it takes no time from the page, draws its random numbers alone as the command does,
and gives all of its memory back.
"""

from __future__ import annotations

import logging
import multiprocessing
import secrets
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import takewhile
from queue import SimpleQueue
from typing import Any

from captune.errors import Stopped, UserError
from captune.escaping import plain_streams
from captune.options.tuning import TuneOptions
from captune.progress import Advance, Meter
from captune.text import duration
from captune.threads import end_with_parent
from captune.webapp.uploads import ImageFolder

logger = logging.getLogger("captune")

LANES = ("short", "long")
MOST_WAITING = 256  # in a lane: who comes later is told to try again
MOST_OF_BROWSER = 16  # of one browser, waiting or running, in all lanes
_LISTEN_S = 0.2  # to a training before it is asked whether it is to stop
JOBS_KEPT = 64  # jobs that are over and can still be looked at
# who asks, while an event of the page begins a job; "" outside of events
BROWSER: ContextVar[str] = ContextVar("browser", default="")
_LONG_S = 20  # what takes longer is said to
_STRETCH_S = 0.1  # the shortest time between two versions for mere progress


@dataclass(eq=False)
class QueuedJob:
    """One piece of work, and all that a page shows of it: the `Progress` of jobs in the app.

    command: the words that do the same on a command line. state: waiting, running, done, failed or
    stopped. what, done, total, said: of the bar that runs now; total is 0 where nobody knows it.
    result: what came of it, also in parts while it runs. version: goes up with every change.
    asked: what the page's fields held, to fill them again. browser: whose it is. images: those that
    it is about; cards of images that are gone are not drawn. files: its answers, as data URIs by
    the names that they are saved by.
    """

    command: list[str]
    lane: str = "short"
    browser: str = ""
    asked: list[Any] = field(default_factory=list)
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    state: str = "waiting"
    what: str = ""
    done: int = 0
    total: int = 0
    said: str = ""
    notes: list[str] = field(default_factory=list)
    result: Any = None
    images: ImageFolder | None = None
    files: dict[str, str] = field(default_factory=dict)
    error: str = ""
    version: int = 0
    seconds: float = 0.0
    _end: float = float("inf")
    _stop: threading.Event = field(default_factory=threading.Event)
    _told: float = 0.0
    _meter: Meter = field(default_factory=lambda: Meter("", 0))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "stopped")

    @property
    def is_stopping(self) -> bool:
        """Whether Stop was pressed."""
        return self._stop.is_set()

    @property
    def is_overdue(self) -> bool:
        """Whether the app ends, and waits no longer."""
        return time.monotonic() > self._end

    def stop(self, within_s: float = float("inf")) -> None:
        """Ask it to end at the next place where it can. within_s: how long it is waited for."""
        self._end = time.monotonic() + within_s
        self._stop.set()
        self.changed()

    def changed(self) -> None:
        """Count a new version, which pages show."""
        self.version += 1

    def check(self) -> None:
        """Raise Stopped where Stop was pressed."""
        if self.is_stopping:
            raise Stopped("stopped; what was computed until then is kept in the cache")

    @contextmanager
    def bar(self, what: str, total: int = 0) -> Iterator[Advance]:
        """Show a progress bar; its advance(done, said="") raises Stopped where Stop was pressed."""
        self.begin(what, total)

        def advance(done: int, said: str = "", before: bool = False) -> None:
            self.check()
            self.advance(done, said, before)

        yield advance

    def begin(self, what: str, total: int) -> None:
        """Show a bar at nothing."""
        self.what, self.total, self.done, self.said = what, total, 0, ""
        self._meter = Meter(what, total)
        self.changed()

    def advance(self, done: int, said: str = "", before: bool = False) -> None:
        """Move the bar on by so many; before: as `progress.Advance`."""
        self.done += done
        self._meter.advance(done, before=before)
        left = self._meter.left
        self.said = said or ("" if left is None or left < _LONG_S else f"{duration(left)} left")
        now = time.monotonic()
        if now - self._told > _STRETCH_S:
            self._told = now
            self.changed()

    def message(self, sentence: str) -> None:
        """Show a sentence beside the result."""
        self.notes.append(sentence)
        self.changed()


class JobQueue:
    """One thread a lane; jobs run in the order in which they came."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, QueuedJob] = OrderedDict()
        self._lock = threading.Lock()
        self._lanes: dict[str, SimpleQueue[tuple[QueuedJob, Callable[..., Any]] | None]] = {
            lane: SimpleQueue() for lane in LANES
        }
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=lane, daemon=True)
            for lane in LANES
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        work: Callable[[QueuedJob], Any],
        command: Sequence[str] = (),
        *,
        lane: str = "short",
        images: ImageFolder | None = None,
    ) -> QueuedJob:
        """Put work in a lane; what it returns becomes the job's result.

        command, images: as the job's. Raises UserError where too much waits already, of all or of
        this browser.
        """
        if self._lanes[lane].qsize() >= MOST_WAITING:
            raise UserError(
                f"{MOST_WAITING} jobs are waiting already; try again when some of them are done"
            )
        job = QueuedJob(list(command), lane, BROWSER.get(), images=images)
        with self._lock:
            own = sum(one.browser == job.browser and not one.is_over for one in self._all())
            if job.browser and own >= MOST_OF_BROWSER:
                raise UserError(
                    f"{own} jobs of this browser are waiting or running already; stop some, or try"
                    " again when they are done"
                )
            self._jobs[job.id] = job
            over = [one.id for one in self._all() if one.is_over]
            for id in over[: max(0, len(over) - JOBS_KEPT)]:
                del self._jobs[id]
        self._lanes[lane].put((job, work))
        return job

    def find(self, id: str | None) -> QueuedJob | None:
        """The job of that id, or None where there is none any more."""
        with self._lock:
            return self._jobs.get(id) if isinstance(id, str) else None

    def waiting_before(self, job: QueuedJob) -> int:
        """How many unfinished jobs of its lane came before it."""
        with self._lock:
            before = takewhile(lambda one: one.id != job.id, self._all())
        return sum(one.lane == job.lane and not one.is_over for one in before)

    def stop(self, within_s: float) -> None:
        """Ask all of them to end; what runs in a process of its own is ended after so long."""
        with self._lock:
            jobs = self._all()
        for job in jobs:
            if not job.is_over:
                job.stop(within_s)
        for lane in self._lanes.values():
            lane.put(None)

    def close(self, wait_s: float = 10.0) -> bool:
        """Stop all of them and wait so long; whether all came to their end."""
        self.stop(0.8 * wait_s)
        end = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _all(self) -> list[QueuedJob]:
        return list(self._jobs.values())

    def _work(self, lane: str) -> None:
        while (item := self._lanes[lane].get()) is not None:
            self._do(*item)

    def _do(self, job: QueuedJob, work: Callable[[QueuedJob], Any]) -> None:
        began = time.monotonic()
        state = "failed"
        try:
            job.check()
            job.state = "running"
            job.changed()
            job.result = work(job)
            state = "done"
        except Stopped as stopped:
            state, job.error = "stopped", str(stopped)
        except UserError as error:
            job.error = str(error)
        except Exception as error:
            logger.exception("captune app: a job failed")
            job.error = (
                f"a bug in captune ({type(error).__name__}: {error}); please report it with what"
                " the terminal says and the output of captune env"
            )
        finally:
            job.seconds = time.monotonic() - began
            # at the end: who sees that it is over has all that came of it
            job.state = state
            job.changed()


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
