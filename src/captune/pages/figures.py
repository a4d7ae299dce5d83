"""The figures of runs as files, drawn from their records: after a job, and for `report --figures`.

The drawings of a page follow its style sheet; these are the figures of `captune.plots`, as wide as
the text of a paper.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from captune.attribution.geometry import Frame, whole_frame
from captune.images import Skipped, UnreadableImage, open_image
from captune.images.match import sample_names
from captune.json_yaml import convert
from captune.options.captioning import COLOURS
from captune.pages.blocks import blocks_of
from captune.pages.page import Page
from captune.pages.sections import captions, classify, tune
from captune.pages.sections.caption_sources import CaptionSources
from captune.pages.sections.maps import described
from captune.pages.sources import PageSettings, RunSource
from captune.pages.thumbnails import not_opened
from captune.plots import (
    Top5,
    agreement_figure,
    class_change_figure,
    confusion_figure,
    difference_figure,
    image_difference_figure,
    negation_figure,
    prompt_comparison_figure,
    reliability_figure,
    save_figure,
    top5_grid_figure,
)
from captune.plots.captions import curves_figure, images_figure
from captune.plots.maps import MapPanel, maps_figure
from captune.runs import Run
from captune.runs.maps import NewNames, read_maps
from captune.runs.metrics import Calibration, Curve, PromptsMetrics, TuneMetrics
from captune.runs.records import BETTER
from captune.tables import Table, write_csv
from captune.zeroshot.prompts import fill
from captune_metrics import catalogue

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from captune.zeroshot.template_comparison import TemplateComparison

NamedFigures = Iterator[
    tuple[str, "Figure"]
]  # what the file is called without an ending, the figure
EXPORTED = (".png", ".svg", ".pdf")
_AFTER_JOB = {"tune": (".png",), "compare": (".png",)}  # of other kinds also as SVG
_FIGURES_EACH = 6  # prompts of which each has figures of its own
_MOST_MAPS = 20
_PANELS = 59  # words of a figure of maps: rows of five with the image, on a page or two
_SHOWN_PX = 160  # of the longer side: beyond it a smooth map shows nothing new


def figures_of(source: RunSource, skipped: list[Skipped]) -> NamedFigures:
    """The figures of a run, one after the other; images that cannot be shown go to `skipped`."""
    draw = _FIGURES.get(source.run.kind)
    return iter(()) if draw is None else draw(source, skipped)


def draw_figures(run: Run, skipped: list[Skipped]) -> Iterator[list[Path]]:
    """Draw the figures that a job leaves, into the run's plots; yields the files of each.

    A classification leaves the top-5 figures that it was asked for, and no others.
    """
    source = RunSource(1, run.folder.name, run)
    figures = figures_of(source, skipped)
    if run.kind == "classify":
        figures = _top5(source, skipped) if source.option("top5", list, []) else iter(())
    endings = _AFTER_JOB.get(run.kind, (".png", ".svg"))
    for name, figure in figures:
        yield save_as(figure, run.folder / "plots" / name, endings)


def export(
    page: Page,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    raw_csv: bool = False,
) -> list[Path]:
    """Write every table of a page as CSV, every figure of its runs as PNG, SVG and PDF.

    Returns the files. say: is told what could not be drawn. raw_csv: cells that a spreadsheet would
    run as formulas stay as they are. Raises UserError where a file cannot be written.
    """
    written = []
    for part in page.sections:
        for table in blocks_of(part.blocks, Table):
            path = folder / "tables" / f"{table.name}.csv"
            write_csv(path, table.values(), raw=raw_csv)
            written.append(path)
    given = {source.number for source in page.runs.given}
    for source in page.runs.sources:
        if source.run.kind == "tune" and source.number not in given:
            continue  # its curve is in its tune's figure
        inside = folder / _file_name(source.name)
        skipped: list[Skipped] = []
        most = _MOST_MAPS if source.run.kind == "explain" else None
        for name, figure in islice(figures_of(source, skipped), most):
            written += save_as(figure, inside / name, EXPORTED)
        for item in skipped:
            say(f"{source.name}: {item.path}: {item.reason}")
        if source.run.kind == "faithful":
            written += _copied(source, inside, say)
    for name, figure in _pairs(page, say):
        written += save_as(figure, folder / name, EXPORTED)
    return written


def save_as(figure: Figure, path: Path, endings: Sequence[str]) -> list[Path]:
    """Write a figure as several kinds of files; `path` has no ending yet."""
    return [save_figure(figure, path.with_name(path.name + ending)) for ending in endings]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".") or "run"


def _classify(source: RunSource, skipped: list[Skipped]) -> NamedFigures:
    found = classify.ClassifyCounts(source, PageSettings())
    if found.confusion:
        ids = found.ids
        place = {id: i for i, id in enumerate(ids)}
        counts = np.zeros((len(ids), len(ids)), dtype=np.int64)
        for (truth, said), n in found.confusion.items():
            counts[place[truth], place[said]] = n
        yield "confusions", confusion_figure(counts, [found.names[id] for id in ids])
        calibration = Calibration(found.reliability(), None, None)
        yield "reliability", reliability_figure(calibration)
    yield from _top5(source, skipped)


def _top5(source: RunSource, skipped: list[Skipped]) -> NamedFigures:
    """The assignment's top-5 figure of sampled or named images: one each, and one of all."""
    names = [record["path"] for record in source.run.records()]
    wanted, seed = classify.asked_top5(source, names)
    chosen = set(sample_names(names, wanted, seed))
    panels: list[Top5] = []
    stems = NewNames()
    for record in source.run.records():
        image = _opened(source.run, record["path"], skipped) if record["path"] in chosen else None
        if image is None:
            continue
        panels.append(_top5_panel(source.run, record, image))
        yield f"top5-{stems.of(record['path'])}", top5_grid_figure([panels[-1]])
    if len(panels) > 1:
        yield "top5", top5_grid_figure(panels)


def _opened(run: Run, path: str, skipped: list[Skipped]) -> Image | None:
    """The image that a record names; None where it must not or cannot be opened."""
    place = run.image_path(path)
    try:
        if place is not None:
            return open_image(place)
        reason = not_opened(run, path)
    except UnreadableImage as error:
        reason = error.reason
    skipped.append(Skipped(path, f"no figure of it: {reason}"))
    return None


def _top5_panel(run: Run, record: Mapping[str, Any], image: Image) -> Top5:
    template, truth = run.metrics["prompts"][0]["template"], record.get("truth")

    def words(name: str) -> str:
        """As in the assignment the bars are labelled by the prompt, where one prompt was asked."""
        return fill(template, name) if template else name

    return Top5(
        image,
        [words(item["name"]) for item in record["top"][:5]],
        [item["probability"] for item in record["top"][:5]],
        truth=None if truth is None else words(record.get("truth_name") or truth),
        title=record["path"],
    )


def _prompts(source: RunSource, _: list[Skipped]) -> NamedFigures:
    """Accuracy, reliability and changes by class need the truth; agreement and negation do not."""
    from captune.zeroshot.template_comparison import read_template_comparison

    comparison = read_template_comparison(source.run)
    probes = source.run.typed_metrics(PromptsMetrics).negation
    yield "agreement", agreement_figure(comparison)
    if probes:
        yield "negation", negation_figure(probes)
    if comparison.best is None:
        return
    yield "accuracy", prompt_comparison_figure(comparison)
    for index in _telling(comparison):
        result = comparison.results[index]
        if result.calibration is not None:
            figure = reliability_figure(result.calibration, result.template)
            yield f"reliability-{index + 1}", figure
        if index != comparison.best:
            yield f"classes-{index + 1}", class_change_figure(comparison, index)


def _telling(comparison: TemplateComparison) -> list[int]:
    """The templates that get figures of their own: all of a few, else best, worst and ensemble."""
    accuracies = [result.accuracy or 0.0 for result in comparison.results]
    if len(accuracies) <= _FIGURES_EACH:
        return list(range(len(accuracies)))
    chosen = {comparison.best, int(np.argmin(accuracies)), comparison.ensemble}
    return sorted(index for index in chosen if index is not None)


def _tune(source: RunSource, _: list[Skipped]) -> NamedFigures:
    methods = source.run.typed_metrics(TuneMetrics).every
    yield "curves", curves_figure(methods, tune.selecting_score(tune.methods_of(source)))
    if source.run.metrics.get("curve") is not None:
        yield "images", images_figure(convert(source.at("curve"), Curve))


def _compare(source: RunSource, _: list[Skipped]) -> NamedFigures:
    from captune.scoring.compare import read_comparison

    comparison = read_comparison(source.run)
    if comparison.images > 1:
        yield "differences", difference_figure(comparison)
    for metric in comparison.metrics:
        yield f"images-{_file_name(metric)}", image_difference_figure(comparison, metric)


def _explain(source: RunSource, skipped: list[Skipped]) -> NamedFigures:
    """The assignment's figure: the image, then a panel a word."""
    run = source.run
    colours = source.option("colours", str, "")
    colours = colours if colours in COLOURS else COLOURS[0]
    subtitle = f"map: {described(run.metrics['map'])}"
    for record in run.records():
        image = _opened(run, record["path"], skipped)
        if image is None:
            continue
        words, maps = read_maps(run, record)
        scale = _SHOWN_PX / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        edges = record.get("frame")
        frame = whole_frame(*image.size) if edges is None else Frame(*image.size, *edges)
        marks = [(word.get("faithfulness") or {}).get("mark", "") for word in record["words"]]
        panels = [
            MapPanel(word, own, mark, mark == BETTER)
            for word, own, mark in zip(words, frame.over_image(maps, size), marks, strict=True)
        ]
        said = f"{subtitle}; the first {_PANELS} of {len(panels)} words"
        figure = maps_figure(
            image,
            panels[:_PANELS],
            caption=record["caption"],
            subtitle=said if len(panels) > _PANELS else subtitle,
            colours=colours,
        )
        yield "words-" + PurePosixPath(record["maps"]).stem, figure


_FIGURES: dict[str, Callable[[RunSource, list[Skipped]], NamedFigures]] = {
    "classify": _classify,
    "prompts": _prompts,
    "tune": _tune,
    "compare": _compare,
    "explain": _explain,
}


def _pairs(page: Page, say: Callable[[str], None]) -> NamedFigures:
    from captune.pages.rank import pairs_of

    found = CaptionSources(page.runs)
    for one in found.sets:
        if one.is_unusable:
            say(f"{one.tag}: no figure of its best and worst pairs")
            continue
        for metric in catalogue.leading(one.metrics):
            ranking = captions.ranking_of(one, found.images, metric, page.settings, find_files=True)
            if ranking.root is None:
                say(f"{one.tag}: no images are known, so its pairs are captions alone")
            yield f"pairs-{_file_name(one.tag)}-{_file_name(metric)}", pairs_of(ranking)


def _copied(source: RunSource, folder: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Figures that the run drew itself, as it drew them; of a run of this machine alone."""
    paths = sorted((source.run.folder / "plots").glob("*"))
    if paths and not source.run.is_own:
        say(f"{source.name}: this captune did not draw its figures, so they are not copied")
        return
    for path in paths:
        if path.suffix in EXPORTED and path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            yield Path(shutil.copyfile(path, folder / path.name))
