"""How many parameters are trained, and where: counted before anything is built, and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from captune.captioning.bridge import GridShape, bridge_class
from captune.captioning.model import Captioner
from captune.captioning.structure import DecoderParts
from captune.captioning.tuning import method_class
from captune.errors import UserError

_UNITS = {"k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True)
class Row:
    """A part of what is trained, by its name, and how many parameters it has."""

    part: str
    parameters: int


def budget(captioner: Captioner) -> list[Row]:
    """What a captioner trains, by part, in its own order; the parts sum to all of it."""
    counted: dict[str, int] = {}
    for name, parameter in captioner.trained().items():
        side, _, inside = name.partition(".")
        child = inside.partition(".")[0]
        # peft names its parameters by their place in the decoder: no child of ours
        own = hasattr(getattr(captioner, side), child)
        part = f"{side}.{child}" if own else side
        counted[part] = counted.get(part, 0) + parameter.numel()
    return [Row(part, parameters) for part, parameters in counted.items()]


def planned(
    bridge: str,
    bridge_config: Any,
    method: str,
    method_config: Any,
    grid: GridShape,
    parts: DecoderParts,
) -> list[Row]:
    """What bridge and method would train, by their formulas; no weight of theirs is made.

    parts: of the decoder, which may lie on torch's meta device too.
    """
    kind: Any = bridge_class(bridge)
    with torch.device("meta"):  # shapes only: methods ask the bridge what they reach in it
        shapes = kind(bridge_config, grid, parts)
    return [
        Row("bridge", kind.count(bridge_config, grid, parts)),
        Row("tuning", method_class(method).count(method_config, parts, shapes)),
    ]


def check_budget(rows: Sequence[Row], limit: str) -> int:
    """The sum of the rows. Raises UserError, naming the parts, above `limit`, as 35M."""
    total = sum(row.parameters for row in rows)
    if total > parse_count(limit):
        parts = ", ".join(f"{row.part} {row.parameters:,}" for row in rows)
        raise UserError(
            f"{total:,} parameters would be trained ({parts}), {limit} are allowed;"
            " choose a smaller width, rank or length, or raise the limit"
        )
    return total


def parse_count(text: str) -> int:
    """35M, 500k, 1.5B or 12_000 -> a number. Raises UserError for anything else."""
    unit = _UNITS.get(text[-1:].lower(), 1)
    digits = text if unit == 1 else text[:-1]
    try:
        count = round(float(digits) * unit)
    except (ValueError, OverflowError):
        count = -1
    if count < 0:
        raise UserError(f'"{text}": is no number of parameters; write it as 35M, 500k or 12000')
    return count
