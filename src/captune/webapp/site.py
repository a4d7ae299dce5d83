"""What all tabs share: options, images, jobs, models, and which folders may be opened."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from captune.errors import UserError
from captune.files import home_path, printable
from captune.options import AppOptions
from captune.runs import Run, read_run
from captune.webapp.arrivals import Arrivals
from captune.webapp.jobs import Jobs
from captune.webapp.pages import Pages
from captune.webapp.uploads import Uploads

if TYPE_CHECKING:
    from captune.models.image_text import ImageTextModel

_MODELS = 2  # kept in memory
_MOST_RUNS = 500  # that a list offers
LITE = "lite"
_NAME = re.compile(r"\w[\w. -]{0,79}")


@dataclass
class Site:
    """One running app. folder: private, and gone when the app ends."""

    options: AppOptions
    folder: Path
    jobs: Jobs
    uploads: Uploads
    arrivals: Arrivals
    pages: Pages
    _models: OrderedDict[str, ImageTextModel] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

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
        """Raises UserError where somebody names what is not offered to a shared app."""
        if not self.is_private and typed not in offered:
            raise UserError(
                f"{printable(typed)}: others use this app too (--shared), so it opens no {what}"
                " that is typed; choose one of the list"
            )

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
        self.check_typed(name, set(), "run folder")
        return home_path(name)

    def new_run(self, name: str) -> Path:
        """Where a run of that name is written. Raises UserError for what is no plain name."""
        name = (name or "").strip()
        if not _NAME.fullmatch(name):
            raise UserError(
                f'the run is called "{printable(name)}": give it a plain name of letters, digits,'
                " spaces, dots and dashes"
            )
        return self.options.runs / name

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
