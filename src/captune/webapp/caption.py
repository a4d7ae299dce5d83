"""The tab Caption: photos in words, and where on the photo each word was found."""

from __future__ import annotations

from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.explain.explanation import Explanation
from captune.images import Photo
from captune.options import ExplainOptions
from captune.webapp.commands import words_of
from captune.webapp.drawing import choices, drawn_job
from captune.webapp.job_view import QUIET, JobView
from captune.webapp.jobs import Job
from captune.webapp.keeping import Keeping
from captune.webapp.photo_panel import PhotoPanel
from captune.webapp.site import LITE, Site
from captune.webapp.word_maps import SeenPhoto, seen

_AT_ONCE = 4  # photos: the page shows them as they come


class CaptionTab:
    """Fields, the captions, a question about one photo, and what joins them."""

    def __init__(self, site: Site, photos_id: Any) -> None:
        self._site = site
        self.view = JobView(site, "caption", self._draw)
        self.asking = JobView(site, "ask", self._draw_answer)
        self._photos_id = photos_id
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.panel = PhotoPanel(site, "caption")
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
                        label="Judge every map: better than chance? (some seconds a photo)"
                    )
                with gr.Row():
                    self.button = gr.Button("Describe", variant="primary", elem_id="describe")
                    self.view.place_stop()
                self.keeping = Keeping(site, "explain", self._options, self._keep, name="described")
                with gr.Group():
                    self.photo = gr.Dropdown([], label="Ask about a photo", elem_id="ask-photo")
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
                    "Drop photos and press Describe; then hover over a word, tab to it or tap it"
                    " to see where on the photo it was found."
                )

    def connect(self, page: Any) -> None:
        """Its events."""
        settings = [self.model, self.beam, self.judge]
        self.view.begin_on([self.button.click], self._begin, [*settings, self._photos_id])
        self.keeping.connect(page, settings, self._photos_id)
        self.asking.begin_on(
            [self.ask.click, self.word.submit, self.against.submit],
            self._begin_answer,
            [self.model, self.beam, self.photo, self.word, self.against, self._photos_id],
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
        options.photos = self._site.uploads.photos_of(id).names
        return self._site.jobs.submit(
            lambda job: self._work(job, options, id),
            words_of("explain", options),
            asked={"model": model, "beam": beam, "judge": judge},
        )

    def _options(self, model: str, beam: float, judge: bool) -> ExplainOptions:
        return ExplainOptions(
            photos=[],
            model=self._captioner(model),
            beam=int(beam),
            faithfulness="quick" if judge else "none",
            batch_size=_AT_ONCE,
        )

    def _keep(self, options: ExplainOptions, job: Job) -> None:
        from captune.explain.job import explain_photos

        explain_photos(options, command=job.command, bar=job.bar, say=job.say)

    def _work(self, job: Job, options: ExplainOptions, id: str) -> list[SeenPhoto]:
        from captune.explain.job import explain_photos

        photos = self._site.uploads.photos_of(id)
        options.photos = [str(photo.path) for photo in photos.photos]
        job.result = found = []

        def take(explanation: Explanation) -> None:
            found.append(seen(explanation, photos.thumbnails))
            job.changed()

        explain_photos(options, bar=job.bar, say=job.say, on_explanation=take)
        return found

    def _begin_answer(
        self, model: str, beam: float, photo: str, word: str, against: str, id: str
    ) -> Job:
        chosen = self._site.uploads.photos_of(id).photo(photo)
        word, against = (word or "").strip(), (against or "").strip()
        if not word:
            raise UserError("type the word to look for, as dog")
        options = ExplainOptions(
            photos=[chosen.name],
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

    def _answer(self, job: Job, options: ExplainOptions, photo: Photo, id: str) -> SeenPhoto:
        from captune.explain.job import NoSuchWord, explain_photos

        found: list[Explanation] = []
        options.photos = [str(photo.path)]
        try:
            explain_photos(options, bar=job.bar, say=job.say, on_explanation=found.append)
        except NoSuchWord:
            asked = " and ".join(f"a {word}" for word in options.chosen_words)
            options.caption = asked
            job.command = words_of("explain", options, {"photos": [photo.name]})
            job.say(f"its own caption does not say that; this is about the caption “{asked}”")
            explain_photos(options, bar=job.bar, say=job.say, on_explanation=found.append)
        thumbnails = self._site.uploads.photos_of(id).thumbnails
        return seen(found[0], thumbnails, against=options.against)

    def _draw(self, job: Job) -> str:
        return drawn_job(self._site, job, "caption", {"photos": job.result or []})

    def _draw_answer(self, job: Job) -> str:
        return drawn_job(self._site, job, "answer", {"photo": job.result})
