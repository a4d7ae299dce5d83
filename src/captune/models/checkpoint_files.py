"""The headers of safetensors files that somebody else may have made; no tensor is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from captune.errors import UserError
from captune_metrics.display import printable, quoted
from captune_metrics.files import open_regular

_MOST_DIMENSIONS = 32
_LONGEST_HEADER = 16 * 2**20  # bytes; 100,000 tensors have 10 MB of header
FLOATING = {"F16", "BF16", "F32", "F64"}  # F8 is of no use without the scales beside it


class TensorInfo(NamedTuple):
    """dtype: as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name.

    Raises UserError unless the header accounts for every byte of the file exactly once, and for a
    tensor of more sides than any model has.
    """
    with opened_safetensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {
            name: TensorInfo(part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices.items()
        }
    for name, tensor in found.items():
        if len(tensor.shape) > _MOST_DIMENSIONS:
            raise UserError(
                f"{printable(str(path))}: {quoted(name)} has {len(tensor.shape):,} dimensions;"
                f" expected {_MOST_DIMENSIONS} at most"
            )
    return found


@contextmanager
def opened_safetensors(path: Path) -> Iterator[Any]:
    """The file as safetensors' `safe_open` maps it for torch; UserError for a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path) as file:  # the library would wait for a pipe
            length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:  # and take a minute and a gigabyte for a million tensors
            raise SafetensorError(f"its header would be {length:,} bytes long")
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        what = f"{path} is not a complete safetensors file ({reason})"
        raise UserError(printable(what)) from None


def require_floating(tensors: Mapping[str, TensorInfo], where: object) -> None:
    """Raise UserError for weights that are whole numbers, or in a precision of too few bits.

    Masks and counters, which many checkpoints hold besides, are not called `weight`.
    """
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.dtype not in FLOATING:
            raise UserError(
                f"{printable(f'{where}: {name}')} is of {tensor.dtype}; captune reads weights in"
                f" {', '.join(sorted(FLOATING))}"
            )


def total_elements(tensors: Iterable[TensorInfo]) -> int:
    """Numbers in all of them."""
    return sum(math.prod(tensor.shape) for tensor in tensors)
