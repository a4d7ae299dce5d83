"""`captune faithful`: are the maps true, and which of them deserves belief?"""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from captune.cli.terminal import (
    command_line,
    note,
    print_json,
    print_written,
    progress,
    report_skipped,
)
from captune.options import FaithfulOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import percent

if TYPE_CHECKING:
    from captune.attribution.faithful.job import Faithful
    from captune.attribution.faithful.results import EvalReport, MapResult

HELP = "measure whether a captioner's word maps are true, and find the one to believe"
EXAMPLES = """  captune faithful runs/tuned --images images/ --captions train.json --out runs/maps
  captune faithful lite --images coco/ --captions train.json --boxes instances_train.json \\
    --val-captions val.json --val-boxes instances_val.json --out runs/maps
  captune faithful runs/tuned --images images/ --captions train.json --quick --out runs/look --json

The map that it finds becomes the default of captune explain --model RUN."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, FaithfulOptions)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the run, draw, print the leaderboard."""
    options = read_options(FaithfulOptions, arguments)
    from captune.attribution.faithful.job import check_place, content, measure, write_faithful
    from captune.captioning.loading import captioner_folder
    from captune.runs.place import run_place

    check_place(options, captioner_folder(options.model))
    say = partial(note, quiet=arguments.json)
    with run_place(options, "faithful", say):
        found = measure(options, bar=partial(progress, quiet=arguments.json), say=say)
        write_faithful(options, found, command_line(arguments))
        _draw(options, found)
    report_skipped(found.skipped, quiet=arguments.json)
    if arguments.json:
        print_json(
            {
                "command": "faithful",
                "run": str(options.out),
                "images": found.images,
                "model": found.captioner,
                **content(found),
                "written": {what: str(path) for what, path in found.written.items()},
            }
        )
    else:
        _print(found)
    return 0


def _draw(options: FaithfulOptions, found: Faithful) -> None:
    from captune.plots import save_figure
    from captune.plots.faithful import curves_figure, leaderboard_figure

    for name, figure in (
        ("leaderboard", leaderboard_figure(found.reports, str(found.default))),
        ("curves", curves_figure(found.reports[0], str(found.default), found.hidden)),
    ):
        for ending in ("png", "svg"):
            save_figure(figure, options.out / "plots" / f"{name}.{ending}")
        found.written[name] = options.out / "plots" / f"{name}.png"


def _print(found: Faithful) -> None:

    out = console()
    for report in found.reports:
        out.print(_table(report, str(found.default)))
        for sentence in report.sentences:
            out.print(sentence, soft_wrap=True)
        out.print()
    for sentence in found.sanity.told:
        out.print(sentence, soft_wrap=True)
    out.print(f"hidden: {found.hidden} (95 % intervals in brackets)", soft_wrap=True)
    print_written(out, found.written)


def _table(report: EvalReport, default: str) -> Any:
    from rich.table import Table

    title = f"{report.title} ({report.images})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("map", "insertion", "deletion", "pointing", "centre", "overlap", "worth"):
        table.add_column(heading, no_wrap=True)
    for row in report.rows:
        mark = "*" if str(row.name) == default else ""
        table.add_row(f"{row.name}{mark}", *_cells(row))
    table.caption = "* the default map: chosen on other images, where there were others"
    table.caption_justify = "left"
    return table


def _cells(row: MapResult) -> list[str]:
    def cell(figure: Any, form: str) -> str:
        if figure is None:
            return "-"
        value, (low, high) = figure.value, figure.interval
        if form == "%":
            return f"{percent(value, 0)} [{100 * low:.0f}, {100 * high:.0f}]"
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    centre = row.pointing_centre
    return [
        cell(row.estimates.get("insertion"), ""),
        cell(row.estimates.get("deletion"), ""),
        cell(row.estimates.get("pointing"), "%"),
        "-" if centre is None else percent(centre.value, 0),
        cell(row.estimates.get("overlap"), ""),
        f"{row.advantage:+.2f}" if row.random or row.centre else "-",
    ]
