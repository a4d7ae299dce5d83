"""Files on their way from a browser to its set of images: counted while they come, never forgotten.

The framework's own route would keep a field of any size in memory, leave what it had written when a
browser goes away, and count nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from captune.webapp.rules import UPLOAD

if TYPE_CHECKING:
    from starlette.requests import Request

MOST_FILES = 1000  # in a request: as many as the page sends in one
UNCLAIMED_S = 600  # after so long, files that no image panel took are removed
SLOWEST_S = 15  # between two pieces of a request
_SLACK_BYTES = 1_000_000  # what stands around the files of a request


class Refusal(Exception):
    """A request that is not taken. status: of the answer, whose body is the sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class _Batch:
    """The files of one request. size_bytes: of those that are still there."""

    folder: Path
    paths: list[Path] = field(default_factory=list)
    size_bytes: int = 0


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
            found = next((one for one in batch.paths if str(one) == path), None) if batch else None
            if batch is None or found is None:
                return None
            batch.paths.remove(found)
            batch.size_bytes -= found.stat().st_size
            return found

    def drop(self, name: str) -> None:
        """Remove what is left of a request's files. name: of their folder."""
        with self._lock:
            batch = self._batches.pop(name, None)
        if batch is not None:
            shutil.rmtree(batch.folder, ignore_errors=True)

    def routes(self) -> list[Any]:
        """For the server, in the place of the framework's own."""
        from starlette.responses import JSONResponse, PlainTextResponse
        from starlette.routing import Route

        async def answer(request: Request) -> Any:
            try:
                return JSONResponse(await self.receive(request))
            except Refusal as refusal:
                return PlainTextResponse(str(refusal), refusal.status)

        return [Route(UPLOAD, answer, methods=["POST"])]

    async def receive(self, request: Request) -> list[str]:
        """Write the files of a request; their paths, in their order.

        Raises Refusal for what is no upload of the page, and for what is too large.
        """
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, more = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or not more.get(b"boundary"):
            raise Refusal(400, "an upload is multipart/form-data")
        name = secrets.token_hex(8)
        batch = _Batch(self.folder / name)
        batch.folder.mkdir(mode=0o700)
        with self._lock:
            self._batches[name] = batch
        parts = _Parts(batch, self._most_file, _progress(request.query_params.get("upload_id")))
        try:
            parser = MultipartParser(more[b"boundary"], parts.callbacks())
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
                await asyncio.to_thread(_parse, parser, chunk)
            if not parts.is_over:
                raise Refusal(400, "the upload ended in the middle")
        except BaseException as error:
            self.drop(name)
            if isinstance(error, FormParserError):
                raise Refusal(400, "the upload cannot be read") from None
            raise
        finally:
            parts.close()
        asyncio.get_running_loop().call_later(UNCLAIMED_S, self.drop, name)
        return [str(path) for path in batch.paths]


async def _chunks(request: Request) -> Any:
    """The body. Raises Refusal where nothing comes for long, or the browser goes away."""
    from starlette.requests import ClientDisconnect

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


def _parse(parser: Any, chunk: bytes) -> None:
    try:
        parser.write(chunk)
    except OSError as error:
        raise Refusal(507, f"it cannot be written ({error.strerror})") from None


class _Progress:
    """What the page's bar shows, where it asked for one."""

    def __init__(self, id: str | None) -> None:
        from gradio.routes import file_upload_statuses

        self._id, self._statuses = id, file_upload_statuses
        if id is not None:
            self._statuses.track(id)

    def add(self, name: str, data: bytes) -> None:
        if self._id is not None:
            self._statuses.append(self._id, name, data)

    def end(self) -> None:
        if self._id is not None:
            self._statuses.set_done(self._id)


def _progress(id: str | None) -> _Progress:
    return _Progress(id if id and len(id) <= 64 else None)


class _Parts:
    """What the parser finds: files, each with its name, and nothing else."""

    def __init__(self, batch: _Batch, most_bytes: int, progress: _Progress) -> None:
        self._batch, self._most, self._progress = batch, most_bytes, progress
        self._header, self._value = b"", b""
        self._disposition = b""
        self._name, self._size = "", 0
        self._file: IO[bytes] | None = None
        self.is_over = False

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
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
        self._progress.end()

    def _begin(self) -> None:
        self._disposition = b""

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, named = parse_options_header(self._disposition)
        if named.get(b"name") != b"files" or b"filename" not in named:
            raise Refusal(400, "an upload holds files and nothing else")
        if len(self._batch.paths) >= MOST_FILES:
            raise Refusal(413, f"more than {MOST_FILES:,} files at a time")
        self._name = named[b"filename"].decode("utf-8", "replace")
        path = self._batch.folder / str(len(self._batch.paths) + 1)
        self._batch.paths.append(path)
        self._file, self._size = path.open("wb"), 0

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._file is not None  # the parser calls _open before
        piece = data[start:end]
        self._size += len(piece)
        if self._size > self._most:
            raise Refusal(413, f"a file is over the limit of {self._most / 1e6:,.0f} MB")
        self._file.write(piece)
        self._batch.size_bytes += len(piece)
        self._progress.add(self._name, piece)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self.is_over = True
