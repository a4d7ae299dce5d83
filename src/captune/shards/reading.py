"""A shard -> its images, at hand on this machine: in the tar itself, in a spool, or where they lie.

A tar is read by its headers alone, and each image when somebody asks for it; a file of rows is
unpacked into a file without a name. So no image is in memory that is not being decoded.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from captune.errors import UserError
from captune.files import private_folder
from captune.images import ImageFile
from captune.images.dataset import (
    ImageRows,
    Source,
    open_dataset,
    opened,
    opened_rows,
    parse_source,
)
from captune.images.dataset_files import parts_of
from captune.images.find import ENDINGS, why
from captune.options.shards import is_address
from captune.shards.places import TEMPORARY, Place, fetch
from captune.shards.sources import Shard, images_of
from captune.text import counted
from captune_metrics.display import printable
from captune_metrics.files import open_regular

_MOST_ROWS = 1_000_000  # of a shard
_LONGEST_HEADER = 2**20  # bytes of a name, or of what else an extended header says
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_LARGEST_IMAGE = 2**31
_KEYS = ("__key__", "key", "id", "image_id", "file_name", "filename", "name", "url")
_AT_ONCE = 16


@dataclass
class OpenShard:
    """keys: one for each image, in order; two may be the same. images: where each is read.

    refused: row -> why the shard itself has no image there. endings: of the files, with the dot.
    """

    keys: list[str] = field(default_factory=list)
    images: list[ImageFile] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    endings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def repeated(self) -> set[int]:
        """Rows whose key an earlier one has."""
        first: dict[str, int] = {}
        return {row for row, key in enumerate(self.keys) if first.setdefault(key, row) != row}


@contextmanager
def open_shard(shard: Shard) -> Iterator[OpenShard]:
    """The images of a shard while the block lasts.

    Raises UserError where it cannot be read: StoreError where a store fails.
    """
    with ExitStack() as stack:
        try:
            found = _opened(shard, stack)
        except OSError as error:
            raise UserError(f"{printable(shard.address)}: {why(error)}") from None
        yield found


def _opened(shard: Shard, stack: ExitStack) -> OpenShard:
    if shard.images:
        return _of_images(shard, stack)
    if shard.rows is not None:
        return _of_dataset(shard, stack)
    path = Path(shard.address)
    if is_address(shard.address):
        path = stack.enter_context(private_folder(TEMPORARY)) / path.name
        fetch(shard.address, path)
    reader = _of_tar if path.suffix.lower() == ".tar" else _of_table
    return reader(path, shard, stack)


class _Spans:
    """Images by their places in one file. Whoever asks for a row gets its bytes."""

    def __init__(self, file: BinaryIO, spans: list[tuple[int, int]]) -> None:
        self._file, self._spans = file, spans

    def image_bytes(self, row: int) -> bytes:
        """The image file of a row. Raises OSError where the shard is cut short."""
        offset, size = self._spans[row]
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) < size:
            raise OSError(0, "the shard is cut short there")
        return data


def _add(found: OpenShard, folder: Path, key: str, ending: str, refused: str = "") -> None:
    row = len(found.keys)
    if refused:
        found.refused[row] = refused
    found.keys.append(printable(key))
    found.endings.append(ending)
    found.images.append(ImageFile(folder / str(row), str(row)))


class _Members(tarfile.TarInfo):
    """Headers of members; what an extended header may take is bounded."""

    def _proc_member(self, archive: Any) -> Any:
        if self.type in _EXTENDED and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        parent: Any = super()
        return parent._proc_member(archive)


def _of_tar(path: Path, shard: Shard, stack: ExitStack) -> OpenShard:
    """Every member with the ending of an image, under the key that WebDataset gives it."""
    found, spans, others = OpenShard(), [], 0
    file = stack.enter_context(open_regular(path))
    size = os.fstat(file.fileno()).st_size
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_Members) as archive:
            kept: list[Any] = vars(archive)["members"]  # all of them, if nobody clears it
            while (member := archive.next()) is not None:
                kept.clear()
                name = PurePosixPath(member.name.encode("utf-8", "replace").decode())
                ending = name.suffix.lower()
                if ending[1:] not in ENDINGS or member.isdir():
                    others += member.isreg()
                    continue
                _add(found, path, _key(name), ending, _objection(member))
                spans.append((member.offset_data, member.size))
                if len(found) > _MOST_ROWS:
                    raise UserError(
                        f"{printable(shard.address)} has over {_MOST_ROWS:,} images; cut it into"
                        " smaller shards"
                    )
                if member.offset_data + member.size > size:
                    found.refused[len(found) - 1] = "the shard is cut short there"
            # for tarfile a header that is none ends the archive like the end itself
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("a header that is none")
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        reason = printable(error)[:120]
        if not found.keys:
            raise UserError(f"{printable(shard.address)} is not a tar ({reason})") from None
        if len(found) - 1 not in found.refused:  # what follows is an image, or several
            _add(found, path, "", "", f"the shard is damaged behind here ({reason})")
            spans.append((0, 0))
    if others and not found.keys:
        raise UserError(
            f"{printable(shard.address)} holds {counted(others, 'file')}, none with an image's"
            " ending (jpg, png, webp, ...)"
        )
    stack.enter_context(opened_rows(str(path), _Spans(file, spans)))
    return found


def _key(name: PurePosixPath) -> str:
    """Folder and name to its first dot; a hidden file's dot is no such."""
    return str(name.with_name(name.name[:1] + name.name[1:].partition(".")[0]))


def _objection(member: tarfile.TarInfo) -> str:
    if member.islnk() or member.issym():
        return "a link, and captune follows none in a tar"
    if member.issparse() or not member.isreg():
        return "no regular file"
    if not member.size:
        return "0 bytes"
    if member.size > _LARGEST_IMAGE:
        return f"{member.size / 2**30:.1f} GiB, too large for an image"
    return ""


def _of_table(path: Path, shard: Shard, stack: ExitStack) -> OpenShard:
    """The rows of a file of Parquet or Arrow."""
    parts = [part for part in parts_of(path) if part.rows]
    if not parts:
        return OpenShard()
    source = Source(str(path), "", shard.image_column)
    rows = ImageRows(source, path.parent, path.name, parts, shown=printable(shard.address))
    opened.pop(str(path), None)  # it is asked for its rows here alone
    return _spooled(rows, range(len(rows.names)), path, stack)


def _of_dataset(shard: Shard, stack: ExitStack) -> OpenShard:
    source = parse_source(shard.address)
    assert source is not None
    assert shard.rows is not None
    rows = open_dataset(source)
    assert isinstance(rows, ImageRows)
    return _spooled(rows, range(*shard.rows), rows.root / shard.stem, stack)


def _spooled(rows: ImageRows, numbers: range, folder: Path, stack: ExitStack) -> OpenShard:
    """Rows, copied one after the other into a file without a name."""
    if len(numbers) > _MOST_ROWS:
        raise UserError(f"{rows.shown} has {len(numbers):,} rows; cut it into smaller shards")
    found, spans = OpenShard(), []
    file = stack.enter_context(tempfile.TemporaryFile(prefix=TEMPORARY))  # noqa: SIM115
    keys = islice(_keys_of(rows), numbers.start, None)
    for number in numbers:
        key = next(keys, str(number))
        try:
            data = rows.image_bytes(number)
        except OSError as error:
            _add(found, folder, key, "", error.strerror or why(error))
            data = b""
        else:
            _add(found, folder, key, "", "" if data else "0 bytes")
        spans.append((file.tell(), len(data)))
        file.write(data)
    file.flush()
    stack.enter_context(opened_rows(str(folder), _Spans(file, spans)))
    return found


def _keys_of(rows: ImageRows) -> Iterator[str]:
    """What names a row: the first column of a usual name, or its number."""
    column = next((name for name in _KEYS if name in rows.columns), None)
    if column is None:
        return iter(())
    return (str(cell) for (cell,) in rows.values([column], "key"))


def _of_images(shard: Shard, stack: ExitStack) -> OpenShard:
    """A part of a folder; of a store its images are fetched first."""
    found = OpenShard(keys=[printable(name) for name in shard.images])
    found.endings = [PurePosixPath(name).suffix.lower() for name in shard.images]
    if not is_address(shard.address):
        found.images = images_of(shard)
        return found
    folder = stack.enter_context(private_folder(TEMPORARY))
    place = Place(shard.address)

    def bring(row: int) -> str:
        try:
            fetch(place.path(shard.images[row]), folder / str(row))
        except OSError as error:
            return why(error)
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        reasons = list(threads.map(bring, range(len(found))))
    found.refused = {row: reason for row, reason in enumerate(reasons) if reason}
    found.images = [ImageFile(folder / str(row), str(row)) for row in range(len(found))]
    return found
