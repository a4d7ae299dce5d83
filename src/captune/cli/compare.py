"""`captune compare`: which of two sets of captions is better, by how much, and is it luck?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captune.cli.terminal import print_json, print_written, told
from captune.options import CompareOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted, p_value

if TYPE_CHECKING:
    from rich.console import Console

    from captune.runs.metrics import ImageDifference
    from captune.scoring.comparison_recording import CompareResult
    from captune.statistics import Interval

HELP = "compare two sets of captions of the same images: which is better, and is it luck?"
EXAMPLES = """  captune compare lora.json prefix.json --references captions_val.json
  captune compare runs/lora runs/prefix --references val.json --images val/ \\
      --metrics cider,clipscore --out runs/lora-prefix
  captune compare a.csv b.csv --references refs.csv --csv both.csv --json"""

_SHOWN = 3  # images on either side that a person reads on a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, CompareOptions)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print, and write and draw what was asked for."""
    from captune.runs.place import run_place
    from captune.scoring import comparison_recording

    options = read_options(CompareOptions, arguments)
    heard = told(arguments)
    with run_place(options, "compare", heard["say"]):
        result = comparison_recording.run(options, **heard)
        if options.out is not None:
            from captune.pages.figures import draw_figures
            from captune.runs import read_run

            for _ in draw_figures(read_run(options.out), []):
                result.written["plots"] = options.out / "plots"
    if arguments.json:
        print_json({"command": "compare", **result.summary()})
    else:
        _print(result)
    return 0


def _print(result: CompareResult) -> None:
    out = console()
    comparison = result.comparison
    for side, source in (("A", comparison.a), ("B", comparison.b)):
        out.print(f"{side}: {source}", soft_wrap=True)
    out.print(
        f"{counted(comparison.images, 'image')}, {comparison.changed:,} with different captions"
    )
    if not comparison.identical and result.top:
        _print_images(result, out)
    _print_metrics(result, out)
    out.print()
    for sentence in comparison.verdicts():
        out.print(sentence)
    print_written(out, result.written)


def _print_metrics(result: CompareResult, out: Console) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("metric", no_wrap=True)
    for heading in ("A", "B", "B - A", "p (Holm)", "d_z", "B/A/equal"):
        table.add_column(heading, justify="right")
    for metric in result.comparison.metrics.values():
        table.add_row(
            metric.title,
            _with_interval(f"{metric.a:.4f}", metric.a_interval, 4),
            _with_interval(f"{metric.b:.4f}", metric.b_interval, 4),
            _with_interval(
                f"{metric.difference:+.{metric.digits}f}", metric.interval, metric.digits
            ),
            "" if metric.p_holm is None else p_value(metric.p_holm),
            "" if metric.effect is None else f"{metric.effect:+.2f}",
            f"{metric.b_better:,}/{metric.a_better:,}/{metric.equal:,}",
        )
    out.print()
    out.print(table)
    names = "; ".join(metric.name for metric in result.comparison.metrics.values())
    out.print(f"recipes: {names}")
    out.print(
        "[low, high]: 95 %, by resampling images; p: swapping A and B by chance, raised for the "
        "number of metrics (Holm); d_z: mean difference in standard deviations of it; B/A/equal: "
        "images that score higher in B, in A, and the same in both"
    )


def _with_interval(number: str, interval: Interval | None, digits: int) -> str:
    if interval is None:
        return number
    return f"{number} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _leading(metrics: list[str]) -> str:
    """CIDEr-D where it was asked for; else the first, a BLEU of fewer than four words last."""
    short = ("bleu_1", "bleu_2", "bleu_3")
    return "cider" if "cider" in metrics else min(metrics, key=short.__contains__)


def _print_images(result: CompareResult, out: Console) -> None:
    """The images where each side is furthest ahead, by the metric that a reader looks at first."""
    metrics = result.comparison.metrics
    leading = metrics[_leading(list(metrics))]
    differing = result.comparison.largest_differences(leading.metric, result.top)
    for side, other, items in (("B", "A", differing.b_better), ("A", "B", differing.a_better)):
        if not items:
            continue
        out.print()
        shown = f", the first {_SHOWN} of {len(items)}" if len(items) > _SHOWN else ""
        ahead = f"{side} is furthest ahead of {other} in {leading.title}{shown}:"
        out.print(ahead)
        for item in items[:_SHOWN]:
            _print_image(item, out)
    if any(len(items) > _SHOWN for items in (differing.b_better, differing.a_better)):
        out.print("  all of them, and those of the other metrics: --json, or the run of --out")


def _print_image(item: ImageDifference, out: Console) -> None:
    out.print(f"  {item.image}  {item.difference:+.3f}")
    for side, one in (("A", item.a), ("B", item.b)):
        out.print(f"    {side} {one.score:7.3f}  {one.caption.strip() or '(empty)'}")
    if item.references:
        more = f"  (and {len(item.references) - 1} more)" if len(item.references) > 1 else ""
        out.print(f"    reference  {item.references[0].strip()}{more}")
