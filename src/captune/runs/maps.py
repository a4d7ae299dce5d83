"""The maps of a run: `maps/<image>.npz`, one float array `maps` [words, rows, columns] each.

`words` names the first axis. `frame`, where it is there, says what of the image the maps lie over:
left, top, right, bottom in pixels of the upright image; without it, it is all of the image. Nothing
in these files is pickled, and no pickle is read.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from captune.errors import UserError
from captune.runs import Run, RunWriter, leaves_root
from captune_metrics.display import printable
from captune_metrics.files import read_regular

_LARGEST = 64 * 2**20  # bytes of the maps of an image
_ENTRY, _MOST_ENTRIES = b"PK\x01\x02", 16  # of a zip's list of what is in it
_HIGHEST = 1e30  # what sums of it still stay finite


class MapWriter:
    """Writes image by image what becomes part of a run."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._names = NewNames()

    def write(
        self,
        name: str,
        words: Sequence[str],
        maps: NDArray[np.float32],
        frame: Sequence[float] | None = None,
    ) -> str:
        """The file, relative to the run, into which the maps of an image were written.

        name: of the image. maps: [words, rows, columns].
        """
        file = f"maps/{self._names.of(name)}.npz"
        arrays: dict[str, Any] = {"maps": maps, "words": np.array(words)}
        if frame is not None:
            arrays["frame"] = np.array(frame)
        path = self._writer.file_path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **arrays)
        return file


class NewNames:
    """Names of files for images: relative paths as plain names that every system accepts."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, image: str) -> str:
        """One that no other image has had."""
        plain = re.sub(r"[^\w-]+", "-", image.rpartition(".")[0] or image)
        stem = plain.encode("ascii", "replace").decode().replace("?", "-")[:80]
        # a/b.png and a-b.jpg have one spelling
        names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name


def read_maps(run: Run, record: Mapping[str, Any]) -> tuple[list[str], NDArray[np.float32]]:
    """The words of a record, and their maps [words, rows, columns].

    Raises UserError where the file is not whole.
    """
    name = record["maps"]
    path = run.folder / name
    shown = printable(path)
    if not name.startswith("maps/") or leaves_root(name):
        raise UserError(f"{printable(run.folder)}: its maps are outside the run; explain again")
    try:
        data = read_regular(path, _LARGEST)
        if data.count(_ENTRY) > _MOST_ENTRIES:
            raise ValueError("it holds more than arrays of words and maps")
        with ZipFile(BytesIO(data)) as found:
            words = [str(word) for word in _array(found, "words", kinds="U")]
            maps = _array(found, "maps", kinds="f")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{shown} cannot be read ({reason}); explain again") from None
    except (ValueError, BadZipFile, NotImplementedError) as error:
        reason = printable(error)
        raise UserError(f"{shown} is not a file of maps ({reason}); explain again") from None
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise UserError(f"{shown} holds no maps of rows and columns; explain again")
    if len(maps) != len(words) or len(words) != len(record["words"]):
        raise UserError(f"{shown} is not of this run; explain again")
    bounded = np.nan_to_num(maps.astype(np.float64)).clip(-_HIGHEST, _HIGHEST)
    return words, bounded.astype(np.float32)


def _array(archive: ZipFile, name: str, *, kinds: str) -> NDArray[Any]:
    """An array of an .npz that holds what its header says, which decides what is allocated.

    kinds: of its dtype. Raises ValueError, BadZipFile.
    """
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"it has no {name}") from None
    # captune stores arrays as they are; what is packed may stand for any size
    if entry.compress_type != ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"its {name} are packed")
    if entry.flag_bits & 1:
        raise ValueError(f"its {name} are encrypted")
    data = archive.read(entry)
    file = BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"its {name} are of another format")
    try:
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except (TypeError, OverflowError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"the header of its {name} is damaged") from error
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in kinds or min(shape, default=0) < 0 or size != len(data) - file.tell():
        raise ValueError(f"its {name} do not hold what their header says")
    return np.ndarray(shape, dtype, data, offset=file.tell(), order="F" if is_fortran else "C")
