"""The tab Compare: which of two runs writes the better captions, and is it luck?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from captune.options import CompareOptions
from captune.options.codec import words_of
from captune.webapp.queue import QueuedJob
from captune.webapp.site import AppContext, ReportPage
from captune.webapp.views import JobPanel, choices, render_job

KINDS = ("tune", "caption", "score")


class CompareTab:
    """Two runs, the references, and the page that comes of it."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self.panel = JobPanel(context, "compare", self._draw)
        can = context.is_private
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.first, self.second = (
                    gr.Dropdown(
                        choices(self.offered()),
                        value=None,
                        label=f"Run {side}",
                        info="From the list, or a folder." if can else None,
                        allow_custom_value=can,
                        elem_id=f"compare-{side.lower()}",
                    )
                    for side in "AB"
                )
                self.references = gr.Textbox(
                    label="Reference captions (optional)",
                    placeholder="val.json",
                    interactive=can,
                    elem_id="compare-references",
                )
                self.folder = gr.Textbox(
                    label="Folder of their images (optional)",
                    placeholder="images/",
                    interactive=can,
                    elem_id="compare-images",
                )
                self.name = gr.Textbox("compared", label="Name of the run")
                with gr.Row():
                    self.button = gr.Button("Compare", variant="primary", elem_id="compare")
                    self.panel.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.panel.place_result("Choose two runs that describe the same images.")

    def connect(self, page: Any) -> None:
        """Its events."""
        fields = [self.first, self.second, self.references, self.folder, self.name]
        self.panel.connect(page, [self.button.click], self._begin, fields)

    def offered(self) -> list[str]:
        """The runs that there are now."""
        return self._context.runs(*KINDS)

    def _begin(self, first: str, second: str, references: str, folder: str, name: str) -> QueuedJob:
        options = CompareOptions(
            first=self._context.run_folder(first or ""),
            second=self._context.run_folder(second or ""),
            references=self._typed(references),
            images=self._typed(folder),
            out=self._context.new_run(name),
        )
        return self._context.queue.submit(
            lambda job: self._work(job, options), words_of("compare", options)
        )

    def _typed(self, typed: str) -> Path | None:
        return self._context.typed_path(typed, "file") if (typed or "").strip() else None

    def _work(self, job: QueuedJob, options: CompareOptions) -> ReportPage:
        from captune.jobs import compare

        assert options.out is not None
        self._context.begin_run(options.out)
        compare.run(options, job, command=job.command)
        return self._context.pages.write(job, [options.out])

    def _draw(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "page", {"page": job.result, "name": "comparison"})
