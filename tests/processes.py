"""Processes of their own, to be killed: forked from one that has imported what takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT = multiprocessing.get_context(_METHOD)
_CONTEXT.set_forkserver_preload(
    [
        *("pytest", "captune.jobs.caption", "captune.captioning.training.trainer"),
        *("transformers.models.gpt2.modeling_gpt2", "transformers.models.llama.modeling_llama"),
        *("captune.cli", "captune.attribution.faithful.leaderboard", "captune.pages.page"),
        *("tests.captioning.little_job", "captune.scoring.score"),
    ]
)


def start(target: Callable[..., None], *arguments: Any, daemon: bool = True) -> BaseProcess:
    """`target(*arguments)` in a new process, in this one's environment, on one thread.

    target: a function of a module, which the process imports by its name. daemon: it ends with
    this process, and may start none of its own.
    """
    made: Any = _CONTEXT
    process: BaseProcess = made.Process(
        target=_run, args=(dict(os.environ), target, arguments), daemon=daemon
    )
    process.start()
    return process


def pipe() -> tuple[Connection, Connection]:
    """(where to hear, what to give to the process that tells)."""
    return _CONTEXT.Pipe(duplex=False)


def ended(process: BaseProcess, seconds: float = 300) -> int | None:
    """Its exit status, once it has one: negative where a signal ended it."""
    process.join(seconds)
    return process.exitcode


def _run(
    environment: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    # a shell that runs the tests in the background has it ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch

    torch.set_num_threads(1)
    target(*arguments)
