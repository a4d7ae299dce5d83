"""The tab Report: runs become one page that can be handed to somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.options import ReportOptions
from captune.options.codec import words_of
from captune.runs.kinds import KINDS
from captune.webapp.queue import QueuedJob
from captune.webapp.site import AppContext
from captune.webapp.views import JobPanel, choices, render_job


class ReportTab:
    """Which runs, and their page."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self.panel = JobPanel(context, "report", self._draw)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.runs = gr.Dropdown(
                    choices(self.offered()),
                    value=[],
                    multiselect=True,
                    label="Runs",
                    info="From the list, or folders." if context.is_private else None,
                    allow_custom_value=context.is_private,
                    elem_id="report-runs",
                )
                self.title = gr.Textbox(label="Title (optional)", max_length=200)
                with gr.Row():
                    self.button = gr.Button("Make the page", variant="primary", elem_id="report")
                    self.panel.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.panel.place_result(
                    "Choose runs. Tune and Compare always write one; Classify and Caption do where"
                    " you press Keep."
                )

    def connect(self, page: Any) -> None:
        """Its events."""
        self.panel.connect(page, [self.button.click], self._begin, [self.runs, self.title])

    def offered(self) -> list[str]:
        """The runs that there are now."""
        return self._context.runs(*KINDS)

    def _begin(self, runs: list[str], title: str) -> QueuedJob:
        if not runs:
            raise UserError("no run is chosen; choose some from the list")
        folders = [self._context.run_folder(name) for name in runs]
        title = (title or "").strip()
        options = ReportOptions(
            runs=[str(folder) for folder in folders], out=Path("report.html"), title=title or None
        )
        return self._context.queue.submit(
            lambda job: self._context.pages.write(job, folders, title), words_of("report", options)
        )

    def _draw(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "page", {"page": job.result, "name": "report"})
