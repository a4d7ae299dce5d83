"""The tabs Classify, Caption and Explain, which share the images that people drop."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from captune.attribution.geometry import whole_frame
from captune.errors import UserError
from captune.images import ImageFile
from captune.jobs import Result
from captune.options.base import LITE
from captune.options.captioning import EVIDENCE, CaptionOptions, ExplainOptions
from captune.options.codec import words_of
from captune.options.recognition import ClassifyOptions
from captune.pages.sections.maps import map_in_words
from captune.plots.maps import scaled_map, why_flat
from captune.runs.records import BETTER
from captune.webapp.queue import QueuedJob
from captune.webapp.site import AppContext
from captune.webapp.views import (
    JobPanel,
    SharedImages,
    answer_files,
    beside_panels,
    choices,
    data_uri,
    keep_panel,
    name_skipped,
    never_a_file,
    offer_on,
)

if TYPE_CHECKING:
    from captune.attribution.explanation import ExplainedWord, Explanation
    from captune.captioning.caption import Caption
    from captune.zeroshot.classifier import Prediction

_LABELS = "astronaut, cat, cup of coffee, rocket, motorcycle, temple, flower, dog"
_BARS = 5  # of an image and a prompt
_MOST_LABELS = 2000
_SEVERAL_FIT = "Several labels may fit: yes or no for each"
_AT_ONCE = 4  # images: the page shows them as they come
_FINER = 4  # pixels per patch
_LATER = ["images"]  # until it is known where they lie
_OPAQUE = 163  # of 255, as in the report


def classify_tab(context: AppContext, page: Any, images: SharedImages) -> list[JobPanel]:
    """Images, labels and prompts; beside them a card with bars for each image."""
    empty = "Drop images, or take the examples; then type labels and see the bars move."
    panel = JobPanel(context, "classify", "classify", empty)

    def make(
        labels: str, prompts: str, model: str, ensemble: bool, multi_label: bool
    ) -> ClassifyOptions:
        names = [name.strip() for name in re.split(r"[,\n]", labels) if name.strip()]
        if not names:
            raise UserError("there are no labels; type some, with commas between them")
        if len(names) > _MOST_LABELS:
            raise UserError(f"{len(names):,} labels: the page takes at most {_MOST_LABELS:,}")
        model = model.strip() or LITE
        context.check_typed(model, {LITE}, "model")
        return ClassifyOptions(
            images=_LATER,
            labels=never_a_file(names),
            prompt=[line.strip() for line in prompts.splitlines() if line.strip()],
            ensemble="mean" if ensemble else None,
            multi_label=multi_label,
            model=model,
        )

    with beside_panels(panel):
        images.panels["classify"].render()
        labels = gr.Textbox(
            _LABELS,
            label="Labels",
            info="Any words, with commas or line breaks between them.",
            lines=2,
            max_lines=8,
            elem_id="labels",
        )
        prompts = gr.Textbox(
            "",
            label="Prompts",
            info="One per line, with {} where the label goes; empty for the usual one.",
            placeholder="a photo of a {}",
            lines=2,
            max_lines=6,
            elem_id="prompts",
        )
        with gr.Accordion("More", open=False):
            model = gr.Textbox(
                LITE,
                label="Model",
                info="lite, open_clip:NAME/TAG, hf:REPO or a local folder.",
                interactive=context.is_private,
            )
            ensemble = gr.Checkbox(label="Average all prompts into one classifier", value=False)
            multi_label = gr.Checkbox(label=_SEVERAL_FIT, value=False)
        panel.place_button("Classify", variant="primary")
        fields = [labels, prompts, model, ensemble, multi_label]
        keeping = keep_panel(
            context, page, "classify", "classified", make, fields, images.id, _keep_classified
        )

    typed = (labels, prompts, ensemble, multi_label)
    changed = [model.submit, *(one.input for one in typed), *images.added]
    begin = context.begin("classify", make, _classify)
    panel.connect(page, begin, fields, [images.id], changed, "always_last", removed=images.removed)
    return [panel, keeping]


def _classify(
    context: AppContext, job: QueuedJob, options: ClassifyOptions, id: str
) -> list[dict[str, Any]]:
    """A card per image, as the template takes it; they are shown as they come."""
    from captune.jobs import classify
    from captune.zeroshot.classifier import check_prompts

    images = context.uploads.images_of(id)
    job.result = shown = []

    def take(one: Prediction) -> None:
        several = len(one.probabilities) > 1
        prompts = check_prompts(one.labels, options.prompt) if several else [""]
        rows = [(prompt, one.top(_BARS, number)) for number, prompt in enumerate(prompts)]
        picture = images.thumbnails.get(one.image.name, "")
        shown.append({"name": one.image.name, "picture": picture, "rows": rows})

    with answer_files(context, job, "labels") as to:
        result = classify.run(
            replace(options, to=to),
            job,
            each=take,
            found=images.found,
            model=context.model(options.model),
        )
    _say_one_label(options, len(result.labels), job)
    name_skipped(result.skipped, job)
    return shown


def _keep_classified(options: ClassifyOptions, job: QueuedJob) -> None:
    from captune.jobs import classify

    # who takes the predictions says in words of its own what a single label means
    result = classify.run(options, job, command=job.command, each=lambda prediction: None)
    _say_one_label(options, len(result.labels), job)


def _say_one_label(options: ClassifyOptions, labels: int, job: QueuedJob) -> None:
    if labels == 1 and not options.multi_label:
        job.message(
            f"one label gets all of a softmax: “{_SEVERAL_FIT}”, under More, asks whether it fits"
        )


def caption_tab(
    context: AppContext, page: Any, opened: Any, images: SharedImages
) -> list[JobPanel]:
    """Images and a captioner; beside them a card with a caption for each image."""
    empty = (
        "Drop images and press Caption. The tab Explain shows what of the image the model used for"
        " each word."
    )
    panel = JobPanel(context, "caption", "caption", empty)

    def make(model: str, beam: float, rerank: str) -> CaptionOptions:
        captioner = _captioner(context, model)
        return CaptionOptions(images=_LATER, model=captioner, beam=int(beam), rerank=rerank)

    with beside_panels(panel):
        images.panels["caption"].render()
        model = _captioner_list(context, page, opened, "captioner")
        with gr.Accordion("More", open=False):
            beam = gr.Slider(1, 10, 5, step=1, label="Beam size")
            rerank = gr.Dropdown(
                ["auto", *EVIDENCE],
                value="auto",
                label="Choose among the likeliest captions by",
                info="auto: as the captioner was tuned; none: the likeliest one.",
                elem_id="rerank",
            )
        panel.place_button("Caption", variant="primary")
        fields = [model, beam, rerank]
        keeping = keep_panel(context, page, "caption", "captioned", make, fields, images.id)

    begin = context.begin("caption", make, _caption)
    panel.connect(page, begin, fields, [images.id], removed=images.removed)
    return [panel, keeping]


def _captioner_list(context: AppContext, page: Any, opened: Any, id: str) -> Any:
    """What is built in, and what was tuned."""

    def names() -> list[str]:
        return [LITE, *context.runs("tune")]

    found = gr.Dropdown(
        choices(names()),
        value=LITE,
        label="Captioner",
        info="lite is built in; the others are your runs of captune tune.",
        allow_custom_value=context.is_private,
        elem_id=id,
    )
    offer_on([page.load, opened.select], [found], names)
    return found


def _captioner(context: AppContext, typed: str | None) -> str:
    name = (typed or LITE).strip()
    return name if name == LITE else str(context.run_folder(name))


def _caption(
    context: AppContext, job: QueuedJob, options: CaptionOptions, id: str
) -> list[dict[str, Any]]:
    from captune.jobs import caption

    def card(one: Caption, thumbnails: Mapping[str, str]) -> dict[str, Any]:
        name = one.image.name
        return {"name": name, "picture": thumbnails.get(name, ""), "caption": one.caption}

    return _cards(context, job, options, id, "captions", caption.run, card)


def _cards(
    context: AppContext,
    job: QueuedJob,
    options: CaptionOptions | ExplainOptions,
    id: str,
    answers: str,
    run: Callable[..., Result],
    card: Callable[[Any, Mapping[str, str]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """A card per image; they are shown as they come. answers: what the files to save hold."""
    images = context.uploads.images_of(id)
    job.result = shown = []

    def take(one: Any) -> None:
        shown.append(card(one, images.thumbnails))
        job.changed()

    with answer_files(context, job, answers) as to:
        result = run(
            replace(options, to=to, batch_size=_AT_ONCE),
            job,
            each=take,
            found=images.found,
            captioner=context.captioner(options),
        )
    name_skipped(result.skipped, job)
    return shown


def explain_tab(
    context: AppContext, page: Any, opened: Any, images: SharedImages
) -> list[JobPanel]:
    """Images and a captioner, a question about one image; beside them captions with their maps."""
    empty = (
        "Drop images and press Explain; then hover over a word of a caption, tab to it or tap it to"
        " see what of the image the model used for it."
    )
    panel = JobPanel(context, "explain", "explain", empty)
    question = JobPanel(context, "ask", "answer")

    def make(model: str, beam: float, judge: bool, below: float) -> ExplainOptions:
        return ExplainOptions(
            images=_LATER,
            model=_captioner(context, model),
            beam=int(beam),
            faithfulness="quick" if judge else "none",
            flag_below=below / 100 or None,
        )

    def begin_answer(
        word: str, against: str, model: str, beam: float, image: str, id: str
    ) -> QueuedJob:
        found = context.uploads.images_of(id)
        chosen = found.image(image)
        word, against = (word or "").strip(), (against or "").strip()
        if not word:
            raise UserError("type the word to look for, such as dog")
        options = ExplainOptions(
            images=[str(chosen.path) if context.is_private else chosen.name],
            model=_captioner(context, model),
            beam=int(beam),
            words=word,
            against=against or None,
            # attention belongs to a step, not to a word, so it cannot contrast two words
            method="gradient" if against else "auto",
        )
        return context.submit("explain", options, _answer, chosen, id, images=found)

    with beside_panels(question, panel):
        images.panels["explain"].render()
        model = _captioner_list(context, page, opened, "explain-captioner")
        with gr.Accordion("More", open=False):
            beam = gr.Slider(1, 10, 5, step=1, label="Beam size")
            judge = gr.Checkbox(
                label="Test every map: better than chance? (some seconds per image)"
            )
            below = gr.Slider(
                *(0, 100, 0),
                step=5,
                label="Flag captions that people agree with at less than (%)",
                elem_id="flag-below",
            )
        panel.place_button("Explain", variant="primary")
        fields = [model, beam, judge, below]
        keeping = keep_panel(context, page, "explain", "explained", make, fields, images.id)
        with gr.Group():
            images.choice.render()
            word = gr.Textbox(
                label="Where is …?", placeholder="dog", elem_id="ask-word", max_length=60
            )
            against = gr.Textbox(
                label="… and why not …? (optional)",
                placeholder="cat",
                elem_id="ask-against",
                max_length=60,
            )
        question.place_button("Explain this word")

    begin = context.begin("explain", make, _explain)
    panel.connect(page, begin, fields, [images.id], removed=images.removed)
    also = [model, beam, images.choice, images.id]
    asked = [word.submit, against.submit]
    question.connect(page, begin_answer, [word, against], also, asked, removed=images.removed)
    return [panel, question, keeping]


def _explain(
    context: AppContext, job: QueuedJob, options: ExplainOptions, id: str
) -> list[dict[str, Any]]:
    from captune.jobs import explain

    return _cards(context, job, options, id, "explanations", explain.run, _card)


def _answer(
    context: AppContext, job: QueuedJob, options: ExplainOptions, image: ImageFile, id: str
) -> list[dict[str, Any]]:
    """The card of one image, for the word that was asked for."""
    from captune.jobs import explain

    found: list[Explanation] = []
    shown, options.images = options.images, [str(image.path)]
    captioner = context.captioner(options)
    try:
        explain.run(options, job, each=found.append, captioner=captioner)
    except explain.NoSuchWord:
        asked = " and ".join(f"a {word}" for word in options.chosen_words)
        options.caption = asked
        job.command = words_of("explain", options, {"images": shown})
        job.message(f"its own caption does not say that; this is about the caption “{asked}”")
        explain.run(options, job, each=found.append, captioner=captioner)
    thumbnails = context.uploads.images_of(id).thumbnails
    return [_card(found[0], thumbnails) | {"against": options.against}]


def _card(explanation: Explanation, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    left, top, width, height = 0.0, 0.0, 1.0, 1.0
    if (seen := explanation.frame) is not None:
        left, top = seen.left / seen.width, seen.top / seen.height
        width = (seen.right - seen.left) / seen.width
        height = (seen.bottom - seen.top) / seen.height
    sides = {"left": left, "top": top, "width": width, "height": height}
    name = explanation.image.path.name
    return {
        "name": name,
        "picture": thumbnails.get(name, ""),
        "words": [_word(word) for word in explanation.words],
        # where the maps lie over the image
        "place": ";".join(f"{side}:{100 * share:.3f}%" for side, share in sides.items()),
        "against": None,
        "agreement": explanation.agreement,
        "flagged": explanation.flagged,
    }


def _word(word: ExplainedWord) -> dict[str, Any]:
    """A word, its map as a picture, and in words what it shows."""
    own = word.map.numpy()
    found = word.record()["faithfulness"] or {}
    mark = str(found.get("mark", ""))
    return {
        "word": word.word,
        "says": f"{word.word}: {map_in_words(own, mark, found)}",
        "mark": mark,
        "is_true": mark == BETTER,
        "picture": _picture(own),
    }


def _picture(own: Any) -> str:
    """A map [rows, columns] in the colours of the figures, smooth: a PNG in a data URI."""
    import matplotlib
    from PIL import Image

    rows, columns = own.shape
    smooth = whole_frame(columns, rows).over_image(own, (_FINER * columns, _FINER * rows))
    picture = Image.fromarray(np.round(255 * scaled_map(smooth)).astype(np.uint8), "P")
    colours = matplotlib.colormaps["magma"](np.arange(256))[:, :3]
    picture.putpalette(np.round(255 * colours).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    # without colour where it shows no place, which its words say
    picture.save(buffer, "PNG", transparency=bytes([0 if why_flat(own) else _OPAQUE]) * 256)
    return data_uri("image/png", buffer.getvalue())
