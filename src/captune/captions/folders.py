"""Folders: a captune run, an image folder with its metadata file, images with sidecars."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from captune.captions.caption_file import CaptionFile, Gathering, filled_lines
from captune.captions.forms import read_file
from captune.errors import UserError
from captune.files import decode_text, printable, quoted, read_bytes
from captune.images import find_images
from captune.images.naming import without_ending
from captune.runs import read_run
from captune.runs.reader import RECORDS

_METADATA = ("metadata.jsonl", "metadata.csv")
_WAYS = (
    "give a folder with name.txt beside name.jpg or with a metadata.jsonl, a captune run, or the"
    " file that holds the captions"
)


def read_folder(folder: Path, gathering: Gathering) -> CaptionFile:
    """The captions of a folder. Raises UserError where it holds none."""
    if gathering.split is not None:
        raise gathering.refuse("is a folder, and has no splits; leave out #split=.")
    # records without run.json are of a run that was killed: read_run says so
    if (folder / "run.json").exists() or (folder / "records.jsonl").exists():
        return _read_run(folder, gathering)
    for name in _METADATA:
        path = folder / name
        if path.is_file():
            found = read_file(os.fspath(path), Gathering(os.fspath(path)))
            return replace(found, source=gathering.source, form=f"image folder ({name})")
    return _read_sidecars(folder, gathering)


def _read_run(folder: Path, gathering: Gathering) -> CaptionFile:
    """The captions that a run wrote or scored."""
    run = read_run(folder)
    for number, record in enumerate(run.records(), 1):
        if "caption" not in record:
            raise gathering.refuse(
                f"is a {printable(run.kind)} run, which holds no captions; give one of"
                " captune caption or captune score."
            )
        path = record.get("path")
        image = record.get("image", path)
        image_id = gathering.id_of(image, "record", number, "image")
        if path is not None:
            gathering.name_file(image_id, gathering.id_of(path, "record", number, "path"))
        if image_id in gathering.captions:
            raise gathering.refuse(f"image {quoted(image_id)} has two records; run it again.")
        gathering.add(image_id, record["caption"], "record", number)
    return gathering.finished(f"captune {printable(run.kind)} run", run.digest(RECORDS))


def _read_sidecars(folder: Path, gathering: Gathering) -> CaptionFile:
    """A caption a line in name.txt, or name.jpg.txt, beside name.jpg; ids are paths, no ending.

    Where the folder holds no images at all, every .txt in it counts. Blank lines are left out; a
    sidecar without any other line is one empty caption.
    """
    digest = hashlib.sha256()
    for number, (name, sidecar, image) in enumerate(_sidecars(folder), 1):
        image_id = gathering.id_of(name, "sidecar", number, "name")
        if image is not None:
            gathering.name_file(image_id, image)
        data = read_bytes(os.fspath(sidecar))
        # lengths first: no two folders run together into the same bytes
        for part in (name.encode(), data):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        lines = [line for _, line in filled_lines(decode_text(data, os.fspath(sidecar)))]
        for line in lines or [""]:
            gathering.add(image_id, line, "sidecar", number)
    if not gathering.captions:
        raise gathering.refuse(f"is a folder without captions; {_WAYS}.")
    return gathering.finished("sidecars", digest.hexdigest())


def _sidecars(folder: Path) -> list[tuple[str, Path, str | None]]:
    """Image id, sidecar and image's name, sorted."""
    try:
        found = find_images([folder])
    except UserError:  # no images
        texts = [path for path in folder.rglob("*.txt") if path.is_file()]
        names = [(path.relative_to(folder).as_posix(), path) for path in texts]
        return sorted(
            (name.removesuffix(".txt"), path, None)
            for name, path in names
            if not any(part.startswith(".") for part in name.split("/"))
        )
    sidecars = []
    for image in found.images:
        for sidecar in (image.path.with_suffix(".txt"), Path(f"{image.path}.txt")):
            if sidecar.is_file():
                sidecars.append((without_ending(image.name), sidecar, image.name))
                break
    return sorted(sidecars)
