"""The tab Tune: a folder of captions becomes a captioner, with a bar and a Stop that keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from captune.captioning.tuning import method_names
from captune.errors import UserError
from captune.files import printable
from captune.options import TuneOptions
from captune.options.codec import words_of
from captune.webapp.queue import QueuedJob
from captune.webapp.site import AppContext, ReportPage
from captune.webapp.train_process import tune_apart
from captune.webapp.views import JobPanel, render_job

_SHOWN = 6


@dataclass(frozen=True)
class CaptionsPreview:
    """What a caption file and a folder hold. shown: (thumbnail, captions) of the first images."""

    captions: int
    images: int
    found: int
    shown: list[tuple[str, list[str]]]


class TuneTab:
    """Fields, what they name, the training."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self.panel = JobPanel(context, "tune", self._draw)
        self.preview = JobPanel(context, "preview", self._draw_preview)
        can = context.is_private
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.images = gr.Textbox(
                    label="Folder of the images", placeholder="images/", interactive=can,
                    elem_id="tune-images",
                )  # fmt: skip
                self.captions = gr.Textbox(
                    label="Training captions",
                    info="COCO JSON, CSV, JSONL, or a folder of name.txt.",
                    placeholder="train.json",
                    interactive=can,
                    elem_id="tune-captions",
                )
                self.val = gr.Textbox(
                    label="Validation captions", info="Of other images in the same folder.",
                    placeholder="val.json", interactive=can, elem_id="tune-val",
                )  # fmt: skip
                with gr.Row():
                    self.look = gr.Button("Preview", size="sm", interactive=can, elem_id="look")
                    self.preview.place_stop()
                self.methods = gr.CheckboxGroup(
                    method_names(), value=["lora"], label="Methods, one after the other"
                )
                with gr.Row():
                    self.epochs = gr.Number(4, label="Epochs", precision=0, minimum=1, min_width=90)
                    self.limit = gr.Number(
                        0, label="Images (0: all)", precision=0, minimum=0, min_width=90,
                        elem_id="tune-limit",
                    )  # fmt: skip
                    self.each = gr.Textbox("1", label="Captions per image", min_width=90)
                self.name = gr.Textbox("tuned", label="Name of the run", elem_id="tune-name")
                with gr.Row():
                    self.start = gr.Button(
                        "Start", variant="primary", interactive=can, elem_id="tune"
                    )
                    self.panel.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.preview.place_result("")
                self.panel.place_result(
                    "Name a folder of images and their captions. Stop writes a checkpoint, and"
                    " Start with the same fields resumes from it."
                    if can
                    else "Others use this app too, so it opens no folder that is typed, and"
                    " nothing can be tuned here. Start captune app without --shared."
                )

    def connect(self, page: Any) -> None:
        """Its events."""
        places = [self.images, self.captions, self.val]
        settings = [self.methods, self.epochs, self.limit, self.each, self.name]
        self.preview.connect(page, [self.look.click], self._begin_preview, places[:2])
        # its id: a Start while it is at work begins no other
        self.panel.connect(
            page, [self.start.click], self._begin, [*places, *settings], [self.panel.id]
        )

    def _place(self, typed: str, what: str) -> Path:
        if not (typed or "").strip():
            raise UserError(f"{what} is missing; type where it is")
        return self._context.typed_path(typed, "folder")

    def _begin_preview(self, images: str, captions: str) -> QueuedJob:
        folder = self._place(images, "the folder of the images")
        file = self._place(captions, "the file of the training captions")
        # nothing on a command line only looks; a tune says the same before it starts
        words = ["captune", "tune", str(folder), "--captions", str(file), "--val", "VAL"]
        return self._context.queue.submit(
            lambda job: _preview(folder, file), [*words, "--out", "RUN"]
        )

    def _begin(
        self, images: str, captions: str, val: str, methods: list[str], epochs: float,
        limit: float, each: str, name: str, now: str,
    ) -> QueuedJob:  # fmt: skip
        running = self._context.queue.find(now)
        if running is not None and not running.is_over:
            return running
        if not methods:
            raise UserError("no method is chosen; tick one, such as lora")
        options = TuneOptions(
            images=self._place(images, "the folder of the images"),
            captions=self._place(captions, "the file of the training captions"),
            val=self._place(val, "the file of the validation captions"),
            method=",".join(methods),
            epochs=int(epochs or 1),
            limit=int(limit or 0),
            captions_per_image=(each or "all").strip(),
            out=self._context.new_run(name),
        )
        return self._context.queue.submit(
            lambda job: self._work(job, options), words_of("tune", options), lane="long"
        )

    def _work(self, job: QueuedJob, options: TuneOptions) -> ReportPage:
        assert options.out is not None
        tune_apart(job, options)
        return self._context.pages.write(job, [options.out])

    def _draw(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "page", {"page": job.result, "name": "run"})

    def _draw_preview(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "preview", {"found": job.result})


def _preview(folder: Path, file: Path) -> CaptionsPreview:
    from captune.captions import match_images, read_captions
    from captune.images import find_images
    from captune.pages.album import thumbnail_of

    captions = read_captions(file)
    image_of, _ = match_images(captions, find_images([folder]))
    if not image_of:
        raise UserError(
            f"{printable(str(file))}: none of its {len(captions):,} images is among the images in"
            f" {printable(str(folder))}; name the folder that holds them"
        )
    first = list(image_of)[:_SHOWN]
    return CaptionsPreview(
        captions=sum(map(len, captions.captions.values())),
        images=len(captions),
        found=len(image_of),
        shown=[(thumbnail_of(image_of[id].path) or "", captions.captions[id]) for id in first],
    )
