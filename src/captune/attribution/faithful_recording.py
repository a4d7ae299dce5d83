"""A leaderboard as files: the run folder, the table, and the default map beside the captioner.

leaderboard.csv     a row a map and set of images, every figure with its interval
records.jsonl       a line an image: what the default map of each word is worth
explain.json        the default map, as `captune explain --layer auto` reads it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from captune.attribution.default import DefaultMap, write_default
from captune.attribution.faithful import Faithful
from captune.attribution.measure import DELETION, INSERTION, POINTING, RANDOM
from captune.attribution.results import Row
from captune.captioning.loading import LITE
from captune.errors import UserError
from captune.files import home_path, printable
from captune.options import FaithfulOptions
from captune.runs import RunWriter
from captune.tables import of_mappings, write_csv

TABLE = "leaderboard.csv"
SCREENED, CHOSEN = "screening, one mask", f"{INSERTION} and {DELETION}, the images chosen on"


def check_place(options: FaithfulOptions, place: Path) -> None:
    """Raises UserError where the run would be written over the captioner itself."""
    out = options.out.resolve()
    if out in (place.resolve(), home_path(options.model).resolve()):
        raise UserError(
            f"--out {printable(str(options.out))}: is the captioner's own run; name another folder"
            " (the default map is stored beside the captioner anyway)"
        )


def write_faithful(options: FaithfulOptions, found: Faithful, command: Sequence[str]) -> None:
    """Write the run, then the default map there and, where it is a run of yours, to the captioner.

    What comes with captune is not changed: `lite` has its default from the package.
    """
    with RunWriter(
        options.out,
        kind="faithful",
        options=options,
        root=found.root,
        models=found.models,
        command=command,
    ) as run:
        for record in found.records:
            run.record(record)
        run.metrics = {"images": found.images, **content(found)}
        _write_table(run.file_path(TABLE), found)
    found.written["run"] = options.out
    found.written["table"] = options.out / TABLE
    default = default_of(found)
    write_default(options.out, default)
    if options.model != LITE:
        write_default(found.place, default)
        found.written["default"] = found.place / "explain.json"


def default_of(found: Faithful) -> DefaultMap:
    """The default map with the figures that speak for it, of the report to quote."""
    report = found.reports[0]
    rows = {row.name: row for row in report.rows}
    own, random = rows[found.default], rows[RANDOM]
    figures: dict[str, Any] = {"on": report.title, "hidden": found.hidden}
    for measure in (INSERTION, DELETION, POINTING):
        if measure in own.figures:
            figure = own.figures[measure]
            figures[measure] = round(figure.value, 4)
            figures[f"{measure}_interval"] = [round(value, 4) for value in figure.interval]
    for measure in (INSERTION, DELETION):
        if measure in random.figures:
            figures[f"random_{measure}"] = round(random.figures[measure].value, 4)
    if own.pointing_centre is not None:
        figures["pointing_centre"] = round(own.pointing_centre.value, 4)
    return DefaultMap(found.default.method, found.default.choice, figures, found.sentence)


def content(found: Faithful) -> dict[str, Any]:
    """What `--json` and metrics.json hold."""
    return {
        "rows": [row.as_json() for row in found.reports[0].rows],
        "default": {
            "method": found.default.method,
            "layer": found.default.choice.layer,
            "head": found.default.choice.head,
            "sentence": found.sentence,
        },
        "sentences": found.reports[0].sentences,
        "hidden": found.hidden,
        "reports": [report.as_json() for report in found.reports],
        "chosen": [row.as_json() for row in found.chosen],
        "screened": [row.as_json() for row in found.screened],
        "sanity": {
            "cascade": [
                {"randomised": stage.randomised, "correlation": stage.correlation}
                for stage in found.sanity.stages
            ],
            "entropy": found.sanity.entropy,
            "shift": found.sanity.shift,
            "sentences": found.sanity.told,
        },
        "stages": found.stages,
        "skipped": [{"path": item.path, "reason": item.reason} for item in found.skipped],
        "notes": found.notes,
        "seconds": found.seconds,
    }


def _write_table(path: Path, found: Faithful) -> None:
    write_csv(path, of_mappings(_table(found)))


def _table(found: Faithful) -> Iterator[dict[str, Any]]:
    stages: list[tuple[str, Sequence[Row]]] = [
        *((report.title, report.rows) for report in found.reports),
        (CHOSEN, found.chosen),
        (SCREENED, found.screened),
    ]
    for stage, rows in stages:
        for row in rows:
            cells: dict[str, Any] = {"images_and_captions": stage}
            for name, value in row.as_json().items():
                if name.startswith("better_than"):
                    continue
                if name.endswith("_interval"):
                    bare = name.removesuffix("_interval")
                    low, high = value or (None, None)
                    cells |= {f"{bare}_low": low, f"{bare}_high": high}
                else:
                    cells[name] = value
            yield cells | {"worth": row.worth}
