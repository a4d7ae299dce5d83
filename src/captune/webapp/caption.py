"""The tab Caption: images in words, and where on the image each word was found."""

from __future__ import annotations

from typing import Any

import gradio as gr

from captune.attribution.explanation import Explanation
from captune.errors import UserError
from captune.images import ImageFile
from captune.options import ExplainOptions
from captune.options.codec import words_of
from captune.webapp.drawing import choices, drawn_job
from captune.webapp.image_panel import ImagePanel
from captune.webapp.job_view import QUIET, JobView
from captune.webapp.jobs import Job
from captune.webapp.keeping import Keeping
from captune.webapp.site import LITE, Site
from captune.webapp.word_maps import SeenImage, seen

_AT_ONCE = 4  # images: the page shows them as they come


class CaptionTab:
    """Fields, the captions, a question about one image, and what joins them."""

    def __init__(self, site: Site, images_id: Any) -> None:
        self._site = site
        self.view = JobView(site, "caption", self._draw)
        self.asking = JobView(site, "ask", self._draw_answer)
        self._images_id = images_id
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.panel = ImagePanel(site, "caption")
                self.model = gr.Dropdown(
                    choices([LITE, *site.runs("tune")]),
                    value=LITE,
                    label="Captioner",
                    info="lite comes along; the others are runs of captune tune.",
                    allow_custom_value=site.is_private,
                    elem_id="captioner",
                )
                with gr.Accordion("More", open=False):
                    self.beam = gr.Slider(1, 10, 5, step=1, label="Width of the beam search")
                    self.judge = gr.Checkbox(
                        label="Judge every map: better than chance? (some seconds an image)"
                    )
                with gr.Row():
                    self.button = gr.Button("Describe", variant="primary", elem_id="describe")
                    self.view.place_stop()
                self.keeping = Keeping(site, "explain", self._options, self._keep, name="described")
                with gr.Group():
                    self.image = gr.Dropdown([], label="Ask about an image", elem_id="ask-image")
                    self.word = gr.Textbox(
                        label="Where is …?", placeholder="dog", elem_id="ask-word", max_length=60
                    )
                    self.against = gr.Textbox(
                        label="… and why not …? (may be empty)",
                        placeholder="cat",
                        elem_id="ask-against",
                        max_length=60,
                    )
                with gr.Row():
                    self.ask = gr.Button("Ask", elem_id="ask")
                    self.asking.place_stop()
            with gr.Column(scale=3, min_width=320):
                self.asking.place_result("")
                self.view.place_result(
                    "Drop images and press Describe; then hover over a word, tab to it or tap it"
                    " to see where on the image it was found."
                )

    def connect(self, page: Any) -> None:
        """Its events."""
        settings = [self.model, self.beam, self.judge]
        self.view.begin_on([self.button.click], self._begin, [*settings, self._images_id])
        self.keeping.connect(page, settings, self._images_id)
        self.asking.begin_on(
            [self.ask.click, self.word.submit, self.against.submit],
            self._begin_answer,
            [self.model, self.beam, self.image, self.word, self.against, self._images_id],
        )
        fields = {"model": self.model, "beam": self.beam, "judge": self.judge}
        self.view.connect(page, fields)
        self.asking.connect(page, {"word": self.word, "against": self.against})

    def refresh_on(self, selected: Any) -> None:
        """Offer the captioners that there are now."""
        offered = lambda: gr.update(choices=choices([LITE, *self._site.runs("tune")]))  # noqa: E731
        selected(offered, None, [self.model], **QUIET)

    def _captioner(self, model: str | None) -> str:
        name = (model or LITE).strip()
        return name if name == LITE else str(self._site.run_folder(name))

    def _begin(self, model: str, beam: float, judge: bool, id: str) -> Job:
        options = self._options(model, beam, judge)
        options.images = self._site.uploads.images_of(id).names
        return self._site.jobs.submit(
            lambda job: self._work(job, options, id),
            words_of("explain", options),
            asked={"model": model, "beam": beam, "judge": judge},
        )

    def _options(self, model: str, beam: float, judge: bool) -> ExplainOptions:
        return ExplainOptions(
            images=[],
            model=self._captioner(model),
            beam=int(beam),
            faithfulness="quick" if judge else "none",
            batch_size=_AT_ONCE,
        )

    def _keep(self, options: ExplainOptions, job: Job) -> None:
        from captune.attribution.job import explain_images

        explain_images(options, command=job.command, bar=job.bar, say=job.say)

    def _work(self, job: Job, options: ExplainOptions, id: str) -> list[SeenImage]:
        from captune.attribution.job import explain_images

        images = self._site.uploads.images_of(id)
        options.images = [str(image.path) for image in images.images]
        job.result = found = []

        def take(explanation: Explanation) -> None:
            found.append(seen(explanation, images.thumbnails))
            job.changed()

        explain_images(options, bar=job.bar, say=job.say, on_explanation=take)
        return found

    def _begin_answer(
        self, model: str, beam: float, image: str, word: str, against: str, id: str
    ) -> Job:
        chosen = self._site.uploads.images_of(id).image(image)
        word, against = (word or "").strip(), (against or "").strip()
        if not word:
            raise UserError("type the word to look for, as dog")
        options = ExplainOptions(
            images=[chosen.name],
            model=self._captioner(model),
            beam=int(beam),
            words=word,
            against=against or None,
            # attention sees a step, whichever word comes of it, and holds no word against another
            method="gradient" if against else "auto",
        )
        return self._site.jobs.submit(
            lambda job: self._answer(job, options, chosen, id),
            words_of("explain", options),
            asked={"word": word, "against": against},
        )

    def _answer(self, job: Job, options: ExplainOptions, image: ImageFile, id: str) -> SeenImage:
        from captune.attribution.job import NoSuchWord, explain_images

        found: list[Explanation] = []
        options.images = [str(image.path)]
        try:
            explain_images(options, bar=job.bar, say=job.say, on_explanation=found.append)
        except NoSuchWord:
            asked = " and ".join(f"a {word}" for word in options.chosen_words)
            options.caption = asked
            job.command = words_of("explain", options, {"images": [image.name]})
            job.say(f"its own caption does not say that; this is about the caption “{asked}”")
            explain_images(options, bar=job.bar, say=job.say, on_explanation=found.append)
        thumbnails = self._site.uploads.images_of(id).thumbnails
        return seen(found[0], thumbnails, against=options.against)

    def _draw(self, job: Job) -> str:
        return drawn_job(self._site, job, "caption", {"images": job.result or []})

    def _draw_answer(self, job: Job) -> str:
        return drawn_job(self._site, job, "answer", {"image": job.result})
