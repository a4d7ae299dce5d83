"""The tab Report: runs become one page that can be handed to somebody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.options import ReportOptions
from captune.options.codec import words_of
from captune.pages.page import KINDS
from captune.webapp.drawing import choices, drawn_job
from captune.webapp.job_view import QUIET, JobView
from captune.webapp.jobs import Job
from captune.webapp.site import Site


class ReportTab:
    """Which runs, and their page."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.view = JobView(site, "report", self._draw)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.runs = gr.Dropdown(
                    choices(site.runs(*KINDS)),
                    value=[],
                    multiselect=True,
                    label="Runs",
                    info="Of the list, or folders." if site.is_private else None,
                    allow_custom_value=site.is_private,
                    elem_id="report-runs",
                )
                self.title = gr.Textbox(label="Title (may be empty)", max_length=200)
                with gr.Row():
                    self.button = gr.Button("Make the page", variant="primary", elem_id="report")
                    self.view.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.view.place_result(
                    "Choose runs. Classify and Caption keep what they found as runs; Tune and"
                    " Compare always do."
                )

    def connect(self, page: Any) -> None:
        """Its events."""
        self.view.begin_on([self.button.click], self._begin, [self.runs, self.title])
        self.view.connect(page, {"runs": self.runs, "title": self.title})

    def refresh_on(self, selected: Any) -> None:
        """Offer the runs that there are now."""
        offered = lambda: gr.update(choices=choices(self._site.runs(*KINDS)))  # noqa: E731
        selected(offered, None, [self.runs], **QUIET)

    def _begin(self, runs: list[str], title: str) -> Job:
        if not runs:
            raise UserError("no run is chosen; take some of the list")
        folders = [self._site.run_folder(name) for name in runs]
        title = (title or "").strip()
        options = ReportOptions(
            runs=[str(folder) for folder in folders],
            out=Path("report.html"),
            title=title or None,
        )
        return self._site.jobs.submit(
            lambda job: self._site.pages.write(job, folders, title),
            words_of("report", options),
            asked={"runs": runs, "title": title},
        )

    def _draw(self, job: Job) -> str:
        return drawn_job(self._site, job, "page", {"page": job.result, "name": "report"})
