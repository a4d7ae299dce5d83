"""`captune rank`: which pairs of picture and caption are the best and the worst?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from captune.cli.terminal import (
    command_line,
    note,
    print_json,
    print_written,
    report_skipped,
)
from captune.options import RankOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted, score, shorten

if TYPE_CHECKING:
    from captune.pages.rank import Gallery
    from captune.scoring.rank import Pair, Ranking

HELP = "the best and the worst pairs of picture and caption, as a gallery"
EXAMPLES = """  captune rank runs/score --by clipscore
  captune rank runs/score --by cider --top 20 --out gallery
  captune rank runs/score --by bleu_4 --images images/val --json"""
_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, RankOptions)


def run(arguments: argparse.Namespace) -> int:
    """Rank, write the gallery, and print both ends."""
    from captune.scoring.rank import rank_run

    options = read_options(RankOptions, arguments)
    ranking = rank_run(options)
    from captune.pages.rank import write_gallery
    from captune.runs.place import locked

    folder = options.run if options.out is None else options.out
    with locked(folder):
        gallery = write_gallery(
            ranking, folder, command=command_line(arguments), raw_csv=options.raw_csv
        )
    for remark in ranking.remarks():
        note(remark, quiet=arguments.json)
    report_skipped(gallery.skipped, quiet=arguments.json)
    if arguments.json:
        print_json(_summary(ranking, gallery))
    else:
        _print(ranking, gallery)
    return 0


def _summary(ranking: Ranking, gallery: Gallery) -> dict[str, Any]:
    metric = ranking.metrics[ranking.by]
    return {
        "command": "rank",
        "run": str(ranking.run.folder),
        "images": len(ranking.pairs),
        "skipped": [
            {"path": item.path, "reason": item.reason}
            for item in (*ranking.skipped, *gallery.skipped)
        ],
        "by": ranking.by,
        "name": metric.name,
        "corpus": metric.corpus,
        "interval": metric.ends,
        "best": [_entry(ranking, pair) for pair in ranking.best],
        "worst": [_entry(ranking, pair) for pair in ranking.worst],
        "notes": ranking.remarks(),
        "written": {what: str(path) for what, path in gallery.written.items()},
    }


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


def _print(ranking: Ranking, gallery: Gallery) -> None:
    out = console()
    if len(ranking.pairs) == 1:
        out.print(_table(ranking, "the only pair", ranking.best))
    else:
        out.print(_table(ranking, "best", ranking.best))
        out.print(_table(ranking, "worst", ranking.worst))
    metric = ranking.metrics[ranking.by]
    line = metric.name or ranking.by
    if metric.corpus is not None:
        line += f": {score(metric.corpus)} over {counted(len(ranking.pairs), 'image')}"
    if metric.ends is not None:
        low, high = metric.ends
        line += f" (95 % {score(low)} to {score(high)})"
    out.print(line)
    print_written(out, gallery.written)


def _table(ranking: Ranking, title: str, pairs: list[Pair]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    metrics = [ranking.by, *ranking.quoted]
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column("image", overflow="fold", max_width=28)
    table.add_column("caption", overflow="fold")
    for pair in pairs[:_SHOWN]:
        scores = [score(pair.scores[metric]) if metric in pair.scores else "" for metric in metrics]
        words = (pair.path or pair.image, shorten(pair.caption.strip(), 120))
        table.add_row(str(pair.rank), *scores, *words)
    if len(pairs) > _SHOWN:
        table.caption = f"... and {len(pairs) - _SHOWN} more on the page"
        table.caption_justify = "left"
    return table
