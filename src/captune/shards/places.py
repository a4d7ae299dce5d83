"""Folders where shards are read and written: of this machine, or of any store that fsspec opens.

What is written appears whole: a temporary name and a rename here, one PUT on an object store.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from captune.errors import UserError
from captune.files import partial_path, private_folder, whole_file
from captune.images.find import why
from captune.options.shards import is_address, spelled
from captune.storage import refuse_offline
from captune_metrics.display import printable
from captune_metrics.files import read_regular

logger = logging.getLogger("captune")
T = TypeVar("T")

_WAITS_S = (0.5, 2.0, 8.0)  # between tries
_TOO_MANY_REQUESTS = 429  # like the server errors above it, worth another try
_AT_ONCE = 16  # requests for small files
_OF_STORES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "httpx", "requests", "s3fs"}
_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_SETTLED = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError)
# what a killed process left is swept by this name, which nobody gives to a folder of results
TEMPORARY = ".captune-fetched-"


class StoreError(UserError):
    """A store did not give or take a file, however often it was asked."""


@dataclass(frozen=True)
class Place:
    """A folder: a path of this machine, or an address such as s3://bucket/folder."""

    address: str

    @classmethod
    def of(cls, text: str | os.PathLike[str]) -> Place:
        """Also of what pathlib made of an address, s3:/bucket/folder."""
        given = os.fspath(text)
        if "\0" in given:
            raise UserError(f"{printable(given)} is not a valid path")
        return cls(spelled(given).rstrip("/") if is_address(given) else str(Path(given).absolute()))

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return not is_address(self.address)

    def path(self, name: str) -> str:
        """The whole address of a file in it."""
        return f"{self.address}/{name}"

    def names(self) -> set[str]:
        """The files in it; none where it does not exist."""
        if self.is_local:
            with self._readable(), suppress(*_NOT_THERE), os.scandir(self.address) as entries:
                return {entry.name for entry in entries if entry.is_file()}
            return set()
        return {path.rpartition("/")[2] for path in stored_files(self.address)}

    def read(self, name: str) -> bytes:
        """A small file. Raises FileNotFoundError where there is none, else UserError."""
        if self.is_local:
            with self._readable(name):
                return read_regular(self.path(name))
        store, path = store_of(self.path(name))
        found: bytes = patiently(self.path(name), lambda: store.cat_file(path))
        return found

    @contextmanager
    def _readable(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except _NOT_THERE:
            raise
        except OSError as error:
            shown = printable(self.path(name) if name else self.address)
            raise UserError(f"{shown} cannot be read ({why(error)})") from None

    def read_all(self, names: Sequence[str]) -> Iterator[bytes]:
        """Small files, in the order of `names`, many at a time."""
        with ThreadPoolExecutor(1 if self.is_local else _AT_ONCE) as threads:
            for start in range(0, len(names), 1000):
                yield from threads.map(self.read, names[start : start + 1000])

    def write(self, name: str, data: bytes) -> None:
        """A small file, whole."""
        if self.is_local:
            with whole_file(Path(self.path(name)), "wb") as file:
                file.write(data)
            return
        store, path = store_of(self.path(name))
        patiently(self.path(name), lambda: store.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """A small file that was not there; False where it was."""
        try:
            if self.is_local:
                _link_new(Path(self.path(name)), data)
                return True
            store, place = store_of(self.path(name))
            patiently(self.path(name), lambda: store.pipe_file(place, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Take a file away; it may be gone already."""
        with suppress(FileNotFoundError):
            if self.is_local:
                Path(self.path(name)).unlink()
            else:
                store, path = store_of(self.path(name))
                patiently(self.path(name), lambda: store.rm_file(path))

    def has(self, name: str) -> bool:
        """Whether a file is there now."""
        if self.is_local:
            return Path(self.path(name)).is_file()
        store, path = store_of(self.path(name))
        store.invalidate_cache()
        return bool(patiently(self.path(name), lambda: store.exists(path)))

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file of any size, which is there when the block ends well."""
        if self.is_local:
            with whole_file(Path(self.path(name)), "wb") as file:
                yield file
            return
        store, path = store_of(self.path(name))
        with private_folder(TEMPORARY) as folder:
            with (folder / "file").open("wb") as file:
                yield file
            patiently(self.path(name), lambda: store.put_file(str(folder / "file"), path))


def _link_new(path: Path, data: bytes) -> None:
    """A link, so that nobody reads half of it. Raises FileExistsError, UserError."""
    while True:
        temporary = partial_path(path)
        with whole_file(temporary, "wb") as file:
            file.write(data)
        try:
            os.link(temporary, path)
        except FileNotFoundError:  # a process that has just begun took it for somebody's leftover
            continue
        finally:
            temporary.unlink(missing_ok=True)
        return


def store_of(address: str) -> tuple[Any, str]:
    """fsspec's store of an address, and its path in it. Raises UserError, MissingExtra, Offline."""
    import fsspec

    if not address.startswith("memory://"):
        refuse_offline(f"{printable(address)} is in a network", "give a folder of this machine")
    try:
        store, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise UserError(
            f"{printable(address)}: {printable(error)} (pip install 'captune[cloud]' has"
            " s3://, gs:// and https://)"
        ) from None
    except ValueError as error:  # a protocol that nobody knows
        raise UserError(f"{printable(address)}: {printable(error)}") from None
    return store, path


def stored_files(address: str) -> list[str]:
    """The files in a folder of a store, by their paths; none where there is no such folder."""
    store, path = store_of(address)
    store.invalidate_cache()

    def files() -> list[str]:
        try:
            found = store.ls(path, detail=True)
        except FileNotFoundError:
            return []
        return [one["name"] for one in found if one["type"] == "file"]

    return patiently(address, files)


def download(address: str, target: Path) -> None:
    """One file of a store -> a file of this machine, all of it and of one version.

    Raises FileNotFoundError, and StoreError where the store goes on giving something else.
    """
    store, path = store_of(address)

    def whole() -> None:
        store.invalidate_cache()
        before = store.info(path)
        store.get_file(path, str(target))
        size = target.stat().st_size
        store.invalidate_cache()
        after = store.info(path)
        if before.get("size") not in (None, size):
            raise ConnectionError(f"{size:,} of {before['size']:,} bytes came")
        if any(before.get(key) != after.get(key) for key in ("ETag", "etag", "md5Hash", "size")):
            raise ConnectionError("it changed while it was read")

    patiently(address, whole)


def patiently(what: str, action: Callable[[], T]) -> T:
    """What `action` returns, tried again, later each time, where a store refuses or breaks off.

    Raises FileNotFoundError, FileExistsError and PermissionError at once, StoreError in the end.
    """
    for wait in (*_WAITS_S, None):
        try:
            return action()
        except Exception as raised:
            error = _cause_of(raised)
            if isinstance(error, _SETTLED) or not _is_of_store(error):
                raise
            reason = printable(" ".join(str(error).split()) or type(error).__name__)[:200]
            if wait is None:
                tries = len(_WAITS_S) + 1
                raise StoreError(
                    f"{printable(what)}: the store failed {tries} times ({reason}); run the same"
                    " command again later"
                ) from error
            logger.info("%s: %s; trying again", printable(what), reason)
            time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311  # not for a secret
    raise AssertionError


def _cause_of(error: Exception) -> BaseException:
    """What is behind "no such file", which fsspec says of every failure of https://."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None or not _is_of_store(cause):
        return error
    is_http = type(cause).__module__.startswith("aiohttp") or isinstance(cause, TimeoutError)
    return cause if is_http and getattr(cause, "status", 503) >= _TOO_MANY_REQUESTS else error


def _is_of_store(error: BaseException) -> bool:
    """Whether a store or the way to it raised it; each library has exceptions of its own."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError) or not kinds.isdisjoint(_OF_STORES)
