"""What a page shows, as files: every table as CSV, every figure as PNG, SVG and PDF.

The page's own drawings follow its style sheet; these are the figures of `captune.plots`, as wide as
the text of a paper.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from captune.errors import UserError
from captune.metrics import catalogue
from captune.pages import answers, captions
from captune.pages.blocks import blocks_of
from captune.pages.figures import draw_prompt_study, draw_top5, sample_names, save_as
from captune.pages.numbers import Source
from captune.pages.page import Report
from captune.pages.tuning import leading, methods_of
from captune.pages.writers import read_writers
from captune.tables import Table, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
_MOST_MAPS = 20
Say = Callable[[str], None]


def export(
    report: Report, folder: Path, *, say: Say = lambda sentence: None, raw_csv: bool = False
) -> list[Path]:
    """Write all into `folder`; returns the files. say: told of what could not be drawn.

    raw_csv: cells that a spreadsheet would run as formulas stay as they are.
    Raises UserError where a file cannot be written.
    """
    written = []
    for part in report.sections:
        for table in blocks_of(part.blocks, Table):
            path = folder / "tables" / f"{table.name}.csv"
            write_csv(path, table.values(), raw=raw_csv)
            written.append(path)
    for source in report.given.of_kind("classify"):
        written += _classified(source, report, folder / _plain(source.name), say)
    for source in report.given.of_kind("prompts"):
        from captune.zeroshot.negation import read_probe
        from captune.zeroshot.template_comparison import read_comparison

        comparison = read_comparison(source.run)
        probes = [read_probe(row) for row in source.run.metrics["negation"]]
        written += draw_prompt_study(comparison, probes, folder / _plain(source.name), ENDINGS)
    for source in report.given.sources:
        for name, figure in _drawn(source, report):
            written += save_as(figure, folder / _plain(source.name) / name, ENDINGS)
    for name, figure in _pairs(report, say):
        written += save_as(figure, folder / name, ENDINGS)
    for source in report.given.of_kind("faithful"):
        written += _copied(source, folder / _plain(source.name), say)
    return written


def _plain(name: str) -> str:
    """A name of a run as one of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".") or "run"


def _classified(source: Source, report: Report, folder: Path, say: Say) -> Iterator[Path]:
    from captune.plots import confusion_figure, reliability_figure
    from captune.statistics.calibration import Calibration

    found = answers.find(source, report.settings)
    if found.confusion:
        ids = answers.ids_of(found)
        place = {id: i for i, id in enumerate(ids)}
        counts = np.zeros((len(ids), len(ids)), dtype=np.int64)
        for (truth, said), n in found.confusion.items():
            counts[place[truth], place[said]] = n
        names = [found.names[id] for id in ids]
        yield from save_as(confusion_figure(counts, names), folder / "confusions", ENDINGS)
        calibration = Calibration(answers.reliability_of(found), None, None)
        yield from save_as(reliability_figure(calibration), folder / "reliability", ENDINGS)
    names = [record["path"] for record in found.records]
    wanted, seed = answers.asked_top5(source, names)
    try:
        sample_names(names, wanted, seed)
        yield from draw_top5(source.run, wanted, seed=seed, folder=folder, endings=ENDINGS)
    except UserError as error:
        say(f"no top-5 figures: {error}")


def _drawn(source: Source, report: Report) -> Iterator[tuple[str, Figure]]:
    kind = source.run.kind
    if kind == "tune":
        yield from _tuned(source, report)
    elif kind == "compare":
        yield from _compared(source)
    elif kind == "explain":
        yield from _explained(source)


def _tuned(source: Source, report: Report) -> Iterator[tuple[str, Figure]]:
    from captune.plots.tuning import Curves, curves_figure

    methods = methods_of(source, report.given)
    if source.run.metrics.get("tuned") is not None and source not in report.given.of_kind("tune"):
        return  # its curve is in its tune's figure
    curves = [
        Curves(
            method.name,
            [(epoch, loss) for epoch, loss in method.at("history", "losses") if loss is not None],
            method.at("history", "epochs"),
            method.at("best_epoch"),
        )
        for method in methods
    ]
    yield "curves", curves_figure(curves, leading(methods, source))


def _compared(source: Source) -> Iterator[tuple[str, Figure]]:
    from captune.plots import difference_figure, image_difference_figure
    from captune.scoring.compare import read_comparison

    comparison = read_comparison(source.run)
    if comparison.images > 1:
        yield "differences", difference_figure(comparison)
    for metric in comparison.metrics:
        yield f"images-{_plain(metric)}", image_difference_figure(comparison, metric)


def _explained(source: Source) -> Iterator[tuple[str, Figure]]:
    from captune.pages.map_figures import drawn_maps

    for number, drawn in enumerate(drawn_maps(source.run, [])):
        if number == _MOST_MAPS:
            return
        yield drawn


def _pairs(report: Report, say: Say) -> Iterator[tuple[str, Figure]]:
    """Best and worst of each writer by each score that the page quotes."""
    from captune.pages.pairs import drawn_pairs

    found = read_writers(report.given)
    for writer in found.writers:
        for metric in catalogue.leading(writer.metrics):
            ranking = captions.ranking_of(writer, found, metric, report.settings, images=True)
            if ranking.root is None:
                say(f"{writer.tag}: no images are known, so its pairs are captions alone")
            yield f"pairs-{_plain(writer.tag)}-{_plain(metric)}", drawn_pairs(ranking)


def _copied(source: Source, folder: Path, say: Say) -> Iterator[Path]:
    """Figures that the run drew itself, as it drew them; of a run of this machine alone."""
    paths = sorted((source.run.folder / "plots").glob("*"))
    if paths and not source.run.is_own:
        say(f"{source.name}: this captune did not draw its figures, so they are not copied")
        return
    for path in paths:
        if path.suffix in ENDINGS and path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            yield Path(shutil.copyfile(path, folder / path.name))
