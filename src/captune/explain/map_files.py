"""The maps of a run: `maps/<photo>.npz`, one float array `maps` [words, rows, columns] each.

`words` names the first axis. `frame`, where it is there, says what of the photo the maps lie over:
left, top, right, bottom in pixels of the upright photo; without it, it is all of the photo. Nothing
in these files is pickled, and no pickle is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from captune.errors import UserError
from captune.explain.explanation import Explanation
from captune.files import printable
from captune.images import Photo
from captune.runs import Run, RunWriter


class MapWriter:
    """Writes photo by photo what becomes part of a run."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._names = _Names()

    def add(self, explanation: Explanation) -> Explanation:
        """Write the maps and the record; the explanation that knows where they are."""
        file = f"maps/{self._names.new(explanation.photo)}.npz"
        arrays = {
            "maps": explanation.maps.numpy(),
            "words": np.array([word.word for word in explanation.words]),
        }
        if explanation.frame is not None:
            arrays["frame"] = np.array(explanation.frame.edges)
        path = self._writer.file_path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **arrays)
        written = replace(explanation, maps_file=file)
        self._writer.record(written.record())
        return written


def read_maps(run: Run, record: Mapping[str, Any]) -> tuple[list[str], NDArray[np.float32]]:
    """The words of a record, and their maps [words, rows, columns].

    Raises UserError where the file is not whole.
    """
    path = run.folder / record["maps"]
    shown = printable(str(path))
    try:
        with np.load(path, allow_pickle=False) as found:
            words, maps = [str(word) for word in found["words"]], found["maps"]
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{shown}: cannot be read ({error}); explain again") from None
    if maps.ndim != 3 or len(maps) != len(words) or len(words) != len(record["words"]):
        raise UserError(f"{shown}: is not of this run; explain again")
    return words, maps


class _Names:
    """File names for photos, each once."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def new(self, photo: Photo) -> str:
        """The photo's relative path as a plain name that every system accepts."""
        stem = photo.name.rpartition(".")[0] or photo.name
        plain = re.sub(r"[^\w-]+", "-", stem).encode("ascii", "replace").decode()
        name = plain.replace("?", "-")[:80]
        # a/b.png and a-b.jpg have one spelling
        number = self._taken[name] = self._taken.get(name, 0) + 1
        return name if number == 1 else self.new_of(name, number)

    def new_of(self, name: str, number: int) -> str:
        """`name` with a number behind it that no photo has for its own name."""
        numbered = f"{name}-{number}"
        while numbered in self._taken:
            number += 1
            numbered = f"{name}-{number}"
        self._taken[numbered] = 1
        return numbered
