"""The references of a score: a caption file's captions, or those that an earlier score kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

from captune.captions import CaptionFile, read_captions
from captune.errors import UserError
from captune.files import named, printable
from captune.runs import read_run


def read_references(path: Path) -> CaptionFile:
    """The captions to score against, as `read_captions`.

    The captions of a score run are candidates; what it scored them against are its references, and
    these are meant here. Raises UserError for a score run that had none.
    """
    folder = path.parent if path.name == "records.jsonl" else path
    if not os.path.isfile(folder / "run.json"):  # noqa: PTH113  # pathlib's raises for a long name
        return read_captions(path)
    run = read_run(folder)
    if run.kind != "score":
        return read_captions(path)
    file = read_captions(folder)  # which refuses records that are damaged
    captions: dict[str, list[str]] = {}
    for image, record in zip(file.captions, run.records(), strict=True):
        references = record.get("references")
        if _are_texts(references):
            captions[image] = references
    without = [image for image in file.captions if image not in captions]
    if without:
        raise UserError(
            f"{printable(str(path))}: is a score run without references for"
            f" {named(without, 'image')}; give the file that holds the references"
        )
    return replace(
        file, source=str(path), form="references of a captune score run", captions=captions
    )


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(t, str) for t in value)
