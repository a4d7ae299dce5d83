"""Keep: what a tab found becomes a run folder, with its images beside it, that reports can show."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.files import printable
from captune.options.codec import words_of
from captune.webapp.drawing import drawn_job
from captune.webapp.job_view import JobView
from captune.webapp.jobs import Job
from captune.webapp.site import Site


class Keeping:
    """A name, a button, and what was written where.

    make: what the tab's fields hold -> the options of its command, without images and out.
    work: does the command's job with those options.
    """

    def __init__(
        self,
        site: Site,
        command: str,
        make: Callable[..., Any],
        work: Callable[[Any, Job], None],
        name: str,
    ) -> None:
        self._site, self._command, self._make, self._work = site, command, make, work
        self.view = JobView(site, f"keep-{command}", self._draw)
        with gr.Accordion("Keep as a run", open=False):
            self.name = gr.Textbox(
                name,
                label="Name of the run",
                info=f"Written to {site.options.runs}, with a copy of the images beside it.",
                elem_id=f"keep-name-{command}",
            )
            with gr.Row():
                self.button = gr.Button("Keep", elem_id=f"keep-{command}")
                self.view.place_stop()
            self.view.place_result("")

    def connect(self, page: Any, inputs: Sequence[Any], images_id: Any) -> None:
        """Its events; inputs: the fields that `make` takes."""
        self.view.begin_on([self.button.click], self._begin, [self.name, images_id, *inputs])
        self.view.connect(page, {"name": self.name})

    def _begin(self, name: str, id: str, *values: Any) -> Job:
        images = self._site.uploads.images_of(id)
        out = self._site.new_run(name)
        copies = out.with_name(f"{out.name}-images")
        for place in (out, copies):
            if place.exists():
                raise UserError(
                    f"{printable(str(place))}: is there already; give the run another name"
                )
        options = self._make(*values)
        options.images, options.out = [str(copies)], out

        def work(job: Job) -> Path:
            copies.mkdir(parents=True)
            try:
                for image in images.images:
                    shutil.copyfile(image.path, copies / image.name)
                self._work(options, job)
            except BaseException:
                shutil.rmtree(copies, ignore_errors=True)
                raise
            return out

        words = words_of(self._command, options)
        return self._site.jobs.submit(work, words, asked={"name": name})

    def _draw(self, job: Job) -> str:
        return drawn_job(self._site, job, "kept", {"run": job.result})
