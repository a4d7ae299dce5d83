"""A path -> its captions: a file, a folder, or one split of a file."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from captune.captions.file import (
    FORMS,
    KARPATHY,
    SAMPLES,
    CaptionCollector,
    CaptionFile,
    filled_lines,
    keys_among,
)
from captune.captions.json_forms import (
    is_coco,
    is_karpathy,
    read_coco,
    read_karpathy,
    read_lines,
    read_records,
    read_stems,
)
from captune.captions.tables import read_table
from captune.errors import UserError
from captune.files import decode_text, sha256_of
from captune.images import find_images
from captune.images.dataset import (
    ImageRows,
    Source,
    loaded,
    metadata_file,
    metadata_rows,
    open_dataset,
    parse_source,
    row_groups_of,
)
from captune.images.match import without_ending
from captune.json_yaml import MOST_MEMORY, json_cost, json_kind, parse_json
from captune.options.base import IN_MEMORY, CaptionsInMemory
from captune.options.shards import PLAN as SHARDS
from captune.runs import read_run
from captune.runs.reader import RECORDS
from captune_metrics.display import named, printable, quoted
from captune_metrics.files import LARGEST_TEXT, read_bytes

_SPLIT = "#split="


def read_captions(path: str | Path) -> CaptionFile:
    """The captions of a file or folder, in any of the forms of docs/captions.md.

    path: a file of JSON, JSON lines or rows with an image and a caption; a folder of images with
        sidecars or with a metadata file; a captune run; `dataset.json#split=test` takes one split
        of a file in Karpathy's form, `PLACE#split=test` the rows of a dataset (`images.dataset`);
        captions in memory.
    Captions are kept to the letter, but for the line end; they may be empty.
    Raises UserError for what cannot be read, is no text, holds no captions or holds an id twice.
    """
    source = os.fspath(path)
    if isinstance(path, CaptionsInMemory):
        collector = CaptionCollector(source)
        form = _read_json(json.loads(path.text), collector)
        return collector.finished(form, hashlib.sha256(path.text.encode()).hexdigest())
    if (asked := parse_source(source)) is not None:
        return _read_dataset(asked, CaptionCollector(source))
    name, split = source, None
    if _SPLIT in source and not os.path.exists(source):  # noqa: PTH110
        name, _, split = source.rpartition(_SPLIT)
    shown = printable(name)
    try:
        is_folder, exists = Path(name).is_dir(), Path(name).exists()
    except (OSError, ValueError):  # nothing that can be a path
        is_folder = exists = False
    if not exists and name == IN_MEMORY:
        raise UserError("the captions were in memory, not in a file; give a file that holds them.")
    if not exists:
        missing = "standard input is not read here" if name == "-" else f"{shown} does not exist"
        raise UserError(f"{missing}; give {FORMS}.")
    collector = CaptionCollector(source, split)
    if is_folder:
        return read_folder(Path(name), collector)
    return read_file(name, collector)


def read_references(path: Path) -> CaptionFile:
    """The captions to score against, as `read_captions`.

    The captions of a score run, and of an evaluation's samples, are candidates; what they were
    scored against are its references, and these are meant here. Raises UserError for a score run
    and for samples that have none.
    """
    folder = path.parent if path.name == "records.jsonl" else path
    is_run = os.path.isfile(folder / "run.json")  # noqa: PTH113  # pathlib's raises for a long name
    if is_run and read_run(folder).kind == "score":
        file = read_captions(folder)
        what, form = "a score run", "references of a captune score run"
    else:
        file = read_captions(path)
        if file.form != SAMPLES:
            return file
        what, form = f"a file of {SAMPLES}", f"references of {SAMPLES}"
    captions = {image: file.references.get(image, []) for image in file.captions}
    without = [image for image, references in captions.items() if not references]
    if without:
        raise UserError(
            f"{printable(path)} is {what} without references for"
            f" {named(without, 'image')}; give the file that holds the references"
        )
    return replace(file, source=str(path), form=form, captions=captions)


_JSON_LINES = (".jsonl", ".ndjson")


def read_file(name: str, collector: CaptionCollector) -> CaptionFile:
    """The captions of one file. Raises UserError as `read_captions`."""
    data = read_bytes(name, LARGEST_TEXT)
    sha256 = hashlib.sha256(data).hexdigest()
    text = decode_text(data, name)
    del data
    if not text or text.isspace():
        raise UserError(f"{collector.shown} is empty; give {FORMS}.")
    form = _read_text(text, Path(name).suffix.lower(), collector)
    if collector.split is not None and form != KARPATHY:
        raise UserError(
            f"{collector.shown} has no splits ({form}); leave out #split={collector.split}."
        )
    return collector.finished(form, sha256)


def _read_text(text: str, ending: str, collector: CaptionCollector) -> str:
    """Fill `collector`; the name of the form."""
    start = re.match(r"\s*(.)", text)
    first = start[1] if start else ""
    if first == "{" and (ending in _JSON_LINES or _is_json_lines(text)):
        return read_lines(text, collector)
    if first in "{[" or ending in (".json", *_JSON_LINES):
        return _read_json(parse_json(text, collector.shown), collector)
    return read_table(text, collector)


def _is_json_lines(text: str) -> bool:
    """Whether the first line is an object of its own and something follows."""
    match = re.match(r"\s*(\{[^\n]*\})[^\S\n]*\n\s*\S", text)
    if match is None or json_cost(match[1]) > MOST_MEMORY:
        return False
    try:
        return isinstance(json.loads(match[1]), dict)
    except (ValueError, RecursionError):
        return False


def _read_json(content: object, collector: CaptionCollector) -> str:
    if isinstance(content, list):
        if not content:
            raise UserError(f"{collector.shown} is an empty list; give {FORMS}.")
        return read_records(content, collector)
    if not isinstance(content, Mapping):
        raise UserError(f"{collector.shown} holds {json_kind(content)}, no captions; give {FORMS}.")
    if is_karpathy(content):
        read_karpathy(content, collector)
        return KARPATHY
    if is_coco(content):
        read_coco(content, collector)
        return "COCO annotations"
    return read_stems(content, collector)


def _read_dataset(asked: Source, collector: CaptionCollector) -> CaptionFile:
    """The captions of rows, or of the metadata file of a folder of images."""
    found = open_dataset(asked)
    if isinstance(found, ImageRows):
        form = _read_rows(found, collector)
    elif asked.caption:
        file = metadata_file(found)
        rows = [] if file is None else metadata_rows(file)
        if not any(asked.caption in row for row in rows):
            raise collector.refuse(
                f"--caption-column: no metadata file has {quoted(asked.caption)}"
            )
        names = ("file_name", "caption")
        chosen = [(row["file_name"], row.get(asked.caption) or []) for row in rows]
        form = read_records([dict(zip(names, row, strict=True)) for row in chosen], collector)
    else:
        return replace(read_folder(found, CaptionCollector(str(found))), source=collector.source)
    digest = hashlib.sha256(repr((collector.captions, collector.file_names)).encode())
    return collector.finished(form, digest.hexdigest())


def _read_rows(rows: ImageRows, collector: CaptionCollector) -> str:
    """Fill `collector` from a dataset; the name of the form. Null is no caption.

    Raises UserError for columns that are not there, and for cells that are no captions.
    """
    columns: tuple[str, ...] = (rows.source.caption,)
    if not rows.source.caption:
        known = keys_among(("image", *rows.columns))
        if known is None:
            raise collector.refuse(
                f"say with --caption-column which column holds the captions; it has"
                f" {named(rows.columns)}."
            )
        columns = known.captions
    cells = rows.values(columns, "--caption-column")
    for name, own in zip(rows.names, cells, strict=True):
        for cell in own:
            for caption in cell if isinstance(cell, list) else [cell]:
                if caption is not None:
                    collector.add(name, caption, "row", int(name.rpartition("/")[2]))
    return "dataset"


_WAYS = (
    "give a folder with name.txt beside name.jpg or with a metadata.jsonl, a captune run, or the"
    " file that holds the captions"
)


def read_folder(folder: Path, collector: CaptionCollector) -> CaptionFile:
    """The captions of a folder. Raises UserError where it holds none."""
    if collector.split is not None:
        raise UserError(f"{collector.shown} is a folder, and has no splits; leave out #split=.")
    if (folder / SHARDS).is_file():
        return _read_shards(folder, collector)
    # records without run.json are of a run that was killed: read_run says so
    if (folder / "run.json").exists() or (folder / "records.jsonl").exists():
        return _read_run(folder, collector)
    path = metadata_file(folder)
    if path is None:
        return _read_sidecars(folder, collector)
    form = f"image folder ({path.name})"
    if path.suffix == ".parquet":
        read_records(metadata_rows(path), collector)
        return collector.finished(form, sha256_of(path))
    found = read_file(os.fspath(path), CaptionCollector(os.fspath(path)))
    return replace(found, source=collector.source, form=form)


def _read_shards(folder: Path, collector: CaptionCollector) -> CaptionFile:
    """The captions of all shards that are done. A key that comes again is SHARD/KEY."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.parquet")):
        for part in row_groups_of(path):
            if "caption" not in part.schema.names:
                raise UserError(
                    f"{collector.shown} has shards without captions; give those of caption."
                )
            table = loaded(part, ["key", "caption"], printable(path))
            for number, row in enumerate(table.to_pylist(), 1):
                if row["caption"] is None:  # an image that could not be read
                    continue
                key = collector.id_of(row["key"], "row", number, "key")
                key = f"{path.stem}/{key}" if key in collector.captions else key
                collector.add(key, row["caption"], "row", number)
                digest.update(f"{key}\0{row['caption']}\0".encode("utf-8", "surrogatepass"))
    return collector.finished("captune shards", digest.hexdigest())


def _read_run(folder: Path, collector: CaptionCollector) -> CaptionFile:
    run = read_run(folder)
    if (sharded := run.metrics.get("sharded")) is not None:
        raise UserError(
            f"{collector.shown} holds a sample of {sharded['rows']:,} captions; give"
            f" {printable(sharded['place'])}, where all of them are."
        )
    for number, record in enumerate(run.records(), 1):
        if "caption" not in record:
            raise UserError(
                f"{collector.shown} is a {printable(run.kind)} run, which holds no captions; give"
                " one of captune caption or captune score."
            )
        path = record.get("path")
        image = record.get("image", path)
        image_id = collector.id_of(image, "record", number, "image")
        if path is not None:
            collector.name_file(image_id, collector.id_of(path, "record", number, "path"))
        if image_id in collector.captions:
            raise collector.refuse(f"image {quoted(image_id)} has two records; run it again.")
        collector.add(image_id, record["caption"], "record", number)
        if run.kind == "score":
            collector.references[image_id] = record.get("references", [])
    return collector.finished(f"captune {printable(run.kind)} run", run.digest(RECORDS))


def _read_sidecars(folder: Path, collector: CaptionCollector) -> CaptionFile:
    """A caption a line in name.txt, or name.jpg.txt, beside name.jpg; ids are paths, no ending.

    Where the folder holds no images at all, every .txt in it counts. Blank lines are left out; a
    sidecar without any other line is one empty caption.
    """
    digest = hashlib.sha256()
    for number, (name, sidecar, image) in enumerate(_sidecars(folder), 1):
        image_id = collector.id_of(name, "sidecar", number, "name")
        if image is not None:
            collector.name_file(image_id, image)
        data = read_bytes(os.fspath(sidecar), LARGEST_TEXT)
        # lengths first: no two folders run together into the same bytes
        for part in (name.encode(), data):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        lines = [line for _, line in filled_lines(decode_text(data, os.fspath(sidecar)))]
        for line in lines or [""]:
            collector.add(image_id, line, "sidecar", number)
    if not collector.captions:
        raise UserError(f"{collector.shown} is a folder without captions; {_WAYS}.")
    return collector.finished("sidecars", digest.hexdigest())


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
