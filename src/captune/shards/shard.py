"""Shards: what was asked for becomes some, and each, opened, has its images on this machine.

These are in the tar itself, in a spool, or where they lie. A tar is read by its headers alone, and
each image when somebody asks for it; a file of rows is unpacked into a file without a name. So no
image is in memory that is not being decoded.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice, product
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from captune.errors import UserError
from captune.files import private_folder
from captune.images import ImageFile, find_images
from captune.images.dataset import (
    ImageRows,
    Source,
    open_dataset,
    opened,
    opened_rows,
    parse_source,
    row_groups_of,
)
from captune.images.find import ENDINGS, why
from captune.options.shards import SHARD_FILES, SHARD_SIZE, holds_shards, is_address, names_shards
from captune.shards.places import TEMPORARY, Place, download, patiently, store_of, stored_files
from captune.text import counted
from captune_metrics.display import printable, quoted
from captune_metrics.files import open_regular

_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
_MOST = 1_000_000  # shards of a job
_MOST_ROWS = 1_000_000  # of a shard
_LONGEST_HEADER = 2**20  # bytes of a name, or of what else an extended header says
_EXTENDED = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_LARGEST_IMAGE = 2**31
_KEYS = ("__key__", "key", "id", "image_id", "file_name", "filename", "name", "url")
_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """What one process works on at a time; it travels to other machines.

    stem: of the files that it becomes. address: the file, or the folder or source of which `rows`
    are a part. images: paths of images, where it is a part of a folder. rows: first and behind the
    last, where it is a part of a dataset. image_column: of a file of rows, "" for its only one.
    """

    stem: str
    address: str
    images: tuple[str, ...] = ()
    rows: tuple[int, int] | None = None
    image_column: str = ""

    @property
    def identity(self) -> str:
        """Tells it from another shard that has the same stem."""
        if self.rows is not None:
            return f"{self.address} rows {self.rows[0]} to {self.rows[1]}"
        if not self.images:
            return self.address
        digest = hashlib.sha256("\0".join(self.images).encode("utf-8", "surrogateescape"))
        return f"{counted(len(self.images), 'image')} of {self.address} ({digest.hexdigest()[:12]})"


def find_shards(
    words: Sequence[str], *, size: int = 0, image_column: str | None = None
) -> list[Shard]:
    """The shards of files, patterns, folders, addresses and datasets, in the order given.

    size: images of a shard, where images or rows are cut into some. Raises UserError for what is
    not there and for none at all.
    """
    size = size or SHARD_SIZE
    found: list[Shard] = []
    loose: list[str] = []
    for given in words:
        for word in expanded(given):
            if (asked := parse_source(word)) is not None:
                rows = open_dataset(asked)
                found += _of_rows(word, rows, size) if isinstance(rows, ImageRows) else []
                loose += [] if isinstance(rows, ImageRows) else [str(rows)]
            elif is_address(word):
                found += _of_store(word, size)
            elif names_shards(word):
                found += [_of_file(path) for path in _files_here(word)]
            else:
                loose.append(word)
    if loose:
        images = find_images(loose)
        paths = [image.name for image in images.images]
        found += _cut(str(images.root), paths, size, images.root.name or "images")
    if not found:
        raise UserError(f"no shard in {quoted(words[0])}; name tars, Parquet files or a folder")
    if len(found) > _MOST:
        raise UserError(f"{len(found):,} shards: captune takes {_MOST:,} at most; make larger ones")
    column = image_column or ""
    return [replace(shard, image_column=column) for shard in _with_own_stems(found)]


def expanded(word: str) -> Iterator[str]:
    """`{000..003}.tar` -> four words, as a shell has it; a file of that very name is one.

    Raises UserError for more than a million.
    """
    parts = _BRACES.split(word)
    if len(parts) == 1 or os.path.lexists(word):
        return iter([word])
    choices = [[part] if i % 2 == 0 else _choices(part, word) for i, part in enumerate(parts)]
    made = list(islice(product(*choices), _MOST + 1))
    if len(made) > _MOST:
        raise UserError(f"{quoted(word)} stands for more than {_MOST:,} shards")
    return map("".join, made)


def _choices(inside: str, word: str) -> list[str]:
    span = _RANGE.fullmatch(inside)
    if span is None:
        return inside.split(",")
    first, last = int(span[1]), int(span[2])
    if abs(last - first) > _MOST:
        raise UserError(f"{quoted(word)} stands for more than {_MOST:,} shards")
    is_padded = any(number.startswith("0") and len(number) > 1 for number in span.groups())
    width = max(map(len, span.groups())) if is_padded else 0
    step = 1 if last >= first else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _of_file(path: str) -> Shard:
    return Shard(PurePosixPath(path).stem, path)


def _files_here(word: str) -> list[str]:
    """The shards that a file, a folder or a pattern of this machine stands for."""
    if Path(word).is_dir():
        paths = sorted(Path(word).iterdir())
        tars = [path for path in paths if path.suffix == ".tar"]
        paths = tars or [path for path in paths if path.suffix in SHARD_FILES]
    elif os.path.lexists(word):
        paths = [Path(word)]
    else:
        has_magic = glob.has_magic(word)
        paths = sorted(map(Path, glob.glob(word, recursive=True))) if has_magic else []  # noqa: PTH207
        if not paths:
            raise UserError(f"{quoted(word)} does not exist; name tars or Parquet files")
    return [str(path.absolute()) for path in paths]


def _of_store(word: str, size: int) -> list[Shard]:
    """A file, a pattern or a folder of a store; whether a file is there shows when it is read."""
    store, path = store_of(word)
    if word.lower().endswith(SHARD_FILES) and not glob.has_magic(word):
        return [_of_file(word)]
    if glob.has_magic(word):
        paths = sorted(patiently(word, lambda: store.glob(path)))
    else:
        paths = sorted(stored_files(word))
        if not holds_shards([one.rpartition("/")[2] for one in paths]):
            below = sorted(patiently(word, lambda: store.find(path)))
            images = [p for p in below if p.rpartition(".")[2].lower() in ENDINGS]
            if images and not any(p.endswith(SHARD_FILES) for p in paths):
                address = Place.of(word).address
                start = len(path.rstrip("/")) + 1
                stem = PurePosixPath(address).name
                return _cut(address, [p[start:] for p in images], size, stem)
    tars = [p for p in paths if p.endswith(".tar")]
    chosen = tars or [p for p in paths if p.endswith(SHARD_FILES)]
    if not chosen:
        raise UserError(f"{printable(word)} holds no tars, Parquet files or images")
    return [_of_file(store.unstrip_protocol(p)) for p in chosen]


def _cut(root: str, names: Sequence[str], size: int, stem: str) -> list[Shard]:
    """So many images each; names: below the root."""
    return [
        Shard(f"{stem}-{number:05d}", root, images=tuple(names[start : start + size]))
        for number, start in enumerate(range(0, len(names), size))
    ]


def _of_rows(source: str, rows: ImageRows, size: int) -> list[Shard]:
    count = len(rows.names)
    return [
        Shard(f"{rows.split}-{number:05d}", source, rows=(start, min(count, start + size)))
        for number, start in enumerate(range(0, count, size))
    ]


def _with_own_stems(shards: list[Shard]) -> list[Shard]:
    """a/0.tar and b/0.tar are a-0 and b-0; the same one twice is a mistake."""
    parts = [_stems(shard) for shard in shards]
    chosen = [1] * len(shards)
    while True:
        stems = ["-".join(part[-n:]) for part, n in zip(parts, chosen, strict=True)]
        counts = Counter(stems)
        twice = [i for i, stem in enumerate(stems) if counts[stem] > 1]
        if not twice:
            return [replace(shard, stem=stem) for shard, stem in zip(shards, stems, strict=True)]
        for i in twice:
            if chosen[i] >= len(parts[i]):
                raise UserError(
                    f"{quoted(shards[i].identity)} and another shard would both become"
                    f" {stems[i]}.parquet; give each shard once, or rename one"
                )
            chosen[i] += 1


def _stems(shard: Shard) -> list[str]:
    """Its stem behind the folders that it lies in; of a part of a folder the stem alone."""
    if shard.images or shard.rows is not None:
        return [*PurePosixPath(shard.address).parts[-3:-1], shard.stem]
    folders = PurePosixPath(shard.address.replace("://", "/")).parts[:-1]
    return [*(part.strip("/:\\") or "root" for part in folders), shard.stem]


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
            if shard.images:
                found = _of_images(shard, stack)
            elif shard.rows is not None:
                found = _of_dataset(shard, shard.rows, stack)
            else:
                path = Path(shard.address)
                if is_address(shard.address):
                    path = stack.enter_context(private_folder(TEMPORARY)) / path.name
                    download(shard.address, path)
                reader = _of_tar if path.suffix.lower() == ".tar" else _of_table
                found = reader(path, shard, stack)
        except OSError as error:
            raise UserError(f"{printable(shard.address)}: {why(error)}") from None
        yield found


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
    parts = [part for part in row_groups_of(path) if part.rows]
    if not parts:
        return OpenShard()
    source = Source(str(path), "", shard.image_column)
    rows = ImageRows(source, path.parent, path.name, parts, shown=printable(shard.address))
    opened.pop(str(path), None)  # it is asked for its rows here alone
    return _spooled(rows, range(len(rows.names)), path, stack)


def _of_dataset(shard: Shard, span: tuple[int, int], stack: ExitStack) -> OpenShard:
    source = parse_source(shard.address)
    assert source is not None
    rows = open_dataset(source)
    assert isinstance(rows, ImageRows)
    return _spooled(rows, range(*span), rows.root / shard.stem, stack)


def _spooled(rows: ImageRows, numbers: range, folder: Path, stack: ExitStack) -> OpenShard:
    """Rows, copied one after the other into a file without a name.

    What names a row is the first column of a usual name, or its number.
    """
    if len(numbers) > _MOST_ROWS:
        raise UserError(f"{rows.shown} has {len(numbers):,} rows; cut it into smaller shards")
    found, spans = OpenShard(), []
    file = stack.enter_context(tempfile.TemporaryFile(prefix=TEMPORARY))  # noqa: SIM115
    column = next((name for name in _KEYS if name in rows.columns), None)
    cells = iter(()) if column is None else rows.values([column], "key")
    keys = islice((str(cell) for (cell,) in cells), numbers.start, None)
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


def _of_images(shard: Shard, stack: ExitStack) -> OpenShard:
    """A part of a folder; of a store its images are fetched first."""
    found = OpenShard(keys=[printable(name) for name in shard.images])
    found.endings = [PurePosixPath(name).suffix.lower() for name in shard.images]
    if not is_address(shard.address):
        root = Path(shard.address)
        found.images = [ImageFile(root / name, name) for name in shard.images]
        return found
    folder = stack.enter_context(private_folder(TEMPORARY))
    place = Place(shard.address)

    def bring(row: int) -> str:
        try:
            download(place.path(shard.images[row]), folder / str(row))
        except OSError as error:
            return why(error)
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        reasons = list(threads.map(bring, range(len(found))))
    found.refused = {row: reason for row, reason in enumerate(reasons) if reason}
    found.images = [ImageFile(folder / str(row), str(row)) for row in range(len(found))]
    return found
