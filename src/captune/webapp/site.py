"""What all tabs share: options, images, jobs, models, runs, and the pages that were made."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import home_path, printable
from captune.options import AppOptions, ReportOptions
from captune.runs import Run, read_run
from captune.webapp.queue import JobQueue, QueuedJob
from captune.webapp.rules import REPORTS
from captune.webapp.uploads import Arrivals, Uploads

if TYPE_CHECKING:
    from starlette.requests import Request

    from captune.models.encoders import ImageTextModel

LITE = "lite"
MOST_WRITTEN = 200  # runs that people may write with a shared app
MOST_WRITTEN_BYTES = 4 * 2**30  # of all of them, with the images beside them
KEPT_PAGES = 32
_MODELS = 2  # kept in memory
_MOST_RUNS = 500  # that a list offers
_NAME = re.compile(r"\w[\w. -]{0,79}")


class AppContext:
    """One running app. folder: private, and gone when the app ends."""

    def __init__(self, options: AppOptions, folder: Path) -> None:
        for name in ("images", "pages"):
            (folder / name).mkdir(mode=0o700)
        self.options, self.folder = options, folder
        self.queue = JobQueue()
        most_bytes = options.most_mb * 1_000_000
        self.uploads = Uploads(
            folder / "images", most_images=options.most_images, most_bytes=most_bytes
        )
        self.arrivals = Arrivals(
            folder / "gradio",
            most_bytes=most_bytes,
            most_files=options.most_images,
            room=self.uploads.room,
        )
        self.pages = ReportPages(folder / "pages")
        self._models: OrderedDict[str, ImageTextModel] = OrderedDict()
        self._written: list[Path] = []
        self._lock = threading.Lock()

    @property
    def is_private(self) -> bool:
        """Whether it is for this person alone, so that it may open what is typed."""
        return self.options.is_private

    def model(self, spec: str) -> ImageTextModel:
        """A model that compares images with words; the last two stay in memory.

        Raises UserError for what is no model, and for another one than lite on a shared app.
        """
        from captune.models.load import load_image_text_model

        spec = spec.strip() or LITE
        self.check_typed(spec, {LITE}, "model")
        with self._lock:
            if spec not in self._models:
                self._models[spec] = load_image_text_model(spec)
                if len(self._models) > _MODELS:
                    self._models.popitem(last=False)
            self._models.move_to_end(spec)
            return self._models[spec]

    def check_typed(self, typed: str, offered: set[str], what: str) -> None:
        """Raise UserError where somebody names what is not offered to a shared app."""
        if not self.is_private and typed not in offered:
            raise UserError(
                f"{printable(typed)}: others use this app too (--shared), so it opens no {what}"
                " that is typed; choose one of the list"
            )

    def typed_path(self, typed: str, what: str) -> Path:
        """A file or folder that was typed. Raises UserError on a shared app."""
        self.check_typed(typed.strip(), set(), what)
        return home_path(typed.strip())

    def runs(self, *kinds: str) -> list[str]:
        """Names, below the folder of runs, of the finished runs of these kinds; newest first."""
        found = [(run.about["started"], name) for name, run in self._runs() if run.kind in kinds]
        return [name for _, name in sorted(found, reverse=True)]

    def run_folder(self, name: str) -> Path:
        """The folder of an offered run, or of one that was typed.

        Raises UserError for an empty name, and for a typed folder on a shared app.
        """
        name = name.strip()
        if not name:
            raise UserError("no run is chosen; take one of the list or type its folder")
        if name in {offered for offered, _ in self._runs()}:
            return self.options.runs / name
        return self.typed_path(name, "run folder")

    def new_run(self, name: str) -> Path:
        """Where a run of that name is written. Raises UserError for what is no plain name."""
        name = (name or "").strip()
        if not _NAME.fullmatch(name):
            raise UserError(
                f'the run is called "{printable(name)}": give it a plain name of letters, digits,'
                " spaces, dots and dashes"
            )
        return self.options.runs / name

    def begin_run(self, out: Path, more_bytes: int = 0) -> None:
        """Count a run that is written now, with so many bytes of images beside it.

        To be called within its job. Raises UserError where people have written as many runs, or
        bytes, as a shared app may hold.
        """
        if self.is_private:
            return
        written = [one for one in self._written if one.exists() and one != out]
        held = sum(_size_bytes(place) for one in written for place in (one, images_beside(one)))
        if len(written) >= MOST_WRITTEN or held + more_bytes > MOST_WRITTEN_BYTES:
            raise UserError(
                f"no more runs fit: a shared app holds {MOST_WRITTEN:,}, and"
                f" {MOST_WRITTEN_BYTES / 1e6:,.0f} MB of them, from its start to its end; ask"
                " whoever started it to start it again"
            )
        self._written = [*written, out]

    def _runs(self) -> Iterator[tuple[str, Run]]:
        root = self.options.runs
        if not os.path.isdir(root):  # noqa: PTH112  # pathlib's raises for a long name
            return
        places = sorted(path.parent for path in (*root.glob("*/run.json"), *root.glob("run.json")))
        for place in places[:_MOST_RUNS]:
            try:
                yield place.relative_to(root).as_posix(), read_run(place)
            except UserError:
                continue  # a run that is being written, or none of ours


def images_beside(out: Path) -> Path:
    """Where the images of a kept run lie."""
    return out.with_name(f"{out.name}-images")


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class ReportPage:
    """answers: its first sentences. size_bytes: of the file."""

    id: str
    answers: list[str]
    size_bytes: int

    @property
    def address(self) -> str:
        """Relative to the app's own."""
        return f"{REPORTS}/{self.id}"


class ReportPages:
    """The last pages of `captune report` that were made, in a private folder.

    A page belongs to whoever knows its id, which nobody can guess.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, job: QueuedJob, runs: Sequence[Path], title: str = "") -> ReportPage:
        """The page of some runs, as `captune report`. Raises UserError for what is no run."""
        from captune.jobs import report

        id = secrets.token_urlsafe(18)
        path = self._folder / f"{id}.html"
        options = ReportOptions(runs=list(map(str, runs)), out=path, title=title or None)
        result = report.run(options, job, command=job.command)
        with self._lock:
            self._paths[id] = path
            old = [self._paths.popitem(last=False)[1] for _ in range(len(self._paths) - KEPT_PAGES)]
        for one in old:
            one.unlink(missing_ok=True)
        return ReportPage(id, result.answers, result.bytes)

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
