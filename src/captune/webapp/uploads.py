"""Images that people drop: taken in piece by piece, checked, in a private folder that goes away.

A file arrives in a request (`Arrivals`), and a panel of the page takes it into its set of images
(`Uploads`). Each set has a folder of its own, below one that only this user may enter, and belongs
to whoever knows its id, which nobody can guess. All bytes are counted while they come. Of the
framework's own route for uploads, none of this holds: it would keep a field of any size in memory,
leave what it had written when a browser goes away, and count nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from captune.errors import UserError
from captune.images import ImageFile, ImageSet, Skipped, UnreadableImage
from captune.images.decode import opened_image
from captune.images.find import ENDINGS
from captune.pages.thumbnails import THUMBNAIL_PX, thumbnail
from captune.webapp.guard import SLOWEST_S, Refusal
from captune_metrics.display import printable

SETS_KEPT = 128  # sets: the one that was longest not used goes first
MOST_BYTES = 4 * 2**30  # of all sets together, and of what is on its way into them
STALE_S = 3600  # a set that was not used for so long makes room for others
MOST_FILES = 1000  # in a request: as many as the page sends in one
UNCLAIMED_S = 600  # after so long, files that no image panel took are removed
_SLACK_BYTES = 1_000_000  # what stands around the files of a request
_LONGEST_NAME = 120
_FORBIDDEN = '<>:"|?*' if os.name == "nt" else ""


@dataclass(frozen=True)
class Dropped:
    """A file as it came: where it lies now, or None, and what the person calls it."""

    path: Path | None
    name: str


@dataclass
class ImageFolder:
    """One person's images, sorted by name as every command sorts them.

    refused, repeated: of the files that came last, what is no image, and what was there already.
    digests: the name of each image by the SHA-256 of its bytes. thumbnails: by name, small JPEGs as
    data URIs.
    """

    id: str
    folder: Path
    images: list[ImageFile] = field(default_factory=list)
    refused: list[Skipped] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    thumbnails: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def names(self) -> list[str]:
        """In their order."""
        return [image.name for image in self.images]

    @property
    def sources(self) -> list[str]:
        """What a command has to be given to read them: their folder, as far as endings allow."""
        if all(image.path.suffix[1:].lower() in ENDINGS for image in self.images):
            return [str(self.folder)]
        return [str(image.path) for image in self.images]

    @property
    def found(self) -> ImageSet:
        """As jobs take images that are found already."""
        return ImageSet(self.folder, self.images, [])

    def image(self, name: str | None) -> ImageFile:
        """Raises UserError where there is none of that name."""
        for one in self.images:
            if one.name == name:
                return one
        raise UserError(
            f"{printable(name)} is not among your images" if name else "drop an image first"
        )


class Uploads:
    """All images that were dropped since the app started."""

    def __init__(self, folder: Path, *, most_images: int, most_bytes: int) -> None:
        """most_images: of one set. most_bytes: of one image."""
        self.most_images, self.most_bytes = most_images, most_bytes
        self._folder = folder
        self._sets: OrderedDict[str, ImageFolder] = OrderedDict()
        self._lock = threading.RLock()

    def find(self, id: str | None) -> ImageFolder | None:
        """The set of that id, or None where there is none any more."""
        with self._lock:
            if not isinstance(id, str) or id not in self._sets:
                return None
            self._sets.move_to_end(id)
            self._sets[id].used = time.monotonic()
            return self._sets[id]

    def room(self, arriving: int) -> int:
        """Bytes that there may be beside the sets and so many on their way; stale sets go first."""
        with self._lock:
            held = arriving + sum(one.size_bytes for one in self._sets.values())
            for one in list(self._sets.values()):
                if held < MOST_BYTES or time.monotonic() - one.used < STALE_S:
                    break
                self.clear(one.id)
                held -= one.size_bytes
        return MOST_BYTES - held

    def images_of(self, id: str | None) -> ImageFolder:
        """As `find`. Raises UserError where there are no images."""
        found = self.find(id)
        if found is None or not found.images:
            raise UserError("there are no images yet; drop some, or take the examples")
        return found

    def add(self, id: str | None, files: Sequence[Dropped]) -> ImageFolder:
        """Take files into a set, a new one where there is none; what is no image is refused.

        The files themselves are moved or removed. Bytes that are there already are not taken again.
        """
        found = self.find(id) or self._new()
        found.refused, found.repeated = [], []
        for file in files:
            try:
                if file.path is None:
                    raise UnreadableImage("it is no longer there; drop it again")
                self._take(found, file.path, file.name)
            except UnreadableImage as error:
                found.refused.append(Skipped(_plain_name(file.name), error.reason))
            finally:
                if file.path is not None:
                    file.path.unlink(missing_ok=True)
        with self._lock:
            self.find(found.id)  # so that it is not the oldest
            while len(self._sets) > SETS_KEPT:
                self.clear(next(iter(self._sets)))
        return found

    def remove(self, id: str | None, name: str) -> ImageFolder | None:
        """Forget one image of a set; it may be gone already, by a second click or another page."""
        with self._lock:
            found = self.find(id)
            if found is None or name not in found.names:
                return found
            image = found.image(name)
            found.size_bytes -= image.path.stat().st_size
            image.path.unlink()
            found.images = [one for one in found.images if one is not image]
            found.digests = {key: one for key, one in found.digests.items() if one != name}
            found.refused, found.repeated = [], []
            del found.thumbnails[name]
        return found

    def clear(self, id: str | None) -> None:
        """Forget a set."""
        with self._lock:
            found = self._sets.pop(id, None) if isinstance(id, str) else None
        if found is not None:
            shutil.rmtree(found.folder, ignore_errors=True)
            found.images, found.thumbnails = [], {}

    def _take(self, found: ImageFolder, path: Path, given: str) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = _plain_name(given)
        if (there := found.digests.get(digest)) is not None:
            found.repeated.append(name if name == there else f"{name}, the same file as {there}")
            return
        if len(found.images) >= self.most_images:
            raise UnreadableImage(f"one image more than the {self.most_images:,} that fit")
        size = path.stat().st_size
        if size > self.most_bytes:
            limit = self.most_bytes / 1e6
            raise UnreadableImage(f"{size / 1e6:.0f} MB, over the limit of {limit:.0f} MB")
        with opened_image(path, at_least=2 * THUMBNAIL_PX) as image:
            small = thumbnail(image)
        name = _free_name(name, found.thumbnails)
        place = found.folder / name
        path.replace(place)
        with self._lock:
            found.images = sorted([*found.images, ImageFile(place, name)], key=lambda one: one.name)
            found.digests[digest] = name
            found.thumbnails[name] = small
            found.size_bytes += size

    def _new(self) -> ImageFolder:
        id = secrets.token_urlsafe(18)
        folder = self._folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        with self._lock:
            self._sets[id] = ImageFolder(id, folder)
            return self._sets[id]


def _plain_name(name: str) -> str:
    """The last part of a name, as no system refuses it; what else stands in it stays."""
    last = re.split(r"[/\\]", name)[-1]
    plain = "".join(
        sign if sign.isprintable() and sign not in _FORBIDDEN else "_" for sign in last
    ).strip(" .")
    stem, dot, ending = plain.rpartition(".")
    while len(plain.encode()) > _LONGEST_NAME and stem:
        stem = stem[:-1]
        plain = stem + dot + ending
    return plain[:_LONGEST_NAME] or "image"


def _free_name(name: str, taken: Collection[str]) -> str:
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = ending, ""
    numbered = (f"{stem} ({number}){dot}{ending}" for number in count(2))
    return next(free for free in chain([name], numbered) if free not in taken)


class Arrivals:
    """What was uploaded and is in no set yet. folder: the only one that events may name files of.

    room: how many bytes more there may be beside so many; asked while files come.
    """

    def __init__(
        self, folder: Path, *, most_bytes: int, most_files: int, room: Callable[[int], int]
    ) -> None:
        """most_bytes: of one file. most_files: as many of that size may come in one request."""
        self.folder = folder
        self._most_file, self._most_request = most_bytes, most_bytes * most_files + _SLACK_BYTES
        self._room = room
        self._batches: dict[str, _Batch] = {}
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Of all files that came, or are coming."""
        with self._lock:
            return sum(batch.size_bytes for batch in self._batches.values())

    def claim(self, path: str) -> Path | None:
        """The file that the route gave out under that name, once; it is the caller's then."""
        with self._lock:
            batch = self._batches.get(Path(path).parent.name)
            if batch is None or Path(path) not in batch.paths:
                return None
            batch.paths.remove(Path(path))
            batch.size_bytes -= Path(path).stat().st_size
            return Path(path)

    def drop(self, name: str) -> None:
        """Remove what is left of a request's files. name: of their folder."""
        with self._lock:
            batch = self._batches.pop(name, None)
        if batch is not None:
            shutil.rmtree(batch.folder, ignore_errors=True)

    async def answer(self, request: Request) -> Response:
        """In the place of the framework's own route."""
        try:
            return JSONResponse(await self._receive(request))
        except Refusal as refusal:
            return PlainTextResponse(str(refusal), refusal.status)

    async def _receive(self, request: Request) -> list[str]:
        """Write the files of a request; their paths, in their order.

        Raises Refusal for what is no upload of the page, and for what is too large.
        """
        kind, more = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or not more.get(b"boundary"):
            raise Refusal(400, "an upload is multipart/form-data")
        name = secrets.token_hex(8)
        batch = _Batch(
            self.folder / name, self._most_file, request.query_params.get("upload_id", "")
        )
        with self._lock:
            self._batches[name] = batch
        try:
            parser = MultipartParser(more[b"boundary"], batch.callbacks())
            received = 0
            async for chunk in _chunks(request):
                received += len(chunk)
                if received > self._most_request:
                    raise Refusal(413, f"more than {self._most_request / 1e6:,.0f} MB at a time")
                if self._room(self.size_bytes) < len(chunk):
                    raise Refusal(
                        413,
                        "the app holds as many images as it may; press Forget my images, or try"
                        " again in an hour",
                    )
                await asyncio.to_thread(parser.write, chunk)
            if not batch.is_over:
                raise Refusal(400, "the upload ended in the middle")
        except BaseException as error:
            self.drop(name)
            if isinstance(error, FormParserError):
                raise Refusal(400, "the upload cannot be read") from None
            if isinstance(error, OSError):
                raise Refusal(507, f"it cannot be written ({error.strerror})") from None
            raise
        finally:
            batch.close()
        asyncio.get_running_loop().call_later(UNCLAIMED_S, self.drop, name)
        return [str(path) for path in batch.paths]


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body. Raises Refusal where nothing comes for long, or the browser goes away."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(SLOWEST_S):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refusal(408, f"nothing came for {SLOWEST_S} s") from None
        except ClientDisconnect:
            raise Refusal(400, "the browser went away") from None
        if chunk:
            yield chunk


class _Batch:
    """The files of one request, as the parser finds them, and nothing else.

    paths, size_bytes: of those that are still there. most_bytes: of one file. upload_id: where the
    page's bar looks for progress; empty where it asked for none.
    """

    def __init__(self, folder: Path, most_bytes: int, upload_id: str) -> None:
        from gradio.routes import file_upload_statuses

        folder.mkdir(mode=0o700)
        self.folder = folder
        self.paths: list[Path] = []
        self.size_bytes = 0
        self.is_over = False
        self._most = most_bytes
        self._statuses = file_upload_statuses
        self._upload_id = upload_id if len(upload_id) <= 64 else ""
        if self._upload_id:
            self._statuses.track(self._upload_id)
        self._header, self._value, self._disposition = b"", b"", b""
        self._name, self._size = "", 0
        self._file: IO[bytes] | None = None

    def callbacks(self) -> Any:
        return {
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self._close_file,
            "on_end": self._end,
        }

    def close(self) -> None:
        """Also in the middle of a file."""
        self._close_file()
        if self._upload_id:
            self._statuses.set_done(self._upload_id)

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, named = parse_options_header(self._disposition)
        self._disposition = b""
        if named.get(b"name") != b"files" or b"filename" not in named:
            raise Refusal(400, "an upload holds files and nothing else")
        if len(self.paths) >= MOST_FILES:
            raise Refusal(413, f"more than {MOST_FILES:,} files at a time")
        self._name = named[b"filename"].decode("utf-8", "replace")
        path = self.folder / str(len(self.paths) + 1)
        self.paths.append(path)
        self._file, self._size = path.open("wb"), 0

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None  # the parser calls _open before
        piece = data[start:end]
        self._size += len(piece)
        if self._size > self._most:
            raise Refusal(413, f"a file is over the limit of {self._most / 1e6:,.0f} MB")
        self._file.write(piece)
        self.size_bytes += len(piece)
        if self._upload_id:
            self._statuses.append(self._upload_id, self._name, piece)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self.is_over = True
