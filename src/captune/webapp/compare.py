"""The tab Compare: which of two runs writes the better captions, and is it luck?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from captune.files import home_path
from captune.options import CompareOptions
from captune.options.codec import words_of
from captune.webapp.drawing import choices, drawn_job
from captune.webapp.job_view import QUIET, JobView
from captune.webapp.jobs import Job
from captune.webapp.pages import Page
from captune.webapp.site import Site

KINDS = ("tune", "caption", "score")


class CompareTab:
    """Two runs, what they are held against, and the page that comes of it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.view = JobView(site, "compare", self._draw)
        can = site.is_private
        runs = site.runs(*KINDS)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.first, self.second = (
                    gr.Dropdown(
                        choices(runs),
                        value=None,
                        label=f"Run {side}",
                        info="Of the list, or a folder." if can else None,
                        allow_custom_value=can,
                        elem_id=f"compare-{side.lower()}",
                    )
                    for side in "AB"
                )
                self.references = gr.Textbox(
                    label="Captions by people to compare with (may be empty)",
                    placeholder="val.json",
                    interactive=can,
                    elem_id="compare-references",
                )
                self.folder = gr.Textbox(
                    label="Folder of their images (may be empty)",
                    placeholder="images/",
                    interactive=can,
                    elem_id="compare-images",
                )
                self.name = gr.Textbox("compared", label="Name of the run")
                with gr.Row():
                    self.button = gr.Button("Compare", variant="primary", elem_id="compare")
                    self.view.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.view.place_result("Choose two runs that describe the same images.")

    def connect(self, page: Any) -> None:
        """Its events."""
        inputs = [self.first, self.second, self.references, self.folder, self.name]
        self.view.begin_on([self.button.click], self._begin, inputs)
        names = ["first", "second", "references", "folder", "name"]
        self.view.connect(page, dict(zip(names, inputs, strict=True)))

    def refresh_on(self, selected: Any) -> None:
        """Offer the runs that there are now."""

        def offered() -> list[Any]:
            runs = self._site.runs(*KINDS)
            return [gr.update(choices=choices(runs)), gr.update(choices=choices(runs))]

        selected(offered, None, [self.first, self.second], **QUIET)

    def _begin(self, first: str, second: str, references: str, folder: str, name: str) -> Job:
        options = CompareOptions(
            first=self._site.run_folder(first or ""),
            second=self._site.run_folder(second or ""),
            references=self._typed(references),
            images=self._typed(folder),
            out=self._site.new_run(name),
        )
        asked = {
            "first": first, "second": second, "references": references, "folder": folder,
            "name": name,
        }  # fmt: skip
        return self._site.jobs.submit(
            lambda job: self._work(job, options), words_of("compare", options), asked=asked
        )

    def _typed(self, typed: str) -> Path | None:
        typed = (typed or "").strip()
        if not typed:
            return None
        self._site.check_typed(typed, set(), "file")
        return home_path(typed)

    def _work(self, job: Job, options: CompareOptions) -> Page:
        from captune.pages.run_figures import draw_differences
        from captune.scoring import comparison_recording

        assert options.out is not None
        result = comparison_recording.run(options, command=job.command, bar=job.bar, say=job.say)
        draw_differences(result, options.out)
        return self._site.pages.write(job, [options.out])

    def _draw(self, job: Job) -> str:
        return drawn_job(self._site, job, "page", {"page": job.result, "name": "comparison"})
