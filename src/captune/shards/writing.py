"""What a shard becomes: a table, its statistics, and a WebDataset where one was asked for."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from captune.answer_files import parquet, parquet_rows
from captune.images import Skipped, UnreadableImage
from captune.images.decode import opened_image, read_image
from captune.images.formats import find_format
from captune.runs.records import plain
from captune.shards.answers import Answered, sums_of
from captune.shards.places import Place
from captune.shards.reading import OpenShard

_GROUP = 1000  # rows of a group of a Parquet file
_REASONS = 20  # of a shard's statistics, the most frequent ones
_SAMPLE_PX = 320
_PLAIN_KEY = re.compile(r"(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_/+ -]{0,199}")


@contextmanager
def table_file(
    out: Place, name: str, columns: dict[str, Any], about: dict[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A Parquet file that takes rows; it appears whole when the block ends well.

    columns: those of the command, name -> type; about: its metadata `captune`.
    """
    arrow = parquet()
    text = arrow.string()
    schema = arrow.schema({"key": text, "shard": text, **columns, "error": text}.items())
    with out.writing(name) as file, parquet_rows(file, about, _GROUP, schema) as add:
        yield add


class Statistics:
    """What `STEM_stats.json` holds."""

    def __init__(self, most: int) -> None:
        self.rows = self.errors = 0
        self._most = most
        self._reasons: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._sample: list[dict[str, Any]] = []

    def add(
        self, row: int, key: str, path: Path, outcome: Answered | Skipped, cells: dict[str, Any]
    ) -> None:
        """One more row."""
        self.rows += 1
        if isinstance(outcome, Skipped):
            self.errors += 1
            self._reasons[outcome.reason] += 1
            return
        self._sums.update(sums_of(cells))
        if outcome.record is not None and len(self._sample) < self._most:
            jpeg = _thumbnail(path)
            if jpeg is not None:
                one = {"row": row, "key": key, "record": plain(outcome.record), "jpeg": jpeg}
                self._sample.append(one)

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        reasons = dict(self._reasons.most_common(_REASONS))
        return {
            "rows": self.rows,
            "errors": self.errors,
            "reasons": reasons,
            "sums": dict(self._sums),
            "sample": self._sample,
        }


def _thumbnail(path: Path) -> str | None:
    try:
        with opened_image(path, at_least=2 * _SAMPLE_PX) as image:
            image.thumbnail((_SAMPLE_PX, _SAMPLE_PX))
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=82)
    except UnreadableImage:
        return None
    return base64.b64encode(buffer.getvalue()).decode()


def write_sample(
    archive: tarfile.TarFile,
    row: int,
    opened: OpenShard,
    outcome: Answered | Skipped,
    line: dict[str, Any],
) -> None:
    """The image as it is, and its answer beside it.

    A key that is no plain name, or that an earlier image has, gets the number of the row.
    """
    key = line["key"]
    if not _PLAIN_KEY.fullmatch(key):
        key = f"row-{row}"
    elif row in opened.repeated:
        key = f"{key}-row-{row}"
    files = []
    with suppress(UnreadableImage):
        data = read_image(opened.images[row].path)
        files.append((opened.endings[row] or _ending_of(data), data))
    if isinstance(outcome, Answered):
        if outcome.text is not None:
            files.append((".txt", outcome.text.encode()))
        if outcome.vector is not None:
            buffer = io.BytesIO()
            np.save(buffer, outcome.vector)
            files.append((".npy", buffer.getvalue()))
    told = {name: cell for name, cell in line.items() if name != "features"}
    files.append((".json", json.dumps(told).encode()))
    for ending, content in files:
        member = tarfile.TarInfo(f"{key}{ending}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def _ending_of(data: bytes) -> str:
    try:
        return f".{find_format(data)[0].lower()}"
    except UnreadableImage:
        return ".bin"
