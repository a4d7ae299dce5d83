"""The tab Classify: labels and prompts are typed, and the bars move."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.images import ImageSet
from captune.options import ClassifyOptions
from captune.options.codec import words_of
from captune.webapp.queue import QueuedJob
from captune.webapp.site import LITE, AppContext
from captune.webapp.tabs import ImagePanel
from captune.webapp.views import JobPanel, SaveRun, render_job

_LABELS = "astronaut, cat, cup of coffee, rocket, motorcycle, temple, flower, dog"
_BARS = 5  # of an image and a prompt
_MOST_LABELS = 2000
_SEVERAL_FIT = "Several labels may fit: yes or no for each"


@dataclass(frozen=True)
class ClassifiedImage:
    """What one image was found to show. rows: (prompt, or "", the most probable labels)."""

    name: str
    picture: str
    rows: list[tuple[str, list[tuple[str, float]]]]


class ClassifyTab:
    """Fields, the result, and what joins them."""

    def __init__(self, context: AppContext, images_id: Any) -> None:
        self._context, self._images_id = context, images_id
        self.panel = JobPanel(context, "classify", self._draw)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.images = ImagePanel(context, "classify")
                self.labels = gr.Textbox(
                    _LABELS,
                    label="Labels",
                    info="Any words, with commas or line breaks between them.",
                    lines=2,
                    max_lines=8,
                    elem_id="labels",
                )
                self.prompts = gr.Textbox(
                    "",
                    label="Prompts",
                    info="One per line, with {} where the label goes; empty for the usual one.",
                    placeholder="a photo of a {}",
                    lines=2,
                    max_lines=6,
                    elem_id="prompts",
                )
                with gr.Accordion("More", open=False):
                    self.model = gr.Textbox(
                        LITE,
                        label="Model",
                        info="lite, open_clip:NAME/TAG, hf:REPO or a local folder.",
                        interactive=context.is_private,
                    )
                    self.ensemble = gr.Checkbox(
                        label="Average all prompts into one classifier", value=False
                    )
                    self.multi_label = gr.Checkbox(label=_SEVERAL_FIT, value=False)
                with gr.Row():
                    self.button = gr.Button("Classify", variant="primary", elem_id="classify")
                    self.panel.place_stop()
                self.save = SaveRun(context, "classify", self._options, _keep, name="classified")
            with gr.Column(scale=3, min_width=320):
                self.panel.place_result(
                    "Drop images, or take the examples; then type labels and see the bars move."
                )

    def connect(self, page: Any, images_changed: list[Any]) -> None:
        """Its events; images_changed: those after which there are other images."""
        fields = [self.labels, self.prompts, self.model, self.ensemble, self.multi_label]
        typed = [self.labels, self.prompts, self.ensemble, self.multi_label]
        triggers = [
            *(field.input for field in typed),
            *(self.button.click, self.model.submit),
            *(one.success for one in images_changed),
        ]
        self.panel.connect(page, triggers, self._begin, fields, [self._images_id], "always_last")
        self.save.connect(page, fields, self._images_id)

    def _begin(
        self, labels: str, prompts: str, model: str, ensemble: bool, multi_label: bool, id: str
    ) -> QueuedJob:
        images = self._context.uploads.images_of(id)
        options = self._options(labels, prompts, model, ensemble, multi_label)
        options.images = images.names
        return self._context.queue.submit(
            lambda job: self._work(job, options, id), words_of("classify", options)
        )

    def _options(
        self, labels: str, prompts: str, model: str, ensemble: bool, multi_label: bool
    ) -> ClassifyOptions:
        names = [name.strip() for name in re.split(r"[,\n]", labels) if name.strip()]
        if not names:
            raise UserError("there are no labels; type some, with commas between them")
        if len(names) > _MOST_LABELS:
            raise UserError(f"{len(names):,} labels: the page takes at most {_MOST_LABELS:,}")
        model = model.strip() or LITE
        self._context.check_typed(model, {LITE}, "model")
        return ClassifyOptions(
            images=[],
            labels=_never_a_file(names),
            prompt=[line.strip() for line in prompts.splitlines() if line.strip()],
            ensemble="mean" if ensemble else None,
            multi_label=multi_label,
            model=model,
        )

    def _work(self, job: QueuedJob, options: ClassifyOptions, id: str) -> list[ClassifiedImage]:
        from captune.jobs import classify
        from captune.zeroshot.classifier import Prediction, check_prompts

        images = self._context.uploads.images_of(id)
        job.result = shown = []

        def take(one: Prediction) -> None:
            several = len(one.probabilities) > 1
            prompts = check_prompts(one.labels, options.prompt) if several else [""]
            rows = [(prompt, one.top(_BARS, number)) for number, prompt in enumerate(prompts)]
            picture = images.thumbnails.get(one.image.name, "")
            shown.append(ClassifiedImage(one.image.name, picture, rows))

        result = classify.run(
            options,
            job,
            each=take,
            found=ImageSet(images.folder, list(images.images), []),
            model=self._context.model(options.model),
        )
        _say_one_label(options, len(result.labels), job)
        for item in result.skipped:
            job.message(f"{item.path}: {item.reason}")
        return shown

    def _draw(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "classify", {"images": job.result or []})


def _keep(options: ClassifyOptions, job: QueuedJob) -> None:
    from captune.jobs import classify

    # who takes the predictions says in words of its own what a single label means
    result = classify.run(options, job, command=job.command, each=lambda prediction: None)
    _say_one_label(options, len(result.labels), job)


def _say_one_label(options: ClassifyOptions, labels: int, job: QueuedJob) -> None:
    if labels == 1 and not options.multi_label:
        job.message(
            f"one label gets all of a softmax: “{_SEVERAL_FIT}”, under More, asks whether it fits"
        )


def _never_a_file(names: Sequence[str]) -> str:
    """Labels as one option, whatever they look like: a command opens a file of that name."""
    labels = ",".join(names)
    if len(names) == 1 or "." in labels or "/" in labels:
        labels += ","
    while os.path.exists(labels):  # noqa: PTH110  # pathlib's raises for a long name
        labels += ","
    return labels
