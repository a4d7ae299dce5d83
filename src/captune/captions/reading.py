"""A path -> its captions: a file, a folder, or one split of a file."""

from __future__ import annotations

import os
from pathlib import Path

from captune.captions.caption_file import FORMS, CaptionFile, Gathering
from captune.captions.folders import read_folder
from captune.captions.forms import read_file
from captune.errors import UserError
from captune.files import printable

_SPLIT = "#split="


def read_captions(path: str | Path) -> CaptionFile:
    """The captions of a file or folder, in any of the forms of docs/captions.md.

    path: a file of JSON, JSON lines or rows with an image and a caption; a folder of images with
        sidecars or with a metadata file; a captune run; `dataset.json#split=test` takes one split
        of a file in Karpathy's form.
    Captions are kept to the letter, but for the line end; they may be empty.
    Raises UserError for what cannot be read, is no text, holds no captions or holds an id twice.
    """
    source = os.fspath(path)
    name, split = _without_split(source)
    shown = printable(name)
    try:
        is_folder, exists = Path(name).is_dir(), Path(name).exists()
    except (OSError, ValueError):  # nothing that can be a path
        is_folder = exists = False
    if not exists:
        raise UserError(f"{shown}: does not exist; give {FORMS}.")
    gathering = Gathering(source, split)
    if is_folder:
        return read_folder(Path(name), gathering)
    return read_file(name, gathering)


def _without_split(source: str) -> tuple[str, str | None]:
    if _SPLIT in source and not os.path.exists(source):  # noqa: PTH110
        name, _, split = source.rpartition(_SPLIT)
        return name, split
    return source, None
