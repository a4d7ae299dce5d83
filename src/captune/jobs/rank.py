"""`captune rank`: the best and the worst pairs of image and caption, as a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.jobs import Result
from captune.options import RankOptions
from captune.options.codec import from_python
from captune.progress import SILENT, Progress
from captune.runs.place import locked
from captune.scoring.rank import Pair, Ranking, rank_run
from captune.tables import Column, Table, number, numbers
from captune.text import counted, score
from captune_metrics.text import shorten

_SHOWN = 10  # pairs at either end on a terminal


@dataclass(kw_only=True, eq=False)
class RankResult(Result):
    """A score run in the order of one metric."""

    ranking: Ranking

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        ranking = self.ranking
        metric = ranking.metrics[ranking.by]
        return super().summary() | {
            "run": str(ranking.run.folder),
            "by": ranking.by,
            "name": metric.name,
            "corpus": metric.corpus,
            "interval": metric.ends,
            "best": [_entry(ranking, pair) for pair in ranking.best],
            "worst": [_entry(ranking, pair) for pair in ranking.worst],
            "notes": self.notes,
        }

    def tables(self) -> list[Table]:
        """Both ends; of a single pair only one."""
        if len(self.ranking.pairs) == 1:
            return [self._end("best", "the only pair", self.ranking.best)]
        return [
            self._end("best", "best", self.ranking.best),
            self._end("worst", "worst", self.ranking.worst),
        ]

    def _end(self, name: str, caption: str, pairs: Sequence[Pair]) -> Table:
        metrics = [self.ranking.by, *self.ranking.quoted]
        columns = numbers("rank", *metrics)
        columns += [Column("image", wide=True), Column("caption", wide=True)]
        rows = [
            [
                pair.rank,
                *(number(pair.scores.get(metric), score) for metric in metrics),
                pair.path or pair.image,
                shorten(pair.caption.strip(), 120),
            ]
            for pair in pairs[:_SHOWN]
        ]
        more = len(pairs) - len(rows)
        note = f"... and {more} more on the page" if more else ""
        return Table(name, caption, columns, rows, note=note)

    def sentences(self) -> list[str]:
        """The metric over all images."""
        metric = self.ranking.metrics[self.ranking.by]
        line = metric.name or self.ranking.by
        if metric.corpus is not None:
            line += f": {score(metric.corpus)} over {counted(self.images, 'image')}"
        if metric.ends is not None:
            line += " (95 % {} to {})".format(*map(score, metric.ends))
        return [line]


def rank(run_folder: str | Path, **options: Any) -> RankResult:
    """Rank the images of a score run by one metric, as `captune rank`.

    run_folder: of captune score. options: the fields of `options.RankOptions`, such as
    by="clipscore", top=20, out="gallery". Raises UserError for what cannot be done.
    """
    return run(from_python(RankOptions, run=run_folder, **options))


def run(
    options: RankOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> RankResult:
    """Rank a score run; leave the gallery in its folder, or in `out`.

    Raises UserError for what cannot be done.
    """
    from captune.pages.rank import write_gallery

    ranking = rank_run(options)
    folder = options.run if options.out is None else options.out
    with locked(folder):
        written, skipped = write_gallery(ranking, folder, command=command, raw_csv=options.raw_csv)
    notes = ranking.remarks()
    for note in notes:
        progress.message(note)
    return RankResult(
        images=len(ranking.pairs),
        skipped=[*ranking.skipped, *skipped],
        notes=notes,
        written=written,
        ranking=ranking,
    )


def _entry(ranking: Ranking, pair: Pair) -> dict[str, Any]:
    return {
        "rank": pair.rank,
        "image": pair.image,
        "path": pair.path,
        "caption": pair.caption,
        "score": ranking.score(pair),
        "scores": dict(pair.scores),
        "references": list(pair.references),
    }
