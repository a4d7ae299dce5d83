"""`captune embed`: image features as one array, for other tools."""

from __future__ import annotations

import argparse
from functools import partial

from captune.cli.terminal import print_json, progress, report_skipped
from captune.options import EmbedOptions
from captune.options.codec import add_options, read_options
from captune.printing import console

HELP = "write image features to an .npz or .parquet file"
EXAMPLES = """  captune embed images/ --features features.npz
  captune embed images/ --features features.parquet --model timm:resnet50.a1_in1k"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, EmbedOptions)


def run(arguments: argparse.Namespace) -> int:
    """Encode the images and write paths [n] and features [n, d]."""
    from captune.embedding import embed_images

    options = read_options(EmbedOptions, arguments)
    result = embed_images(options, bar=partial(progress, quiet=arguments.json))
    report_skipped(result.skipped, quiet=arguments.json)
    if arguments.json:
        print_json({"command": "embed", **result.summary()})
    else:
        console().print(
            f"{result.images} images, {result.dimension} numbers each: {options.features}",
            soft_wrap=True,
        )
    return 0
