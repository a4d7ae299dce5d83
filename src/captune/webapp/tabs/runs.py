"""The tabs Tune, Compare and Report, which write run folders and show their pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.options.pages import ReportOptions
from captune.options.scoring import CompareOptions
from captune.options.tuning import TuneOptions
from captune.registry import TUNING_METHODS
from captune.runs.kinds import KINDS
from captune.webapp.queue import QueuedJob, tune_apart
from captune.webapp.site import AppContext, ReportPage
from captune.webapp.views import JobPanel, beside_panels, choices, offer_on
from captune_metrics.display import printable

_COMPARED = ("tune", "caption", "score")
_SHOWN = 6  # images of a preview
_EPOCHS = 4  # of a first try


def tune_tab(context: AppContext, page: Any) -> list[JobPanel]:
    """Fields, what they name, the training."""
    can = context.is_private
    looking = JobPanel(context, "look", "preview")
    empty = (
        "Name a folder of images and their captions. Stop writes a checkpoint, and Tune with the"
        " same fields resumes from it."
        if can
        else "Others use this app too, so it opens no folder that is typed, and nothing can be"
        " tuned here. Start captune app without --shared."
    )
    panel = JobPanel(context, "tune", "page", empty, shown="run")
    with beside_panels(panel, looking):
        images = _path_field(context, "tune-images", "Folder of the images", "images/")
        forms = "COCO JSON, CSV, JSONL, or a folder of name.txt."
        captions = _path_field(context, "tune-captions", "Training captions", "train.json", forms)
        label, info = "Validation captions", "Of other images; none: one image in five is held out."
        val = _path_field(context, "tune-val-captions", label, "val.json", info)
        looking.place_button("Preview", size="sm", interactive=can)
        methods = gr.CheckboxGroup(
            TUNING_METHODS.names(), value=["lora"], label="Methods, one after the other"
        )
        with gr.Row(elem_id="tune-sizes"):
            # what is too small is refused by the options, by name
            number: dict[str, Any] = {"precision": 0, "min_width": 90}
            epochs = gr.Number(_EPOCHS, label="Epochs", elem_id="tune-epochs", **number)
            limit = gr.Number(0, label="Images (0: all)", elem_id="tune-limit", **number)
            each = gr.Textbox("1", label="Captions per image", min_width=90)
        name = gr.Textbox("tuned", label="Name of the run", elem_id="tune-name")
        panel.place_button("Tune", variant="primary", interactive=can)

    def place(typed: str, what: str) -> Path:
        if not (typed or "").strip():
            raise UserError(f"{what} is missing; type where it is")
        return context.typed_path(typed, "folder")

    def begin_look(images: str, captions: str) -> QueuedJob:
        folder = place(images, "the folder of the images")
        file = place(captions, "the file of the training captions")
        # nothing on a command line only looks
        return context.queue.submit(lambda job: _preview(folder, file))

    def begin(*values: Any) -> QueuedJob:
        images, captions, val, methods, epochs, limit, each, name, now = values
        running = context.queue.find(now)
        if running is not None and not running.is_over:
            return running
        if not methods:
            raise UserError("no method is chosen; tick one, such as lora")
        options = TuneOptions(
            images=place(images, "the folder of the images"),
            captions=place(captions, "the file of the training captions"),
            val_captions=context.typed_path(val, "folder") if (val or "").strip() else None,
            method=",".join(methods),
            epochs=_EPOCHS if epochs is None else int(epochs),
            limit=int(limit or 0),
            captions_per_image=(each or "all").strip(),
            out=context.new_run(name),
        )
        return context.submit("tune", options, _train, lane="long")

    looking.connect(page, begin_look, [images, captions])
    fields = [images, captions, val, methods, epochs, limit, each, name]
    # its id: a click while it is at work begins no other
    panel.connect(page, begin, fields, [panel.id])
    return [looking, panel]


def _train(context: AppContext, job: QueuedJob, options: TuneOptions) -> ReportPage:
    assert options.out is not None
    tune_apart(job, options)
    return context.pages.of_run(options.out)


def _preview(folder: Path, file: Path) -> dict[str, Any]:
    from captune.captions import match_images, read_captions
    from captune.images import find_images
    from captune.pages.thumbnails import thumbnail_of

    captions = read_captions(file)
    image_of, _ = match_images(captions, find_images([folder]))
    if not image_of:
        raise UserError(
            f"{printable(file)}: none of its {len(captions):,} images is among the images in"
            f" {printable(folder)}; name the folder that holds them"
        )
    first = sorted(image_of, key=lambda id: image_of[id].name)[:_SHOWN]
    return {
        "captions": sum(map(len, captions.captions.values())),
        "images": len(captions),
        "found": len(image_of),
        "shown": [(thumbnail_of(image_of[id].path) or "", captions.captions[id]) for id in first],
    }


def compare_tab(context: AppContext, page: Any, opened: Any) -> list[JobPanel]:
    """Two runs and the references: which writes the better captions, and is it luck?"""
    empty = "Choose two runs that describe the same images."
    panel = JobPanel(context, "compare", "page", empty, shown="comparison")
    can = context.is_private
    with beside_panels(panel):
        first, second = (
            gr.Dropdown(
                choices(context.runs(*_COMPARED)),
                value=None,
                label=f"Run {side}",
                info="Choose from the list or type a folder path." if can else None,
                allow_custom_value=can,
                elem_id=f"compare-{side.lower()}",
            )
            for side in "AB"
        )
        references = _path_field(
            context, "compare-references", "Reference captions (optional)", "val.json"
        )
        images = _path_field(
            context, "compare-images", "Folder of their images (optional)", "images/"
        )
        name = gr.Textbox("compared", label="Name of the run")
        panel.place_button("Compare", variant="primary")

    def typed(text: str) -> Path | None:
        return context.typed_path(text, "file") if (text or "").strip() else None

    def begin(first: str, second: str, references: str, images: str, name: str) -> QueuedJob:
        options = CompareOptions(
            first=context.run_folder(first or ""),
            second=context.run_folder(second or ""),
            references=typed(references),
            images=typed(images),
            out=context.new_run(name),
        )
        return context.submit("compare", options, _compare)

    panel.connect(page, begin, [first, second, references, images, name])
    offer_on([page.load, opened.select], [first, second], lambda: context.runs(*_COMPARED))
    return [panel]


def _compare(context: AppContext, job: QueuedJob, options: CompareOptions) -> ReportPage:
    from captune.jobs import compare

    assert options.out is not None
    context.begin_run(options.out)
    compare.run(options, job, command=job.command)
    return context.pages.of_run(options.out)


def report_tab(context: AppContext, page: Any, opened: Any) -> list[JobPanel]:
    """Which runs, and their page."""
    empty = (
        "Choose runs. Tune and Compare always write one; Classify, Caption and Explain do where you"
        " press Keep."
    )
    panel = JobPanel(context, "report", "page", empty, shown="report")
    with beside_panels(panel):
        runs = gr.Dropdown(
            choices(context.runs(*KINDS)),
            value=[],
            multiselect=True,
            label="Runs",
            info="Choose from the list or type folder paths." if context.is_private else None,
            allow_custom_value=context.is_private,
            elem_id="report-runs",
        )
        title = gr.Textbox(label="Title (optional)", max_length=200)
        panel.place_button("Report", variant="primary")

    def begin(runs: list[str], title: str) -> QueuedJob:
        if not runs:
            raise UserError("no run is chosen; choose some from the list")
        options = ReportOptions(
            runs=[str(context.run_folder(name)) for name in runs],
            out=Path("report.html"),
            title=(title or "").strip() or None,
        )
        return context.submit("report", options, lambda app, job, asked: app.pages.make(asked, job))

    panel.connect(page, begin, [runs, title])
    offer_on([page.load, opened.select], [runs], lambda: context.runs(*KINDS))
    return [panel]


def _path_field(
    context: AppContext, id: str, label: str, example: str, info: str | None = None
) -> Any:
    """Where a file or folder is typed, in an app for one person alone."""
    return gr.Textbox(
        label=label, info=info, placeholder=example, interactive=context.is_private, elem_id=id
    )
