"""`captune caption`: describe images in words."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from captune.cli.terminal import (
    print_json,
    print_written,
    report_skipped,
    told,
)
from captune.options import CaptionOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted, duration

if TYPE_CHECKING:
    from captune.captioning.caption_recording import CaptionResult

HELP = "describe images in words, with the captioner that comes along or one of yours"
EXAMPLES = """  captune caption image.jpg
  captune caption images/ --predictions pred.json
  captune caption images/ --model runs/tuned --out runs/captions
  captune caption images/ --model runs/tuned/lora --beam 1 --sidecar
  find . -name '*.jpg' | captune caption - --out runs/all --json

With --out, a killed captioning goes on when the same command is run again."""

_FEW = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, CaptionOptions)


def run(arguments: argparse.Namespace) -> int:
    """Caption, print, and write what was asked for."""
    from captune.captioning.caption_recording import caption_images

    options = read_options(CaptionOptions, arguments)
    result = caption_images(options, **told(arguments))
    report_skipped(result.skipped, quiet=arguments.json)
    if arguments.json:
        print_json({"command": "caption", **result.summary()})
    else:
        _print(result)
    return 0


def _print(result: CaptionResult) -> None:
    """One caption alone; a few, or those that are written nowhere, as a table; of many, the sum."""
    from rich.table import Table

    out = console()
    is_written = bool(result.written or result.sidecars)
    if result.images == 1 and not result.skipped:
        out.print(result.captions[0][1], soft_wrap=True)
    else:
        if result.images <= _FEW or not is_written:
            table = Table(box=None, pad_edge=False)
            for heading in ("image", "caption"):
                table.add_column(heading)
            for name, caption in result.captions:
                table.add_row(name, caption)
            out.print(table)
        out.print(
            f"{counted(result.images, 'image')} in {duration(result.seconds)}, "
            f"captioner {result.captioner['spec']}",
            soft_wrap=True,
        )
        if result.ended < result.images:
            out.print(
                f"{result.images - result.ended:,} of them reached --max-tokens before they ended"
            )
    if result.sidecars:
        kept = f", {result.sidecars['kept']:,} kept" if result.sidecars["kept"] else ""
        out.print(f"sidecars: {result.sidecars['written']:,} written{kept}")
    print_written(out, result.written)
