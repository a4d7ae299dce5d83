"""`captune explain`: where on the image the captioner saw each word."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from captune.cli.terminal import print_json, report_skipped, told
from captune.options import ExplainOptions
from captune.options.codec import add_options, read_options
from captune.printing import console, printable
from captune.text import counted

if TYPE_CHECKING:
    from captune.attribution.explanation import ExplainResult

HELP = "where on the image a captioner saw each word, and how far to believe it"
EXAMPLES = """  captune explain image.jpg --out runs/maps
  captune explain images/ --model runs/tuned --out runs/maps --json
  captune explain image.jpg --caption "a dog with a ball" --words dog,ball --out runs/dog
  captune explain image.jpg --words dog --against cat --method occlusion --out runs/why
  captune explain image.jpg --method attention --layer last --head mean --faithfulness none

Figures are in RUN/plots, the maps in RUN/maps: numpy.load("RUN/maps/image.npz")["maps"] is an array
[words, rows, columns] over the whole image."""

_FEW = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ExplainOptions)


def run(arguments: argparse.Namespace) -> int:
    """Explain, draw, and print."""
    from captune.attribution.job import explain_images
    from captune.runs.place import run_place

    options = read_options(ExplainOptions, arguments)
    heard = told(arguments)
    with run_place(options, "explain", heard["say"]):
        result = explain_images(options, **heard)
        if result.run is not None:
            from captune.pages.figures import draw_figures
            from captune.runs import read_run

            with heard["bar"]("drawing", result.images) as advance:
                for paths in draw_figures(read_run(result.run), result.skipped):
                    result.figures += paths
                    advance(1)
    report_skipped(result.skipped, quiet=arguments.json)
    if arguments.json:
        print_json({"command": "explain", **result.summary()})
    else:
        _print(result)
    return 0


def _print(result: ExplainResult) -> None:
    """Each word of a few images; of many, how many maps are to be believed."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    for record in result.records[:_FEW] if result.images <= _FEW else []:
        own = " (given)" if record["given"] else ""
        caption = Text.assemble((printable(record["caption"]), "bold"), own)
        out.print(f"{record['path']}:", caption, soft_wrap=True)
        table = Table(box=None, pad_edge=False)
        for heading, style in (("word", "left"), ("log p", "right"), ("map", "left")):
            table.add_column(heading, justify=style)  # type: ignore[arg-type]
        for word in record["words"]:
            table.add_row(word["word"], f"{word['log_probability']:.2f}", _mark(word))
        out.print(table)
    from captune.pages.sections.explain import described

    about = result.summary()["map"]
    out.print(
        f"{counted(result.words, 'map')} of {counted(result.images, 'image')} by {described(about)}"
        f" in {result.seconds:.1f} s",
        soft_wrap=True,
    )
    for mark, count in sorted(result.marks.items()):
        out.print(f"{mark}: {counted(count, 'map')}")
    if result.run is None:
        out.print("--out RUN writes the maps and draws them")
    else:
        out.print(f"run: {result.run}", soft_wrap=True)
        for path in result.figures[:1]:
            out.print(f"figures: {path.parent}", soft_wrap=True)


def _mark(word: dict[str, Any]) -> str:
    found = word["faithfulness"]
    return "" if found is None else str(found["mark"])
