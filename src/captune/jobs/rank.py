"""`captune rank`: the best and the worst pairs of image and caption, as a gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import check_folder_name
from captune.jobs import Result
from captune.options.captioning import ExplainOptions
from captune.options.codec import from_python
from captune.options.scoring import RankOptions
from captune.progress import SILENT, Progress
from captune.runs import read_run
from captune.runs.writer import locked_folder
from captune.scoring.rank import Pair, Ranking, rank_run
from captune.tables import Column, Table, number, numbers
from captune.text import counted, decimal
from captune_metrics.display import shorten

if TYPE_CHECKING:
    from captune.jobs.explain import ExplainResult

_SHOWN = 10  # pairs at either end on a terminal


@dataclass(kw_only=True, eq=False)
class RankResult(Result):
    """A score run in the order of one metric.

    explained: the words of the pairs shown, with their maps, where that was asked for.
    """

    ranking: Ranking
    explained: ExplainResult | None = None

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
            "explained": None if self.explained is None else self.explained.summary(),
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
                *(number(pair.scores.get(metric), decimal) for metric in metrics),
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
            line += f": {decimal(metric.corpus)} over {counted(self.images, 'image')}"
        if metric.ends is not None:
            line += " (95 % {} to {})".format(*map(decimal, metric.ends))
        return [line, *([] if self.explained is None else self.explained.sentences())]


def rank(run_folder: str | Path, **options: Any) -> RankResult:
    """Rank the images of a score run by one metric, as `captune rank`.

    run_folder: of captune score. options: the fields of `RankOptions`, such as
    by="clipscore", top=20, out="gallery". Raises UserError for what cannot be done.
    """
    return run(from_python(RankOptions, run=run_folder, **options))


def run(
    options: RankOptions, progress: Progress = SILENT, *, command: Sequence[str] = ()
) -> RankResult:
    """Rank a score run; leave the gallery in its folder, or in `out`.

    Raises UserError for what cannot be done.
    """
    from captune.pages.rank import stem_of, write_gallery

    if options.out is not None:
        check_folder_name(options.out)
    folder = options.out or options.run
    ranking = rank_run(options)
    maps = folder / "maps" / stem_of(ranking)
    with locked_folder(folder):
        explained = None
        if options.explain:
            explained = _explain(ranking, options.model, maps, progress, command)
        written, skipped = write_gallery(
            ranking,
            folder,
            command=command,
            raw_csv=options.raw_csv,
            explained=None if explained is None else maps,
        )
        if explained is not None:
            written |= {"maps": maps, "map figures": maps / "plots"}
    notes = ranking.remarks()
    for note in notes:
        progress.message(note)
    return RankResult(
        images=len(ranking.pairs),
        skipped=[*ranking.skipped, *skipped],
        notes=notes,
        written=written,
        ranking=ranking,
        explained=explained,
    )


def _explain(
    ranking: Ranking, model: str | None, out: Path, progress: Progress, command: Sequence[str]
) -> ExplainResult:
    """Explain the captions of both ends, as a run of captune explain."""
    pairs = {pair.image: pair for pair in (*ranking.best, *ranking.worst)}
    captions = {
        str(ranking.places[image]): pair.caption
        for image, pair in pairs.items()
        if image in ranking.places
    }
    if not captions:
        raise UserError("--explain: no image of these pairs is known; --images DIR says where")
    from captune.jobs import explain

    options = ExplainOptions(
        images=list(captions), model=model or _captioner(ranking, progress), out=out, overwrite=True
    )
    return explain.run(options, progress, command=command, captions=captions)


def _captioner(ranking: Ranking, progress: Progress) -> str:
    """The captioner of the run whose captions were scored; lite where nobody knows."""
    run = ranking.run
    scored = Path(str(run.about["options"].get("candidates")))
    # of a run from elsewhere no model is loaded
    if run.is_own and (scored / "run.json").is_file():
        source = read_run(scored)
        if source.kind == "caption":
            return str(source.about["models"][0]["spec"])
        if source.kind == "tune":
            return str(scored)
    progress.message(
        "the maps are those of lite, which may not have written these captions; name the captioner"
        " that did with --model"
    )
    return "lite"


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
