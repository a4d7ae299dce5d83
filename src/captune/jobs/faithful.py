"""`captune faithful`: measure whether a captioner's maps are faithful, and find the best one.

leaderboard.csv     a row per map and set of images, every figure with its interval
records.jsonl       a line per image: the measures of the default map of each word
explain.json        the default map, as `captune explain --layer auto` reads it
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.attribution.faithful.dataset import read_boxes
from captune.attribution.faithful.leaderboard import Evaluation
from captune.attribution.faithful.results import Leaderboard
from captune.captioning.any_captioner import Prepared, prepare_captioner
from captune.captioning.checkpoint import write_beside
from captune.captioning.dataset import CaptionDataset, leaked_ids, read_dataset
from captune.captioning.settings import EXPLAIN
from captune.errors import UserError
from captune.files import home_path, real_path
from captune.images import find_images
from captune.jobs import Result, page_tables
from captune.models.hub import silence_transformers
from captune.options.base import LITE
from captune.options.captioning import FaithfulOptions
from captune.options.codec import from_python
from captune.progress import SILENT, Noting, Progress
from captune.runs import RunWriter
from captune.runs.writer import run_place
from captune.tables import Table, of_mappings, write_csv
from captune_metrics.display import printable

TABLE = "leaderboard.csv"
QUICK = 16  # images of each stage, where a quick look is asked for


@dataclass(kw_only=True, eq=False)
class FaithfulResult(Result):
    """A leaderboard of a captioner's maps. captioner: as a run names it."""

    captioner: dict[str, Any]
    leaderboard: Leaderboard

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {**super().summary(), "model": self.captioner, **self.figures()}

    def figures(self) -> dict[str, Any]:
        """What metrics.json holds of the result."""
        return {
            "images": self.images,
            "skipped": super().summary()["skipped"],
            **self.leaderboard.as_json(),
            "notes": self.notes,
            "seconds": self.leaderboard.seconds,
        }

    def tables(self) -> list[Table]:
        """The maps of each set of images and captions."""
        return page_tables("faithful", self.figures())

    def sentences(self) -> list[str]:
        """What each set of images says of the default map, and the sanity checks."""
        board = self.leaderboard
        told = [
            f"{report.title}: {sentence}" if first else sentence
            for report in board.reports
            for first, sentence in zip([True, *[False] * 9], report.sentences, strict=False)
        ]
        hidden = f"hidden: {board.hidden} (95 % intervals in brackets)"
        return [*told, *board.sanity.sentences, hidden]


def faithful(
    model: str | Path, images: str | Path, captions: str | Path, out: str | Path, **options: Any
) -> FaithfulResult:
    """Find the map of a captioner that is the most faithful, as `captune faithful`.

    model: a run of captune tune, or "lite". images, captions: those that the map is chosen on. out:
    the run folder. options: the fields of `FaithfulOptions`, such as boxes=FILE,
    val_captions=FILE, minutes=10. Raises UserError for what cannot be done.
    """
    return run(
        from_python(
            FaithfulOptions, model=str(model), images=images, captions=captions, out=out, **options
        )
    )


def run(
    options: FaithfulOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> FaithfulResult:
    """Measure the maps, write the run and the default map, draw the figures, leave the page.

    command: the words that made this run, kept in it. Raises UserError for what cannot be done;
    unreadable images are named in the result.
    """
    prepared = prepare_captioner(options)
    folder = prepared.place
    if real_path(options.out) in (real_path(folder), real_path(home_path(options.model))):
        raise UserError(
            f"--out {printable(options.out)} is the captioner's own run; name another folder"
            " (the default map is stored beside the captioner anyway)"
        )
    with run_place(options, "faithful", progress.message):
        return _run(options, prepared, progress, command)


def _run(
    options: FaithfulOptions, prepared: Prepared, progress: Progress, command: Sequence[str]
) -> FaithfulResult:
    boxes, val_boxes = (
        read_boxes(path) if path else None for path in (options.boxes, options.val_boxes)
    )
    noting = Noting(progress, [])
    assert options.images is not None
    assert options.captions is not None
    train = _read(options.images, options.captions, options, noting)
    val = None
    if options.val_captions is not None:
        val_images = options.val_images or options.images
        val = _read(val_images, options.val_captions, options, noting)
        if both := leaked_ids(train, val):
            noting.message(
                f"{len(both):,} images that maps are chosen on are among those that are reported on"
            )
    with ExitStack() as stack:
        stack.enter_context(silence_transformers())
        captioner = prepared.load()
        total = len(train) + (len(val) if val else 0)
        cache = captioner.open_cache(options, total, stack, noting.message)
        evaluation = Evaluation(options, captioner, cache, noting)
        leaderboard = evaluation.run(train, boxes, val, val_boxes)
    about = prepared.about
    result = FaithfulResult(
        images=leaderboard.images,
        skipped=[*train.skipped, *(val.skipped if val else ()), *evaluation.skipped],
        notes=noting.notes,
        captioner=about,
        leaderboard=leaderboard,
    )
    root, models = (train if val is None else val).root, [about, *captioner.described()]
    with RunWriter(options.out, "faithful", options, root, models, command) as run:
        for record in leaderboard.records:
            run.record(record)
        run.metrics = result.figures()
        write_csv(run.file_path(TABLE), of_mappings(leaderboard.rows()))
    result.written |= {"run": options.out, "table": options.out / TABLE}
    write_beside(options.out / EXPLAIN, leaderboard.default_map())
    if options.model != LITE:  # whose default comes with the package
        result.written["default"] = prepared.place / EXPLAIN
        write_beside(result.written["default"], leaderboard.default_map())
    _draw(options.out, result)
    result.finish(options.out, progress)
    return result


def _read(
    images: Path, captions: Path, options: FaithfulOptions, progress: Progress
) -> CaptionDataset:
    limit = min(options.limit or QUICK, QUICK) if options.quick else options.limit
    data = read_dataset(captions, find_images([images]), limit=limit, seed=options.seed)
    for note in data.notes:
        progress.message(note)
    return data


def _draw(out: Path, result: FaithfulResult) -> None:
    from captune.plots import save_figure
    from captune.plots.maps import effect_curves_figure, leaderboard_figure

    board = result.leaderboard
    default = str(board.default)
    for name, figure in (
        ("leaderboard", leaderboard_figure(board.reports, default)),
        ("curves", effect_curves_figure(board.reports[0], default, board.hidden)),
    ):
        for ending in ("png", "svg"):
            save_figure(figure, out / "plots" / f"{name}.{ending}")
        result.written[name] = out / "plots" / f"{name}.png"
