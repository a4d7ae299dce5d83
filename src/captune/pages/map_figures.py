"""The assignment's figure of a run of `captune explain`: the image, then a panel a word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from captune.attribution.deletion_insertion import BETTER
from captune.attribution.geometry import Frame, whole_frame
from captune.attribution.methods import LayerHead
from captune.images import Skipped, UnreadableImage, open_image
from captune.options.attribution import COLOURS
from captune.pages.thumbnails import not_opened
from captune.plots import save_figure
from captune.plots.maps import MapPanel, maps_figure
from captune.runs import Run
from captune.runs.maps import read_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_PX = 160  # of the longer side: beyond it a smooth map shows nothing new


def draw_maps(run: Run, skipped: list[Skipped]) -> Iterator[list[Path]]:
    """Draw the figure of each image, PNG and SVG, into the run's plots; yields their paths.

    Images that are gone since are added to `skipped`.
    """
    for stem, figure in drawn_maps(run, skipped):
        paths = [run.folder / "plots" / f"{stem}{ending}" for ending in (".png", ".svg")]
        yield [save_figure(figure, path) for path in paths]


def drawn_maps(run: Run, skipped: list[Skipped]) -> Iterator[tuple[str, Figure]]:
    """The figure of each image, and what its file is called without an ending."""
    colours = run.about["options"].get("colours")
    if colours not in COLOURS:
        colours = COLOURS[0]
    subtitle = described(run.metrics["map"])
    for record in run.records():
        place = run.image_path(record["path"])
        if place is None:
            reason = not_opened(run, record["path"])
            skipped.append(Skipped(record["path"], f"no figure of it: {reason}"))
            continue
        try:
            image = open_image(place)
        except UnreadableImage as error:
            skipped.append(Skipped(record["path"], f"no figure of it: {error.reason}"))
            continue
        words, maps = read_maps(run, record)
        scale = _SHOWN_PX / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        over = _frame(record, image.size).over_image(maps, size)
        marks = [(word.get("faithfulness") or {}).get("mark", "") for word in record["words"]]
        panels = [
            MapPanel(word, own, mark, mark == BETTER)
            for word, own, mark in zip(words, over, marks, strict=True)
        ]
        figure = maps_figure(
            image, panels, caption=record["caption"], subtitle=subtitle, colours=colours
        )
        yield "words-" + PurePosixPath(record["maps"]).stem, figure


def described(about: Mapping[str, Any]) -> str:
    """How the maps of a run were made, for a reader."""
    layer_head = LayerHead(about["layer"], about["head"])
    alone = "" if layer_head == LayerHead() else f", {layer_head}"
    against = f", against {about['against']}" if about.get("against") else ""
    return f"map: {about['method']}{alone}{against}"


def _frame(record: Mapping[str, Any], size: tuple[int, int]) -> Frame:
    edges = record.get("frame")
    return whole_frame(*size) if edges is None else Frame(*size, *edges)
