"""Make a tuned captioner the one that ships: python packages/captune-lite/adopt.py RUN

RUN is a finished `captune tune` (or one method's folder in it) over `lite` and `lite`. Its trained
parameters are written in half precision, beside its config, into captune_lite/captioner. Prints one
JSON object: parameters, bytes, and how far the rounding moved a parameter.

--tags-least P writes another least probability of a tag than the tune's. A captioner that learned
captions without images, whose tags are always right, believes tags too much: fewer of them may be
better in use than in training.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from msgspec import structs
from safetensors.torch import load_file, save

from captune.captioning.checkpoint import Recipe, from_pretrained, read_recipe
from captune.captioning.settings import CONFIG, WEIGHTS, checkpoint_folder
from captune.errors import UserError
from captune.files import whole_file

SHIPPED = Path(__file__).parent / "captune_lite" / "captioner"
LARGEST_BYTES = 25_000_000


def main(words: list[str] | None = None) -> int:
    """Convert, check, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--to", type=Path, default=SHIPPED, metavar="FOLDER")
    parser.add_argument("--tags-least", type=float, metavar="P")
    arguments = parser.parse_args(words)
    try:
        print(json.dumps(adopt(arguments.run, arguments.to, arguments.tags_least), indent=1))
    except UserError as error:
        print(f"adopt.py: {error}", file=sys.stderr)
        return 2
    return 0


def adopt(run: Path, to: Path, tags_least: float | None = None) -> dict[str, Any]:
    """Write the captioner of `run` to the folder `to` in float16; what it is, for the card.

    Raises UserError where it is not made of lite and lite, does not fit float16, is too large, or
    reads no tags and tags_least is given.
    """
    source = checkpoint_folder(run)
    recipe = read_recipe(source)
    _check_made_of_lite(recipe, source)
    if tags_least is not None:
        if recipe.tags is None:
            raise UserError(f"{source} reads no tags, which --tags-least is for")
        recipe = structs.replace(recipe, tags=replace(recipe.tags, least=tags_least))
    tensors = load_file(source / WEIGHTS)
    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    for name, half in halves.items():
        if not bool(half.isfinite().all()):
            raise UserError(f"{source}: {name} has values beyond float16, which ends at 65,504")
    weights = save(halves, metadata={"format": "pt"})
    config = json.dumps(recipe.as_json(), indent=1).encode() + b"\n"
    size = len(weights) + len(config)
    if size > LARGEST_BYTES:
        raise UserError(
            f"{source}: takes {size / 1e6:.1f} MB in float16, more than the"
            f" {LARGEST_BYTES / 1e6:.0f} MB that may ship; train fewer parameters"
        )
    (to / CONFIG).unlink(missing_ok=True)  # a folder without it is no captioner
    with whole_file(to / WEIGHTS, "wb") as file:
        file.write(weights)
    with whole_file(to / CONFIG, "wb") as file:
        file.write(config)
    return {
        "from": str(source),
        "to": str(to),
        "method": recipe.method.name,
        "bridge": recipe.bridge.name,
        "decoder_blocks": recipe.decoder.blocks or "all",
        "vocabulary": len(recipe.decoder.kept) or "all",
        "parameters": sum(half.numel() for half in halves.values()),
        "bytes": size,
        "largest_rounding": max(
            float((half.float() - tensors[name]).abs().max()) for name, half in halves.items()
        ),
        "loads": _loads(to),
    }


def _check_made_of_lite(recipe: Recipe, source: Path) -> None:
    for what, spec in (
        ("image encoder", recipe.image_encoder.spec),
        ("decoder", recipe.decoder.spec),
    ):
        if spec != "lite":
            raise UserError(
                f"{source} was trained with the {what} {spec}; what ships is made of lite"
            )


def _loads(folder: Path) -> bool:
    """Build it as a user's captune does; raises what goes wrong."""
    captioner, _ = from_pretrained(folder, device="cpu")
    captioner.detach()
    return True


if __name__ == "__main__":
    sys.exit(main())
