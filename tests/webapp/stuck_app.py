"""An app in a process of its own, with a job that cannot be broken off."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from captune.options.pages import AppOptions
from captune.options.tuning import TuneOptions
from captune.webapp import queue
from captune.webapp.queue import QueuedJob
from captune.webapp.server import Running, serve


def stuck_training(connection: Any, stop: Any, options: Any, command: Any) -> None:
    """In the place of a training: a checkpoint when it is asked for, and no end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    place = Path(os.environ["STUCK"])
    (place / "pid").write_text(str(os.getpid()))
    connection.send(("message", "training"))
    stop.wait()
    (place / "checkpoint").write_text("x")
    time.sleep(600)


def main(place: Path, kind: str, connection: Any) -> None:
    """kind: idle, sleeps, holds or tunes. Sends what the tests ask it by, then that it works."""
    os.environ |= {"TMPDIR": str(place), "STUCK": str(place)}
    tempfile.tempdir = None
    sys.stderr = (place / "stderr").open("w", buffering=1)
    # a program under nohup or in a script may inherit that they are ignored
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    queue.tell = stuck_training

    def work(job: QueuedJob) -> None:
        connection.send("at work")
        if kind == "sleeps":
            time.sleep(600)
        if kind == "holds":
            # one step of C: no other thread of Python runs before it is over
            sum(range(10**14))
        if kind == "tunes":
            options = TuneOptions(
                images=Path("p"), captions=Path("c"), val_captions=Path("v"), out=Path("o")
            )
            queue.tune_apart(job, options)

    def started(app: Running) -> None:
        connection.send({"folder": str(app.folder), "address": app.address})
        (app.folder / "images" / "x.jpg").write_bytes(b"x")
        if kind != "idle":
            app.context.queue.submit(work, [])

    serve(AppOptions(runs=place / "runs"), started)
