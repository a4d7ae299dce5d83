"""Folders, files, patterns and lists -> the images to work on, each with a name that lasts."""

from __future__ import annotations

import glob
import io
import os
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias, TypeVar

from captune.errors import UserError
from captune.images.dataset import ImageRows, open_dataset, parse_source
from captune_metrics.display import printable

if TYPE_CHECKING:
    from PIL.Image import Image

# folders, files, patterns and lists; or the bytes of image files and PIL images, with names or not
ImageData: TypeAlias = "bytes | Image"
Images: TypeAlias = (
    "str | Path | ImageData | Sequence[str | Path | ImageData] | Mapping[str, ImageData]"
)

T = TypeVar("T")
ENDINGS = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm", "jp2", "avif", "avifs", "heic", "heif", "hif"}
)
_HIDDEN_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # pathlib leaves one slash of s3://
_WAYS = "give a folder, image files, a pattern such as 'images/*.jpg', or - for a list"


class ImageInMemory(type(Path())):  # type: ignore[misc]
    """An image of Python in the place of its path, which it is by name only; equal to itself alone.

    called: its name. data: the bytes of an image file. refused: why there are none of a PIL image.
    """

    called: str
    data: bytes
    refused: str

    @classmethod
    def of(cls, called: str, picture: ImageData, refused: str = "") -> ImageInMemory:
        """Raises UserError for neither the bytes of a file nor a PIL image."""
        made = cls(called)
        if not isinstance(picture, bytes | bytearray | memoryview):
            from captune.images.formats import file_of

            picture, refused = file_of(picture)
        made.called, made.data, made.refused = called, bytes(picture), refused
        return made

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        return ImageInMemory.of, (self.called, self.data, self.refused)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image file. `path == root / name`; the name has forward slashes on every system.

    Of an image in memory the path is an `ImageInMemory`, which the functions of this package read.

    given: its path as somebody gave it: a listed path as it is, one in a folder with that folder in
    front; "" where nobody did.
    A name whose bytes are not UTF-8 keeps them as surrogate escapes (PEP 383): write it with
    `errors="surrogateescape"`, or show it with `printable`.
    """

    path: Path
    name: str
    given: str = field(default="", compare=False)

    @property
    def spelled(self) -> str:
        """What others are told: the path as it came in, so that they can join it with theirs."""
        return self.given or self.name


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was asked for and left out: its name relative to the root, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """root: absolute. images: sorted by name, code point by code point, so `1_10` before `1_2`.

    Images in memory have no root (`Path()`), and stay in their order.

    given: the path of each skipped file as it was given, by its name relative to the root.
    """

    root: Path
    images: list[ImageFile]
    skipped: list[Skipped]
    given: dict[str, str] = field(default_factory=dict, repr=False)

    def as_given(self, skipped: Sequence[Skipped]) -> list[Skipped]:
        """The same with their paths as they were given."""
        names = {item.path for item in skipped}
        images = {image.name: image.spelled for image in self.images if image.name in names}
        spelled = self.given | images
        return [replace(item, path=spelled.get(item.path, item.path)) for item in skipped]


def image_sources(images: Images | Iterable[ImageFile]) -> list[Any]:
    """Images as a list of sources for `find_images`; those of Python are each an `ImageInMemory`.

    Of a mapping they have their names, else they are "image 1", "image 2" and so on. Raises
    UserError for what is no image.
    """
    if isinstance(images, Mapping):
        return [ImageInMemory.of(str(name), picture) for name, picture in images.items()]
    is_one = isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | io.IOBase)
    several: Any = [images] if is_one or not isinstance(images, Iterable) else images
    return [_source(one, number) for number, one in enumerate(several, 1)]


def _source(one: Any, number: int) -> str | ImageInMemory | ImageFile:
    if isinstance(one, ImageInMemory | ImageFile):
        return one
    if isinstance(one, str | os.PathLike):
        return os.fspath(one)
    return ImageInMemory.of(f"image {number}", one)


def find_images(sources: Images, stdin: TextIO | None = None, *, limit: int = 0) -> ImageSet:
    """The images in folders, files, patterns and lists, each real file once, sorted by name.

    sources: a folder stands for every image file under it, known by its ending; links are
        followed, loops end, hidden files are left out without a word. A file is taken whatever
        its ending. A pattern (`*`, `?`, `[...]`, `**` for any folders) is tried when no file has
        that very name; what it matches counts like the content of a folder, unless the pattern
        spells out an ending. "-" reads literal paths from `stdin`, separated by newlines, or by
        NUL bytes where there is one; without `stdin` that is the program's own.
        `PLACE#split=NAME` alone stands for the rows of a dataset, in their order (`dataset`).
        The bytes of image files and PIL images are taken alone, too, also as {name: image}.
    The root is the folder, or the common parent when there are several sources; a pattern counts
    as the folder in front of its first wildcard.
    limit: at most so many images, a random sample that is the same every time; 0 takes all.
    Raises UserError when a source does not exist or no image was found at all.
    """
    given = image_sources(sources)
    held = [one for one in given if isinstance(one, ImageInMemory)]
    if held:
        if len(held) < len(given):
            raise UserError("images: give files or images in memory, each in a call of its own")
        return ImageSet(Path(), sampled([ImageFile(one, one.called) for one in held], limit), [])
    if len(given) == 1 and (asked := parse_source(given[0])) is not None:
        rows = open_dataset(asked)
        if isinstance(rows, ImageRows):
            images = sampled([ImageFile(rows.root / name, name) for name in rows.names], limit)
            return ImageSet(rows.root, images, [])
        given = [str(rows)]
    search = _Search()
    for source in given:
        if source == "-":
            search.add_list(_listed(stdin))
        else:
            search.add(source)
    if not search.files:
        raise UserError(search.why_nothing(given))
    found = search.result()
    return replace(found, images=sampled(found.images, limit))


def sampled(several: list[T], limit: int, seed: int = 0) -> list[T]:
    """At most `limit` of them in their order, the same ones for a seed; 0 takes all."""
    if not 0 < limit < len(several):
        return several
    places = random.Random(seed).sample(range(len(several)), limit)  # noqa: S311
    return [several[i] for i in sorted(places)]


def check_sources(sources: Iterable[str | Path]) -> None:
    """Raise UserError for what no images can be found in, as `find_images` would."""
    for source in sources:
        if source != "-" and parse_source(source) is None:
            _refuse_archive(_place(os.fspath(source)))


class _Search:
    """Collects absolute paths, then names them relative to what all of them share.

    A million paths stay plain strings until the last step.
    """

    def __init__(self) -> None:
        self.bases: set[str] = set()
        self.files: dict[str, tuple[str, str]] = {}  # real path -> its path, absolute and as given
        self.skipped: dict[str, tuple[str, str]] = {}  # path -> as given, reason
        self.source = ("", "")  # what is being searched, absolute and as given
        self.other_files = 0

    def add(self, source: str) -> None:
        path = _place(source)
        if os.path.lexists(path):
            self.add_existing(path)
        else:
            self.add_pattern(path)

    def add_existing(self, given: str) -> None:
        path = _absolute(given)
        self.source = (path, given)
        if os.path.isdir(path):
            self.bases.add(path)
            self.add_by_ending(self.walk(path))
        else:
            _refuse_archive(path)
            self.bases.add(os.path.dirname(path))
            self.add_file(path, os.path.realpath(path))

    def add_list(self, paths: Iterable[str]) -> None:
        """A listed path that is gone is skipped and named: the rest of a long list goes on."""
        for path in paths:
            if os.path.lexists(path):
                self.add_existing(path)
            elif _URL.match(path):
                self.skipped[path] = (path, "an address, not a file")
            else:
                self.skipped[_absolute(path)] = (path, "no such file")

    def add_pattern(self, pattern: str) -> None:
        parts = Path(pattern).parts
        first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        given = os.path.join("", *parts[:first])
        base = _absolute(given or os.curdir)
        self.source = (base, given)
        ending = os.path.splitext(parts[-1])[1]
        spelled_out = bool(ending) and not glob.has_magic(ending)
        found = False
        for path, real in self.matches(base, parts[first:]):
            found = True
            if os.path.isdir(path):
                self.add_by_ending(self.walk(path))
            elif spelled_out:
                self.add_file(path, real)
            else:
                self.add_by_ending([(path, real)])
        if not found:
            raise UserError(f"the pattern {_quoted(pattern)} matches nothing; {_WAYS}.")
        self.bases.add(base)

    def matches(self, base: str, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
        if "**" not in parts:
            for match in glob.iglob(os.path.join(*parts), root_dir=base):
                path = _absolute(os.path.join(base, match))
                yield path, os.path.realpath(path)
            return
        # glob.glob(recursive=True) would follow two looping links 2**40 times.
        for path, real in self.walk(base):
            if _matches(_name(path, base).split("/"), parts):
                yield path, real

    def walk(self, folder: str) -> Iterator[tuple[str, str]]:
        """Every visible file below, with its real path; linked folders last: names avoid links."""
        folders = [(folder, os.path.realpath(folder))]
        linked: list[str] = []
        walked: set[str] = set()
        while folders or linked:
            if folders:
                current, real = folders.pop()
            else:
                current = linked.pop(0)
                real = os.path.realpath(current)
            if real in walked:
                continue
            walked.add(real)
            try:
                with os.scandir(current) as entries:
                    listing = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.skipped[current] = (self.given(current), why(error))
                continue
            for entry in listing:
                if entry.name.startswith(".") or entry.name in _HIDDEN_FOLDERS:
                    continue
                try:
                    is_folder, is_link = entry.is_dir(), entry.is_symlink()
                except OSError as error:
                    self.skipped[entry.path] = (self.given(entry.path), why(error))
                    continue
                if is_folder and is_link:
                    linked.append(entry.path)
                    continue
                if is_link:
                    real_entry = os.path.realpath(entry.path)
                else:
                    real_entry = entry.path if real == current else os.path.join(real, entry.name)
                if is_folder:
                    folders.append((entry.path, real_entry))
                else:
                    yield entry.path, real_entry

    def add_by_ending(self, paths: Iterable[tuple[str, str]]) -> None:
        for path, real in paths:
            if os.path.splitext(path)[1][1:].lower() in ENDINGS:
                self.add_file(path, real)
            else:
                self.other_files += 1

    def add_file(self, path: str, real: str) -> None:
        if path == real or real not in self.files:
            self.files[real] = (path, self.given(path))

    def given(self, path: str) -> str:
        """A path below the source, which stands in front of it as it was given."""
        base, given = self.source
        below = path[len(base) :].lstrip(os.sep)
        return os.path.join(given, below) if below else given

    def result(self) -> ImageSet:
        try:
            root = os.path.commonpath(self.bases)
        except ValueError:
            raise UserError(
                "the images lie on different drives; give those of one drive at a time."
            ) from None
        images = [
            ImageFile(Path(path), _name(path, root), given) for path, given in self.files.values()
        ]
        images.sort(key=lambda image: image.name)
        names = {path: _name(path, root) for path in sorted(self.skipped)}
        skipped = [Skipped(name, self.skipped[path][1]) for path, name in names.items()]
        given = {name: self.skipped[path][0] for path, name in names.items()}
        return ImageSet(Path(root), images, skipped, given)

    def why_nothing(self, sources: Sequence[str]) -> str:
        if not sources:
            return f"no images were given; {_WAYS} on standard input."
        given = "standard input" if sources[0] == "-" else _quoted(sources[0])
        if len(sources) > 1:
            given += f" (and {len(sources) - 1} more)"
        if self.skipped:
            path, (_, reason) = next(iter(self.skipped.items()))
            more = f" ({len(self.skipped)} such places)" if len(self.skipped) > 1 else ""
            return f"no images in {given}: {printable(path)}: {reason}{more}."
        if self.other_files:
            files = "1 file" if self.other_files == 1 else f"{self.other_files} files"
            return (
                f"no images in {given}: {files}, none with an image's ending (jpg,"
                " png, webp, ...); name a file itself to try it whatever its ending."
            )
        return (
            f"no images in {given}: it is empty (hidden files do not count); {_WAYS} on standard"
            " input."
        )


def _place(source: str) -> str:
    """A file, a folder or a pattern; `~` is the home folder unless a file is called so."""
    path = source if os.path.lexists(source) else os.path.expanduser(source)
    if os.path.lexists(path):
        return path
    if _URL.match(source):
        raise UserError(
            f"{_quoted(source)} is an address, and captune reads files; download the images"
            " first and give their folder."
        )
    if not glob.has_magic(path):
        raise UserError(f"{_quoted(source)} {_why_missing(path)}; {_WAYS} on standard input.")
    return path


def _refuse_archive(path: str) -> None:
    if path.lower().endswith(_ARCHIVES) and not os.path.isdir(path):
        raise UserError(
            f"{_quoted(_absolute(path))} is an archive, which captune does not open; unpack it"
            " and give the folder."
        )


def _listed(stdin: TextIO | None) -> list[str]:
    stdin = stdin or sys.stdin
    binary = getattr(stdin, "buffer", None)
    text = stdin.read() if binary is None else os.fsdecode(binary.read())
    lines = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [line for line in lines if line]


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Part by part; `**` stands for any folders, and in the last place for any file below."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        if len(patterns) == 1:
            return bool(names)
        return any(_matches(names[start:], patterns[1:]) for start in range(len(names)))
    return bool(names) and fnmatch(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _absolute(path: str) -> str:
    """Absolute without resolving links, except where `..` makes the spelling ambiguous."""
    if os.pardir in Path(path).parts:
        folder, name = os.path.split(path.rstrip(os.sep))
        if name in (os.curdir, os.pardir):
            return os.path.realpath(path)
        return os.path.join(os.path.realpath(folder), name)
    return os.path.abspath(path)


def _name(path: str, root: str) -> str:
    start = root.rstrip(os.sep) + os.sep
    return path[len(start) :].replace(os.sep, "/") if path.startswith(start) else path


def _quoted(source: str) -> str:
    return f"'{printable(source)}'"


def _why_missing(path: str) -> str:
    try:
        os.lstat(path)
    except PermissionError:
        return "lies in a folder that may not be read"
    except (OSError, ValueError):
        pass
    return "does not exist"


def why(error: OSError) -> str:
    """An operating system's refusal as a short phrase."""
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror or type(error).__name__).lower()
