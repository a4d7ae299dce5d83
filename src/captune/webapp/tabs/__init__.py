"""The tabs, a file each, and what several of them have: the panel where images are dropped.

All tabs of a page share one set of images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from captune.errors import UserError
from captune.webapp.site import AppContext
from captune.webapp.uploads import Dropped, ImageFolder
from captune.webapp.views import QUIET, choices, refusal, render


class ImagePanel:
    """A place to drop images and the strip of those that are there."""

    def __init__(self, context: AppContext, name: str) -> None:
        limits = context.options
        self.drop = gr.File(
            label=f"Images: up to {limits.most_images:,}, each up to {limits.most_mb:,} MB",
            file_count="multiple",
            height=150,
            elem_id=f"drop-{name}",
        )
        with gr.Row():
            self.example = gr.Button(
                "Example images", size="sm", min_width=120, elem_id=f"examples-{name}"
            )
            self.clear = gr.Button("Forget my images", size="sm", min_width=120)
        self.strip = gr.HTML(_strip(None), elem_id=f"strip-{name}", js_on_load=None)


def connect_panels(
    context: AppContext, page: Any, panels: Sequence[ImagePanel], id: Any, choice: Any
) -> list[Any]:
    """Set up the events of all panels; returns those after which there are other images.

    id: kept by the browser. choice: a list that offers the images.
    """
    uploads = context.uploads
    outputs = [id, choice, *(panel.strip for panel in panels), *(panel.drop for panel in panels)]

    def shown(found: ImageFolder | None, sentence: str = "") -> list[Any]:
        names = found.names if found is not None else []
        strip = refusal(sentence) if sentence else _strip(found)
        chosen = gr.update(choices=choices(names), value=names[0] if names else None)
        new_id = found.id if found is not None else ""
        return [new_id, chosen, *[strip] * len(panels), *[None] * len(panels)]

    def take(files: list[dict[str, Any]] | None, now: str) -> list[Any]:
        dropped = [
            Dropped(context.arrivals.claim(file["path"]), file.get("orig_name") or "image")
            for file in files or ()
        ]
        return shown(uploads.add(now, dropped))

    def example(now: str) -> list[Any]:
        from captune.demo import gather_images

        # a directory of its own: the files are moved from it
        with tempfile.TemporaryDirectory(dir=context.folder) as folder:
            try:
                images = gather_images(Path(folder)).images
            except UserError as error:
                return shown(uploads.find(now), str(error))
            files = [Dropped(path, path.name) for path in sorted(images.iterdir())]
            return shown(uploads.add(None, files))

    def clear(now: str) -> list[Any]:
        uploads.clear(now)
        return shown(None)

    changed = []
    for panel in panels:
        changed += [
            # raw, for the names that people gave their files
            panel.drop.upload(take, [panel.drop, id], outputs, preprocess=False, **QUIET),
            panel.example.click(example, [id], outputs, **QUIET),
        ]
        panel.clear.click(clear, [id], outputs, **QUIET)
    page.load(lambda now: shown(uploads.find(now)), [id], outputs, **QUIET)
    return changed


def _strip(found: ImageFolder | None) -> str:
    return render("strip", {"found": found})
