"""What was asked for -> shards, each with a stem of its own."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path, PurePosixPath

from captune.errors import UserError
from captune.images import ImageFile, find_images
from captune.images.dataset import ImageRows, open_dataset, parse_source
from captune.images.find import ENDINGS
from captune.options.shards import FILES, SHARD_SIZE, holds_shards, is_address, names_shards
from captune.shards.places import Place, patiently, store_of, stored_files
from captune.text import counted
from captune_metrics.display import printable, quoted

_BRACES = re.compile(r"\{([^{}]*(?:,|\.\.)[^{}]*)\}")
_RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
_MOST = 1_000_000  # shards of a job


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
        paths = tars or [path for path in paths if path.suffix in FILES]
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
    if word.lower().endswith(FILES) and not glob.has_magic(word):
        return [_of_file(word)]
    if glob.has_magic(word):
        paths = sorted(patiently(word, lambda: store.glob(path)))
    else:
        paths = sorted(stored_files(word))
        if not holds_shards([one.rpartition("/")[2] for one in paths]):
            below = sorted(patiently(word, lambda: store.find(path)))
            images = [p for p in below if _is_image(p)]
            if images and not any(p.endswith(FILES) for p in paths):
                address = Place.of(word).address
                start = len(path.rstrip("/")) + 1
                stem = PurePosixPath(address).name
                return _cut(address, [p[start:] for p in images], size, stem)
    tars = [p for p in paths if p.endswith(".tar")]
    chosen = tars or [p for p in paths if p.endswith(FILES)]
    if not chosen:
        raise UserError(f"{printable(word)} holds no tars, Parquet files or images")
    return [_of_file(store.unstrip_protocol(p)) for p in chosen]


def _is_image(path: str) -> bool:
    return path.rpartition(".")[2].lower() in ENDINGS


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


def images_of(shard: Shard) -> list[ImageFile]:
    """The images of a part of a folder of this machine, which lie where they are."""
    root = Path(shard.address)
    return [ImageFile(root / name, name) for name in shard.images]
