"""What came of jobs as HTML: templates of this room, where every text is text and never markup."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from captune.pages.pages import filled
from captune.printing import printable
from captune.webapp.jobs import Job
from captune.webapp.site import Site

_FIRST_S, _LONGEST_S = 0.03, 0.4
_PATIENCE_S = 0.5
Draw = Callable[[Job], str]


def drawn(template: str, content: Mapping[str, Any]) -> str:
    """A template of this room."""
    return filled(f"{template}.html.jinja", content, package="captune.webapp")


def drawn_job(site: Site, job: Job, template: str, content: Mapping[str, Any]) -> str:
    """A job's frame (bar, error, notes, command line) around its result."""
    before = site.jobs.waiting_before(job) if job.state == "waiting" else 0
    return drawn(
        template,
        {
            "job": job,
            "before": before,
            "command": shlex.join(job.command),
            "share": min(1.0, job.done / job.total) if job.total else None,
            **content,
        },
    )


def choices(names: Sequence[str]) -> list[tuple[str, str]]:
    """What a list offers: as it is shown, and what it stands for."""
    return [(printable(name), name) for name in names]


def refusal(sentence: str) -> str:
    """What cannot be done, in one sentence."""
    return drawn("refusal", {"sentence": sentence})


async def followed(job: Job, draw: Draw) -> AsyncIterator[str]:
    """What a job shows, again with every change, until it is over.

    One that is over soon shows only what came of it: what stood there before does not flicker.
    """
    version, wait_s, waited_s = -1, _FIRST_S, 0.0
    while True:
        is_over = job.is_over
        if job.version != version and (is_over or waited_s > _PATIENCE_S):
            version = job.version
            yield draw(job)
        if is_over:
            return
        await asyncio.sleep(wait_s)
        waited_s += wait_s
        wait_s = min(_LONGEST_S, 1.3 * wait_s)


def asset(name: str) -> str:
    """A style sheet or script of this room."""
    return (files("captune.webapp") / "templates" / name).read_text(encoding="utf-8")
