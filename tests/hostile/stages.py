"""The process of one case: models of toy size where they are asked for, then a command.

`serve` is started by `runner` in a process of its own, which may die or be killed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

BEGUN, FINISHED = "begun", "finished.json"
OUT, ERR = "standard output", "standard error"
# what changes files for good: between two of these a kill leaves what the one before it left
_STEPS = ("replace", "rename", "fsync", "unlink", "mkdir", "rmdir", "symlink", "link")


def _nothing() -> None:
    """The models that are embedded, or none."""


def _colours() -> None:
    """Every command that recognises loads the scripted colour model."""
    from tests.colour_model import colour_model

    import captune.jobs.embed
    import captune.jobs.prompts
    import captune.models.load
    import captune.zeroshot.classifier

    def load(spec: Any = None, **where: object) -> Any:
        return colour_model()

    captune.zeroshot.classifier.load_image_text_model = load  # type: ignore[attr-defined]
    captune.jobs.prompts.load_image_text_model = load  # type: ignore[attr-defined]
    captune.models.load.load_image_text_model = load
    captune.jobs.embed.load_model = load  # type: ignore[attr-defined]


def _captioner() -> None:
    """Captioners see through an encoder of nine places, and tunes are of toy size."""
    from tests.captioning.caption_job import image_model
    from tests.captioning.little_job import fake_frozen

    from captune.captioning import captioner
    from captune.captioning.training import setup

    _colours()
    captioner.load_model = lambda spec, **where: image_model()  # type: ignore[attr-defined]
    setup.load_frozen = fake_frozen()  # type: ignore[attr-defined]


def _known_parts() -> None:
    """A captioner is not asked whether it was trained with these very parts."""
    from captune.captioning import captioner, checkpoint

    checkpoint.check_decoder = lambda *_: None
    captioner.check_model = lambda *_: None  # type: ignore[attr-defined]


STAGES: dict[str, Callable[[], None]] = {
    "plain": _nothing,
    "colours": _colours,
    "captioner": _captioner,
    "known parts": _known_parts,
}


def serve(
    stage: str,
    words: Sequence[str],
    folder: str,
    notes: str,
    environment: Mapping[str, str] | None = None,
    dies_at: int = 0,
) -> None:
    """`captune WORDS` in `folder`; what it says and how it ended lie in the folder `notes`.

    environment: variables of this process alone. dies_at: kill it before its nth change of a file;
    0 lets it live.
    """
    os.environ.update(environment or {})
    os.chdir(folder)
    place = Path(notes)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, name in ((1, OUT), (2, ERR)):
        with (place / name).open("wb") as file:
            os.dup2(file.fileno(), number)
    STAGES[stage]()
    from captune.cli import main

    idle = memory_mb(os.getpid(), "VmRSS")
    (place / BEGUN).touch()
    steps = _count_steps(dies_at)
    status = main(list(words))
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    peak = memory_mb(os.getpid(), "VmHWM")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    note = {"status": status, "idle": idle, "peak": peak, "steps": steps[0], "seconds": cpu}
    (place / FINISHED).write_text(json.dumps(note))
    sys.exit(status)


def _count_steps(dies_at: int) -> list[int]:
    """[how many changes of files there were], which goes up as they happen."""
    steps = [0]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            steps[0] += 1
            if steps[0] == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return step

    for name in _STEPS:
        setattr(os, name, counted(getattr(os, name)))
    return steps


def cpu_seconds(pid: int) -> float:
    """What a process and those of its children that have ended took of a processor."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def memory_mb(pid: int, what: str) -> float:
    """A line of /proc/PID/status, in MB; 0 where the process has gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024
    return 0.0
