"""Files of a model that somebody else may have made: JSON, and the headers of safetensors.

No library is imported for them, and no tensor is read.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from captune.errors import UserError
from captune.files import open_regular, printable, read_regular
from captune.parsing import json_kind

_LARGEST_JSON = 8 * 2**20


def read_object(path: Path, most_bytes: int = _LARGEST_JSON) -> dict[str, Any]:
    """The object of a JSON file beside a model.

    Raises UserError for what cannot be read, is too large, nested too deeply, or no object.
    """
    shown = printable(str(path))
    try:
        content = json.loads(read_regular(path, most_bytes))
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise UserError(f"{shown} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{shown}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{shown}: holds {json_kind(content)}, and an object was expected")
    return content


# bits of an element
_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
FLOATING = {"F16", "BF16", "F32", "F64"}  # F8 is of no use without the scales beside it
_LONGEST_HEADER = 16 * 2**20
_MOST_AXES = 8


class TensorInfo(NamedTuple):
    """dtype: as safetensors names it. start, end: of its bytes in the file; 0 where not known."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0
    end: int = 0

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name.

    Raises UserError unless the header accounts for every byte of the file exactly once.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError(f"its header would be {length:,} bytes long")
            return _tensors(json.loads(file.read(length)), 8 + length, size)
    except RecursionError:
        reason = "its header is nested too deeply"
    except struct.error:
        reason = "it is too short"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    raise UserError(f"{printable(str(path))} is not a complete safetensors file ({reason})")


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
    return sum(tensor.elements for tensor in tensors)


def _tensors(header: Any, start: int, size: int) -> dict[str, TensorInfo]:
    """Raises ValueError for a header that does not describe the bytes from `start` to `size`."""
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    found = {name: _tensor(name, about, start) for name, about in header.items()}
    reached = start
    for name, tensor in sorted(found.items(), key=lambda item: item[1][2:]):
        if tensor.start != reached:
            raise ValueError(f"the bytes of {printable(name)} overlap others, or leave a gap")
        reached = tensor.end
    if reached != size:
        raise ValueError(f"its tensors end at byte {reached:,}, the file at {size:,}")
    return found


def _tensor(name: str, about: Any, offset: int) -> TensorInfo:
    shown = printable(name)
    if not isinstance(about, dict):
        raise ValueError(f"{shown} is not described by an object")
    dtype: Any = about.get("dtype")
    shape: Any = about.get("shape")
    place: Any = about.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{shown} is of a dtype that captune does not know")
    if not _are_counts(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"the shape of {shown} is none")
    if not _are_counts(place) or len(place) != 2:
        raise ValueError(f"{shown} does not say where its bytes are")
    if math.prod(shape) * _BITS[dtype] != 8 * (place[1] - place[0]):
        raise ValueError(f"the bytes of {shown} are not as many as its shape says")
    return TensorInfo(dtype, tuple(shape), offset + place[0], offset + place[1])


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)
