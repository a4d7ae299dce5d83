"""Pages of `captune report` that the app made: shown in a frame, opened alone, saved.

A page belongs to whoever knows its id, which nobody can guess.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.webapp.jobs import Job
from captune.webapp.rules import REPORTS

if TYPE_CHECKING:
    from starlette.requests import Request

KEPT = 32


@dataclass(frozen=True)
class Page:
    """answers: its first sentences. size_bytes: of the file."""

    id: str
    answers: list[str]
    size_bytes: int

    @property
    def address(self) -> str:
        """Relative to the app's own."""
        return f"{REPORTS}/{self.id}"


class Pages:
    """The last pages that were made, in a private folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, job: Job, runs: Sequence[Path], title: str = "") -> Page:
        """The page of some runs, as `captune report`. Raises UserError for what is no run."""
        from captune.pages.page import write_report
        from captune.pages.settings import Settings

        id = secrets.token_urlsafe(18)
        path = self._folder / f"{id}.html"
        report = write_report(
            list(runs), path, Settings(title=title), command=job.command, bar=job.bar
        )
        with self._lock:
            self._paths[id] = path
            old = [self._paths.popitem(last=False)[1] for _ in range(len(self._paths) - KEPT)]
        for one in old:
            one.unlink(missing_ok=True)
        answers = [
            str(said.striptags()) if hasattr(said, "striptags") else str(said)
            for said, _ in report.answers
        ]
        return Page(id, answers, path.stat().st_size)

    def routes(self) -> list[Any]:
        """For the server."""
        from starlette.responses import FileResponse, PlainTextResponse
        from starlette.routing import Route

        async def answer(request: Request) -> Any:
            with self._lock:
                path = self._paths.get(request.path_params["id"])
            if path is None:
                return PlainTextResponse("this page is no longer there; make it again", 404)
            return FileResponse(path, media_type="text/html", headers={"cache-control": "no-store"})

        return [Route(f"/{REPORTS}/{{id}}", answer)]
