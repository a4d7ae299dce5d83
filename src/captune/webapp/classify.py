"""The tab Classify: labels and prompts are typed, and the bars move."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.images import Skipped
from captune.options import ClassifyOptions
from captune.options.codec import words_of
from captune.webapp.drawing import drawn_job
from captune.webapp.image_panel import ImagePanel
from captune.webapp.job_view import JobView
from captune.webapp.jobs import Job
from captune.webapp.keeping import Keeping
from captune.webapp.site import LITE, Site

_LABELS = "astronaut, cat, cup of coffee, rocket, motorcycle, temple, flower, dog"
_BARS = 5  # of an image and a prompt
_MOST_LABELS = 2000


@dataclass(frozen=True)
class Recognised:
    """What one image was found to show. rows: (prompt, or "", the most probable labels)."""

    name: str
    picture: str
    rows: list[tuple[str, list[tuple[str, float]]]]


class ClassifyTab:
    """Fields, the result, and what joins them."""

    def __init__(self, site: Site, images_id: Any) -> None:
        self._site = site
        self.view = JobView(site, "classify", self._draw)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.panel = ImagePanel(site, "classify")
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
                    info="One a line, with {} where the label goes; empty for the usual one.",
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
                        interactive=site.is_private,
                    )
                    self.ensemble = gr.Checkbox(
                        label="Average all prompts into one classifier", value=False
                    )
                    self.multi_label = gr.Checkbox(
                        label="Several labels may fit: a yes or no for each", value=False
                    )
                with gr.Row():
                    self.button = gr.Button("Recognise", variant="primary", elem_id="recognise")
                    self.view.place_stop()
                self.keeping = Keeping(
                    site, "classify", self._options, self._keep, name="recognised"
                )
            with gr.Column(scale=3, min_width=320):
                self.view.place_result(
                    "Drop images, or take the examples; then type labels and see the bars move."
                )
        settings = [self.labels, self.prompts, self.model, self.ensemble, self.multi_label]
        self._settings, self._images_id = settings, images_id

    def connect(self, page: Any, images_changed: list[Any]) -> None:
        """Its events; images_changed: those after which there are other images."""
        inputs = [*self._settings, self._images_id]
        typed = [self.labels.input, self.prompts.input]
        clicked = [self.ensemble.input, self.multi_label.input]
        self.view.begin_on([*typed, *clicked], self._begin, inputs, "always_last")
        pressed = [self.button.click, self.model.submit, *(one.success for one in images_changed)]
        self.view.begin_on(pressed, self._begin, inputs, "always_last")
        names = ["labels", "prompts", "model", "ensemble", "multi_label"]
        self.view.connect(page, dict(zip(names, self._settings, strict=True)))
        self.keeping.connect(page, self._settings, self._images_id)

    def _begin(
        self, labels: str, prompts: str, model: str, ensemble: bool, multi_label: bool, id: str
    ) -> Job:
        images = self._site.uploads.images_of(id)
        options = self._options(labels, prompts, model, ensemble, multi_label)
        options.images = images.names
        return self._site.jobs.submit(
            lambda job: self._work(job, options, id),
            words_of("classify", options),
            asked={
                "labels": labels,
                "prompts": prompts,
                "model": model,
                "ensemble": ensemble,
                "multi_label": multi_label,
            },
        )

    def _options(
        self, labels: str, prompts: str, model: str, ensemble: bool, multi_label: bool
    ) -> ClassifyOptions:
        names = [name.strip() for name in re.split(r"[,\n]", labels) if name.strip()]
        if not names:
            raise UserError("there are no labels; type some, with commas between them")
        if len(names) > _MOST_LABELS:
            raise UserError(f"{len(names):,} labels: the page takes {_MOST_LABELS:,} at the most")
        model = model.strip() or LITE
        self._site.check_typed(model, {LITE}, "model")
        # one name alone may be that of a file, which a command would open
        joined = ",".join(names)
        return ClassifyOptions(
            images=[],
            labels=joined if len(names) > 1 else f"{joined},",
            prompt=[line.strip() for line in prompts.splitlines() if line.strip()],
            ensemble="mean" if ensemble else None,
            multi_label=multi_label,
            model=model,
        )

    def _keep(self, options: ClassifyOptions, job: Job) -> None:
        from captune.jobs.classify import run

        run(options, job, command=job.command)

    def _work(self, job: Job, options: ClassifyOptions, id: str) -> list[Recognised]:
        from captune.zeroshot.classifier import ZeroShotClassifier
        from captune.zeroshot.labels import read_labels

        images = self._site.uploads.images_of(id)
        names = read_labels(options.labels).names
        classifier = ZeroShotClassifier(
            names,
            model=self._site.model(options.model),
            prompts=options.prompt,
            ensemble=options.ensemble,
            multi_label=options.multi_label,
        )
        try:
            job.result = found = []
            if len(names) == 1 and not options.multi_label:
                job.say("one label gets all of a softmax: tick “several labels may fit”")
            with job.bar("classifying", len(images.images)) as advance:
                for one in classifier.classify(
                    list(images.images),
                    on_skip=lambda item: job.say(_skipped(item)),
                    on_progress=advance,
                ):
                    rows = [
                        (template or "", one.top(_BARS, number))
                        for number, template in enumerate(classifier.prompts)
                    ]
                    picture = images.thumbnails.get(one.image.name, "")
                    found.append(Recognised(one.image.name, picture, rows))
        finally:
            if classifier.cache is not None:
                classifier.cache.close()
        return found

    def _draw(self, job: Job) -> str:
        return drawn_job(self._site, job, "classify", {"images": job.result or []})


def _skipped(item: Skipped) -> str:
    return f"{item.path}: {item.reason}"
