"""`captune score`: how good captions are, by metrics that name their recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captune.cli.terminal import print_json, print_written, told
from captune.errors import UserError
from captune.files import printable
from captune.options import ScoreOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted

if TYPE_CHECKING:
    from captune.scoring.recording import ScoreResult
    from captune.scoring.verification import Verification

HELP = "score captions: CIDEr, BLEU, ROUGE-L, CLIPScore"
EXAMPLES = """  captune score captions.json --references captions_val.json
  captune score captions.json --references val.json --images val/ --out runs/score
  captune score captions.json --images images/ --metrics clipscore --model open_clip:ViT-B-32/openai
  captune score few.json --references few_refs.json --df coco-val2017
  captune score captions.json --references val.json --per-image scores.csv --json
  captune score --verify runs/score/metrics.json"""

_SENTENCES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ScoreOptions)


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and write what was asked for; or verify an earlier score."""
    from captune.scoring.recording import score_captions

    options = read_options(ScoreOptions, arguments)
    if options.verify is not None:
        return _verify(options, arguments)
    result = score_captions(options, **told(arguments))
    if arguments.json:
        print_json({"command": "score", **result.summary()})
    else:
        _print_table(result)
    return 0


def _verify(options: ScoreOptions, arguments: argparse.Namespace) -> int:
    from captune.scoring.verification import verify

    heard = told(arguments)
    found = verify(options, bar=heard["bar"], say=heard["say"])
    if arguments.json:
        print_json({"command": "score", **found.summary()})
    else:
        _print_checks(found)
    if not found.holds and not arguments.json:
        raise UserError(f"{printable(str(found.file))}: does not hold; {_what_failed(found)}")
    return 0 if found.holds else 2


def _what_failed(found: Verification) -> str:
    broken = ", ".join(check.metric for check in found.checks if not check.holds)
    return "; ".join([*found.changed, *([f"{broken} came out otherwise"] if broken else [])])


def _print_checks(found: Verification) -> None:
    from rich.table import Table

    out = console()
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "recorded", "computed", "holds"):
        table.add_column(heading)
    for check in found.checks:
        holds = "yes" if check.holds else "NO"
        table.add_row(check.name, f"{check.recorded:.6f}", f"{check.computed:.6f}", holds)
    out.print(table)
    if found.holds:
        images = counted(found.images, "image")
        sentence = f"{found.file}: holds, {images} scored again"
        out.print(sentence, soft_wrap=True)


def _print_table(result: ScoreResult) -> None:
    from rich.table import Table

    from captune.metrics.catalogue import metric_of

    out = console()
    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "score", "95 % interval", "recipe"):
        table.add_column(heading)
    for id, score in result.scored.scores.items():
        interval = result.intervals[id]
        table.add_row(
            metric_of(id).label,
            f"{score.corpus:.4f}",
            "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}",
            score.name,
        )
    out.print(table)
    out.print(counted(result.images, "image"))
    if result.agreement is not None:
        sentences = result.agreement.sentences
        for sentence in sentences[:_SENTENCES]:
            out.print(sentence)
        if len(sentences) > _SENTENCES:
            out.print(f"... and {counted(len(sentences) - _SENTENCES, 'pair')} more (--json)")
    print_written(out, result.written)
