"""Figures of a run folder, drawn from its records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from captune.errors import UserError
from captune.images import UnreadableImage, open_image
from captune.images.match import named_image
from captune.pages.thumbnails import not_opened
from captune.plots import (
    Top5,
    agreement_figure,
    class_change_figure,
    negation_figure,
    prompt_comparison_figure,
    reliability_figure,
    save_figure,
    top5_grid_figure,
)
from captune.runs import Run
from captune.zeroshot.negation import NegationProbe
from captune.zeroshot.prompts import fill
from captune.zeroshot.template_comparison import TemplateComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg")
_FIGURES_EACH = 6


def draw_top5(
    run: Run,
    wanted: Sequence[str],
    *,
    seed: int,
    folder: Path | None = None,
    endings: Sequence[str] = ENDINGS,
) -> list[Path]:
    """The assignment's top-5 figure of sampled or named images, into the run's plots.

    wanted: numbers (so many images are sampled) and names of images. A figure each, and one of all
    where there are several. folder, endings: to write elsewhere, and other kinds of files.
    Raises UserError for a name that is not among the run's images.
    """
    folder = run.folder / "plots" if folder is None else folder
    chosen = set(sample_names([record["path"] for record in run.records()], wanted, seed))
    paths: list[Path] = []
    panels: list[Top5] = []
    taken: set[str] = set()
    for record in run.records():
        if record["path"] in chosen:
            panel = _panel(run, record)
            panels.append(panel)
            stem = "top5-" + _file_name(record["path"])
            if stem in taken:  # a/b.png and a-b.jpg have one spelling
                stem += f"-{len(panels)}"
            taken.add(stem)
            paths += save_as(top5_grid_figure([panel]), folder / stem, endings)
    if len(panels) > 1:
        paths += save_as(top5_grid_figure(panels), folder / "top5", endings)
    return paths


def draw_prompt_study(
    comparison: TemplateComparison,
    probes: Sequence[NegationProbe],
    folder: Path,
    endings: Sequence[str] = ENDINGS,
) -> list[Path]:
    """Every figure of a comparison of prompts, into `folder`; returns their paths.

    Accuracy, reliability and changes by class need the truth; agreement and negation do not.
    """
    paths = save_as(agreement_figure(comparison), folder / "agreement", endings)
    if probes:
        paths += save_as(negation_figure(probes), folder / "negation", endings)
    if comparison.best is None:
        return paths
    paths += save_as(prompt_comparison_figure(comparison), folder / "accuracy", endings)
    for index in _telling(comparison):
        result = comparison.results[index]
        if result.calibration is not None:
            figure = reliability_figure(result.calibration, result.template)
            paths += save_as(figure, folder / f"reliability-{index + 1}", endings)
        if index != comparison.best:
            figure = class_change_figure(comparison, index)
            paths += save_as(figure, folder / f"classes-{index + 1}", endings)
    return paths


def _telling(comparison: TemplateComparison) -> list[int]:
    """The templates that get figures of their own: all of a few, else best, worst and ensemble."""
    accuracies = [result.accuracy or 0.0 for result in comparison.results]
    if len(accuracies) <= _FIGURES_EACH:
        return list(range(len(accuracies)))
    chosen = {comparison.best, int(np.argmin(accuracies)), comparison.ensemble}
    return sorted(index for index in chosen if index is not None)


def save_as(figure: Figure, path: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Write a figure as several kinds of files; `path` has no ending yet."""
    return [save_figure(figure, path.with_name(path.name + ending)) for ending in endings]


def _file_name(image: str) -> str:
    """An image's relative path as a plain file name that every system accepts."""
    stem = image.rpartition(".")[0] or image
    return re.sub(r"[^\w-]+", "-", stem).encode("ascii", "replace").decode().replace("?", "-")[:80]


def _panel(run: Run, record: dict[str, Any]) -> Top5:
    place = run.image_path(record["path"])
    if place is None:
        raise UserError(f"{record['path']}: {not_opened(run, record['path'])}")
    try:
        image = open_image(place)
    except UnreadableImage as error:
        raise UserError(f"{record['path']}: changed since it was read ({error.reason})") from None
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


def sample_names(images: Sequence[str], wanted: Sequence[str], seed: int) -> list[str]:
    """File names for the top-5 figures: a number samples so many, a name is taken as given.

    Raises UserError for a name that is not among the images.
    """
    names = list(images)
    chosen: list[str] = []
    for word in wanted:
        if word.isdecimal():
            generator = np.random.default_rng(seed)
            count = min(int(word), len(names))
            chosen.extend(
                names[i] for i in sorted(generator.choice(len(names), count, replace=False))
            )
        else:
            chosen.append(named_image(word, names))
    return list(dict.fromkeys(chosen))
