"""What all tabs share: options, images, jobs, models, runs, and the pages that were made."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from captune import storage
from captune.errors import UserError
from captune.files import home_path
from captune.jobs import PAGE
from captune.options.base import LITE
from captune.options.codec import words_of
from captune.options.pages import AppOptions, ReportOptions
from captune.runs import Run, read_run
from captune.webapp.guard import REPORTS
from captune.webapp.queue import JobQueue, QueuedJob
from captune.webapp.uploads import Arrivals, ImageFolder, Uploads
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.captioning.captioner import Captioner
    from captune.models.encoders import ImageTextModel
    from captune.options.captioning import CaptionerOptions

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
        self._load = lru_cache(maxsize=_MODELS)(_load_model)
        self._load_captioner = lru_cache(maxsize=1)(_load_captioner)
        self._written: list[Path] = []

    @property
    def is_private(self) -> bool:
        """Whether it is for this person alone, so that it may open what is typed."""
        return self.options.is_private

    def model(self, spec: str) -> ImageTextModel:
        """A model that compares images with words; the last two stay in memory.

        To be called within a job. Raises UserError for what is no model, and for another one than
        lite on a shared app.
        """
        self.check_typed(spec, {LITE}, "model")
        return self._load(spec)

    def captioner(self, options: CaptionerOptions) -> Captioner:
        """A captioner by its model and how it chooses captions; the last one stays in memory.

        To be called within a job. Raises UserError where there is none.
        """
        from captune.captioning.captioner import captioner_folder
        from captune.captioning.checkpoint import digest_of_checkpoint

        place = captioner_folder(options.model)
        # a tune may have written others there since
        return self._load_captioner(place, digest_of_checkpoint(place), options.rerank)

    def sources(self, images: ImageFolder) -> list[str]:
        """Images on a command line; who uses a shared app has them on another machine."""
        return images.sources if self.is_private else images.names

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

    def submit(
        self, command: str, options: Any, work: Callable[..., Any], *more: Any, **about: Any
    ) -> QueuedJob:
        """Put the job of a command in the queue. work: takes this, the job, the options and `more`.

        about: as `JobQueue.submit`. Raises UserError where too much waits already.
        """
        return self.queue.submit(
            lambda job: work(self, job, options, *more), words_of(command, options), **about
        )

    def begin(
        self, command: str, make: Callable[..., Any], work: Callable[..., Any]
    ) -> Callable[..., QueuedJob]:
        """What a button begins: the fields of a tab and the id of its images -> a job.

        make: the fields -> options of the command. work: the job, which finds the images by their
        id.
        """

        def begin(*fields_and_id: Any) -> QueuedJob:
            *fields, id = fields_and_id
            found = self.uploads.images_of(id)
            options = make(*fields)
            options.images = self.sources(found)
            return self.submit(command, options, work, id, images=found)

        return begin

    def begin_run(self, out: Path, more_bytes: int = 0) -> None:
        """Count a run that is written now, with so many bytes of images beside it.

        To be called within its job. Raises UserError where people have written as many runs, or
        bytes, as a shared app may hold.
        """
        if self.is_private:
            return
        written = [one for one in self._written if one.exists() and one != out]
        places = [place for one in written for place in (one, images_beside(one))]
        held = storage.bytes_below(*places)
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


def _load_model(spec: str) -> ImageTextModel:
    from captune.models.load import load_image_text_model

    return load_image_text_model(spec)


def _load_captioner(place: Path, _weights_id: str, rerank: str) -> Captioner:
    from captune.captioning.captioner import Captioner

    return Captioner.from_pretrained(place, rerank=rerank)


def images_beside(out: Path) -> Path:
    """Where the images of a kept run lie."""
    return out.with_name(f"{out.name}-images")


@dataclass(frozen=True)
class ReportPage:
    """address: relative to the app's own. answers: its first sentences. size_bytes: of the file."""

    address: str
    answers: list[str]
    size_bytes: int


class ReportPages:
    """The last pages that people looked at: those of run folders, and those made for them alone.

    A page belongs to whoever knows its address, which nobody can guess. folder: private; pages made
    here lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    def of_run(self, out: Path) -> ReportPage:
        """The page that a job left in its run folder."""
        from captune.pages.page import build_page
        from captune.pages.sources import PageSettings

        return self._show(out / PAGE, build_page([out], PageSettings()).said)

    def make(self, options: ReportOptions, job: QueuedJob) -> ReportPage:
        """A page of some runs, as `captune report`. Raises UserError for what is no run."""
        from captune.jobs.report import run

        made = run(
            replace(options, out=self._folder / f"{secrets.token_hex(8)}.html"),
            job,
            command=job.command,
        )
        return self._show(made.written["page"], made.page.said)

    def _show(self, path: Path, answers: list[str]) -> ReportPage:
        id = secrets.token_urlsafe(18)
        with self._lock:
            self._paths[id] = path
            old = self._paths.popitem(last=False)[1] if len(self._paths) > KEPT_PAGES else None
        if old is not None and old.parent == self._folder:
            old.unlink(missing_ok=True)
        return ReportPage(f"{REPORTS}/{id}", answers, path.stat().st_size)

    async def answer(self, request: Request) -> Response:
        """The page at an address."""
        with self._lock:
            path = self._paths.get(request.path_params["id"])
        if path is None or not path.is_file():
            return PlainTextResponse("this page is no longer there; make it again", 404)
        return FileResponse(path, media_type="text/html", headers={"cache-control": "no-store"})
