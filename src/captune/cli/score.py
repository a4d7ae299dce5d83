"""`captune score`: how good captions are, by metrics that name their recipe."""

from __future__ import annotations

import argparse

from captune.cli.terminal import job_arguments, print_result
from captune.options import ScoreOptions
from captune.options.codec import add_options, read_options

HELP = "score captions: CIDEr, BLEU, ROUGE-L, CLIPScore"
EXAMPLES = """  captune score captions.json --references captions_val.json
  captune score captions.json --references val.json --images val/ --out runs/score
  captune score captions.json --images images/ --metrics clipscore --model open_clip:ViT-B-32/openai
  captune score few.json --references few_refs.json --df coco-val2017
  captune score captions.json --references val.json --per-image scores.csv --json"""

TABLES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ScoreOptions)


def run(arguments: argparse.Namespace) -> int:
    """Score, and print the scores."""
    from captune.jobs import score

    result = score.run(read_options(ScoreOptions, arguments), **job_arguments(arguments))
    return print_result(result, arguments)
