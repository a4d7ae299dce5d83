"""The tab Caption: images in words, and where on the image each word was found."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from captune.attribution.explanation import ExplainedWord, Explanation
from captune.errors import UserError
from captune.images import ImageFile
from captune.options import ExplainOptions
from captune.options.codec import words_of
from captune.pages.sections.explain import map_in_words
from captune.plots.maps import scaled_map
from captune.runs.records import BETTER
from captune.webapp.queue import QueuedJob
from captune.webapp.site import LITE, AppContext
from captune.webapp.tabs import ImagePanel
from captune.webapp.views import JobPanel, SaveRun, choices, render_job

_AT_ONCE = 4  # images: the page shows them as they come
_OPAQUE = 163  # of 255, as in the report


@dataclass(frozen=True)
class WordView:
    """A word and where it was found. says: that in words. picture: a PNG, a pixel per patch."""

    word: str
    says: str
    mark: str
    is_true: bool
    picture: str


@dataclass(frozen=True)
class CaptionView:
    """A caption and its image. frame: left, top, width, height of what the model saw of it."""

    name: str
    picture: str
    words: list[WordView]
    frame: tuple[float, float, float, float]  # as fractions of the image
    against: str | None = None


class CaptionTab:
    """Fields, the captions, a question about one image, and what joins them."""

    def __init__(self, context: AppContext, images_id: Any) -> None:
        self._context, self._images_id = context, images_id
        self.panel = JobPanel(context, "caption", self._draw)
        self.question = JobPanel(context, "ask", self._draw_answer)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.images = ImagePanel(context, "caption")
                self.model = gr.Dropdown(
                    choices(self.offered()),
                    value=LITE,
                    label="Captioner",
                    info="lite is built in; the others are your runs of captune tune.",
                    allow_custom_value=context.is_private,
                    elem_id="captioner",
                )
                with gr.Accordion("More", open=False):
                    self.beam = gr.Slider(1, 10, 5, step=1, label="Beam size")
                    self.judge = gr.Checkbox(
                        label="Test every map: better than chance? (some seconds per image)"
                    )
                with gr.Row():
                    self.button = gr.Button("Caption", variant="primary", elem_id="caption")
                    self.panel.place_stop()
                self.save = SaveRun(context, "explain", self._options, self._keep, name="captioned")
                with gr.Group():
                    self.image = gr.Dropdown([], label="Ask about an image", elem_id="ask-image")
                    self.word = gr.Textbox(
                        label="Where is …?", placeholder="dog", elem_id="ask-word", max_length=60
                    )
                    self.against = gr.Textbox(
                        label="… and why not …? (optional)",
                        placeholder="cat",
                        elem_id="ask-against",
                        max_length=60,
                    )
                with gr.Row():
                    self.ask = gr.Button("Ask", elem_id="ask")
                    self.question.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.question.place_result("")
                self.panel.place_result(
                    "Drop images and press Caption; then hover over a word, tab to it or tap it to"
                    " see where on the image it was found."
                )

    def connect(self, page: Any) -> None:
        """Its events."""
        fields = [self.model, self.beam, self.judge]
        self.panel.connect(page, [self.button.click], self._begin, fields, [self._images_id])
        self.save.connect(page, fields, self._images_id)
        self.question.connect(
            page,
            [self.ask.click, self.word.submit, self.against.submit],
            self._begin_answer,
            [self.word, self.against],
            [self.model, self.beam, self.image, self._images_id],
        )

    def offered(self) -> list[str]:
        """The captioners that there are now."""
        return [LITE, *self._context.runs("tune")]

    def _captioner(self, model: str | None) -> str:
        name = (model or LITE).strip()
        return name if name == LITE else str(self._context.run_folder(name))

    def _begin(self, model: str, beam: float, judge: bool, id: str) -> QueuedJob:
        options = self._options(model, beam, judge)
        options.images = self._context.uploads.images_of(id).names
        return self._context.queue.submit(
            lambda job: self._work(job, options, id), words_of("explain", options)
        )

    def _options(self, model: str, beam: float, judge: bool) -> ExplainOptions:
        return ExplainOptions(
            images=[],
            model=self._captioner(model),
            beam=int(beam),
            faithfulness="quick" if judge else "none",
            batch_size=_AT_ONCE,
        )

    def _keep(self, options: ExplainOptions, job: QueuedJob) -> None:
        from captune.jobs.explain import run

        run(options, job, command=job.command)

    def _work(self, job: QueuedJob, options: ExplainOptions, id: str) -> list[CaptionView]:
        from captune.jobs.explain import run

        images = self._context.uploads.images_of(id)
        options.images = [str(image.path) for image in images.images]
        job.result = found = []

        def take(explanation: Explanation) -> None:
            found.append(_view(explanation, images.thumbnails))
            job.changed()

        run(options, job, each=take)
        return found

    def _begin_answer(
        self, word: str, against: str, model: str, beam: float, image: str, id: str
    ) -> QueuedJob:
        chosen = self._context.uploads.images_of(id).image(image)
        word, against = (word or "").strip(), (against or "").strip()
        if not word:
            raise UserError("type the word to look for, such as dog")
        options = ExplainOptions(
            images=[chosen.name],
            model=self._captioner(model),
            beam=int(beam),
            words=word,
            against=against or None,
            # attention belongs to a step, not to a word, so it cannot contrast two words
            method="gradient" if against else "auto",
        )
        return self._context.queue.submit(
            lambda job: self._answer(job, options, chosen, id), words_of("explain", options)
        )

    def _answer(
        self, job: QueuedJob, options: ExplainOptions, image: ImageFile, id: str
    ) -> CaptionView:
        from captune.jobs.explain import NoSuchWord, run

        found: list[Explanation] = []
        options.images = [str(image.path)]
        try:
            run(options, job, each=found.append)
        except NoSuchWord:
            asked = " and ".join(f"a {word}" for word in options.chosen_words)
            options.caption = asked
            job.command = words_of("explain", options, {"images": [image.name]})
            job.message(f"its own caption does not say that; this is about the caption “{asked}”")
            run(options, job, each=found.append)
        thumbnails = self._context.uploads.images_of(id).thumbnails
        return _view(found[0], thumbnails, against=options.against)

    def _draw(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "caption", {"images": job.result or []})

    def _draw_answer(self, job: QueuedJob) -> str:
        return render_job(self._context, job, "answer", {"image": job.result})


def _view(
    explanation: Explanation, thumbnails: Mapping[str, str], *, against: str | None = None
) -> CaptionView:
    """Pictures instead of arrays. thumbnails: of the images, by name."""
    frame = (0.0, 0.0, 1.0, 1.0)
    if (own := explanation.frame) is not None:
        frame = (
            own.left / own.width,
            own.top / own.height,
            (own.right - own.left) / own.width,
            (own.bottom - own.top) / own.height,
        )
    name = explanation.image.path.name
    words = [_word_view(word) for word in explanation.words]
    return CaptionView(name, thumbnails.get(name, ""), words, frame, against)


def _word_view(word: ExplainedWord) -> WordView:
    scaled = scaled_map(word.map.numpy())
    found = word.record()["faithfulness"] or {}
    mark = str(found.get("mark", ""))
    says = f"{word.word}: {map_in_words(scaled, mark, found)}"
    return WordView(word.word, says, mark, mark == BETTER, _picture(scaled))


def _picture(scaled: NDArray[np.float32]) -> str:
    """A map from 0 to 1 in the colours of the figures, as a PNG in a data URI."""
    import matplotlib
    from PIL import Image

    colours = np.round(255 * matplotlib.colormaps["magma"](scaled)).astype(np.uint8)
    colours[..., 3] = _OPAQUE
    buffer = io.BytesIO()
    Image.fromarray(colours, "RGBA").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
