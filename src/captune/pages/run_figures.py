"""The figures that a job leaves in its run folder, drawn from what it returned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from captune.plots import difference_figure, image_difference_figure, save_figure
from captune.plots.tuning import Curves, curves_figure

if TYPE_CHECKING:
    from captune.captioning.training.recording import TuneResult
    from captune.scoring.comparison_recording import CompareResult


def draw_curves(result: TuneResult, run: Path) -> Path:
    """How each method's training went, into the run's plots; the file."""
    curves = [
        Curves(
            one.method,
            [(epoch, loss) for epoch, loss in one.history["losses"]],
            one.history["epochs"],
            one.best_epoch,
        )
        for one in result.methods
    ]
    return save_figure(curves_figure(curves, result.select), run / "plots" / "curves.png")


def draw_differences(result: CompareResult, run: Path) -> Path:
    """Both sides of a comparison, in all and image by image, into the run's plots; the folder."""
    comparison, folder = result.comparison, run / "plots"
    if comparison.images > 1:
        save_figure(difference_figure(comparison), folder / "differences.png")
    for metric in comparison.metrics:
        name = "".join(sign if sign.isalnum() or sign in "-_" else "-" for sign in metric)
        figure = image_difference_figure(comparison, metric)
        save_figure(figure, folder / f"images-{name}.png")
    return folder
