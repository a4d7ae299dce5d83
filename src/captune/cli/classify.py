"""`captune classify`: recognise labels in images that nothing was trained on."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captune.cli.terminal import (
    print_json,
    print_written,
    report_skipped,
    told,
)
from captune.options import ClassifyOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted, percent

if TYPE_CHECKING:
    from captune.zeroshot.recording import ClassifyResult

HELP = "recognise any labels in images, without training"
EXAMPLES = """  captune classify images/ --labels cat,dog
  captune classify images/ --labels id2label.json --csv pred.csv
  captune classify images/ --labels id2label.json --truth from-name --out runs/zero-shot --top5 3
  captune classify images/ --labels names.txt --prompt openai-7 --ensemble mean
  captune classify images/ --labels names.txt --model open_clip:ViT-B-32/openai
  find . -name '*.jpg' | captune classify - --labels cat,dog --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ClassifyOptions)


def run(arguments: argparse.Namespace) -> int:
    """Classify, print, and write what was asked for."""
    from captune.runs.place import run_place
    from captune.zeroshot.recording import classify_images

    options = read_options(ClassifyOptions, arguments)
    heard = told(arguments)
    with run_place(options, "classify", heard["say"]):
        result = classify_images(options, **heard)
        report_skipped(result.skipped, quiet=arguments.json)
        if options.out is not None:
            _draw(options, result)
    if arguments.json:
        print_json({"command": "classify", **result.summary()})
    else:
        _print_table(result)
    return 0


def _draw(options: ClassifyOptions, result: ClassifyResult) -> None:
    """The page of the run, and the top-5 figures that were asked for."""
    from captune.pages.classification import write_page
    from captune.pages.figures import draw_top5
    from captune.runs import read_run

    assert options.out is not None
    run = read_run(options.out)
    page = options.out / "report.html"
    write_page(run, page)
    result.written["page"] = page
    if options.top5:
        figures = draw_top5(run, options.top5, seed=options.seed)
        result.written["top-5 figures"] = figures[0].parent


def _print_table(result: ClassifyResult) -> None:
    from rich.table import Table

    out = console()
    if result.shown:
        table = Table(box=None, pad_edge=False)
        for heading in ("image", "label", "", "next"):
            table.add_column(heading)
        for prediction in result.shown:
            (best, share), *others = prediction.top(3)
            table.add_row(
                prediction.image.name,
                best,
                percent(share, 0),
                ", ".join(f"{name} {percent(p, 0)}" for name, p in others),
            )
        out.print(table)
        if result.images > len(result.shown):
            out.print(f"... and {result.images - len(result.shown)} more")
    out.print(
        f"{counted(result.images, 'image')}, {counted(len(result.labels), 'label')}, "
        f"model {result.spec}"
    )
    for prompt in result.prompts:
        if prompt["accuracy"] is not None:
            low, high = prompt["interval"]
            name = prompt["template"] or "ensemble"
            out.print(
                f"accuracy {percent(prompt['accuracy'])}  "
                f"(95 % {100 * low:.1f} to {100 * high:.1f})  {name}"
            )
    print_written(out, result.written)
