"""Arrays on disk: append-only shards, and the index that says where in them an array is.

A shard has one writer at a time, which holds its lock.

A row of the index is committed after the bytes that it points to are on disk, so a process may be
killed at any point; a checksum in the row catches whatever happens to a shard afterwards.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sqlite3
import threading
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from captune.features.index import ArrayLocation, ArrayType, DamagedIndex, FeatureSpace, Index
from captune.storage import locked

DEFAULT_LIMIT_BYTES = 20 * 10**9
_SHARD_BYTES = 256 * 2**20
# fdatasync leaves out the file's times, which nobody needs after a crash; not on every system.
_sync_data = getattr(os, "fdatasync", os.fsync)


class ShardBusy(Exception):
    """Somebody else is appending to the shard."""


class HeldShard:
    """A shard held against every other writer, until closed or until its process is gone.

    Raises ShardBusy if somebody else holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = 0  # in the index
        # Taken on the thread that saves, let go of on the one that closes.
        self._lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ShardBusy(str(path)) from None
        try:
            self._file = path.open("ab", buffering=0)
            self.end = self._file.seek(0, os.SEEK_END)
        except BaseException:
            self._lock.release()
            raise

    def append(self, data: bytes) -> int:
        """Write and sync; returns where the data begins."""
        # A write that failed half-way has moved the end.
        position = self._file.seek(0, os.SEEK_END)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        _sync_data(self._file.fileno())
        self.end = position + len(data)
        return position

    def delete(self) -> None:
        """Remove the file and let go of it."""
        self._file.close()
        # A system that keeps open files from being deleted leaves it to the next prune.
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._lock.release()
        with suppress(OSError):
            self.path.with_suffix(".lock").unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of it."""
        self._file.close()
        self._lock.release()


class FeatureStore:
    """One open store; any number of processes and threads may have the same folder open.

    limit_bytes: over it whole shards go, least recently used first; None stands for what
        `index.set_limit` stored, 20 GB if nothing did.
    Raises OSError and sqlite3.OperationalError where the folder or the disk does not allow what is
    asked for, DamagedIndex where only a new index helps. Damage in a shard is no error: its arrays
    are missing.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        self.folder = folder
        self._given_limit = limit_bytes
        self._write_lock = threading.RLock()  # taken before the lock of the index
        self._writing: HeldShard | None = None
        self._readers: dict[int, BinaryIO | None] = {}
        self._maps: dict[int, mmap.mmap] = {}
        self._used: set[int] = set()
        self._shards.mkdir(parents=True, exist_ok=True)
        # One process at a time switches to WAL and makes the tables.
        with locked(folder / "index.lock"):
            self.index = Index(folder / "index.sqlite")

    @property
    def _shards(self) -> Path:
        return self.folder / "shards"

    @property
    def limit_bytes(self) -> int:
        """How much the store may take on disk."""
        if self._given_limit is not None:
            return self._given_limit
        stored = self.index.get_limit()
        return DEFAULT_LIMIT_BYTES if stored is None else stored

    def get_many(
        self, space: FeatureSpace, contents: Sequence[str], *, mapped: bool = False
    ) -> dict[str, NDArray[Any]]:
        """The arrays that are there, by content, read-only; missing and damaged are left out.

        contents: sha256 in hex. mapped: the arrays are views of the mapped shards, checked once,
            and stay valid after a prune and after `close`.
        """
        found = {}
        with self.index.lock:
            for digest, at in self.index.find(space, [bytes.fromhex(one) for one in contents]):
                array = self._map(at) if mapped else self._read(at)
                if array is not None:
                    found[digest.hex()] = array
        return found

    def put_many(self, space: FeatureSpace, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays by content: bytes, one fsync, one commit, whatever their number."""
        if not arrays:
            return
        types = [ArrayType(array.dtype, array.shape, array.nbytes) for array in arrays.values()]
        data = [np.ascontiguousarray(array).tobytes() for array in arrays.values()]
        with self._write_lock:
            for _ in range(2):  # the second time where somebody has dropped the shard meanwhile
                if self._writing is None:
                    self._writing = self._take_shard()
                position = self._writing.append(b"".join(data))
                rows = []
                for content, type, part in zip(arrays, types, data, strict=True):
                    at = ArrayLocation(self._writing.number, position, type, zlib.crc32(part))
                    rows.append((bytes.fromhex(content), at))
                    position += len(part)
                with self.index.changing():
                    self._note_use()
                    if self.index.touch_shards([self._writing.number]):
                        self.index.add(space, rows)
                        break
                self._let_go()
            if self._writing is not None and self._writing.end >= self._shard_bytes():
                self._let_go()
                self.prune()

    def size_bytes(self) -> int:
        """Bytes of the shards and of the used part of the index."""
        size = self.index.size_bytes()
        for file in self.index.shard_files().values():
            with suppress(FileNotFoundError):
                size += (self._shards / file).stat().st_size
        return size

    def prune(self, limit_bytes: int | None = None) -> int:
        """Drop the shards least recently used until the limit holds; returns the bytes freed.

        Shards that somebody is appending to stay. Files that the index does not know go.
        """
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        with self._write_lock:
            with self.index.changing():
                self._note_use()
            before = self.size_bytes()
            known = self.index.shard_files()
            for path in self._shards.glob("*.bin"):
                if path.name not in known.values():
                    with suppress(FileNotFoundError):
                        before += path.stat().st_size
                    self._drop(path, None)
            for shard, file in known.items():
                if self.size_bytes() <= limit:
                    break
                self._drop(self._shards / file, shard)
            self.index.shrink()
            return max(before - self.size_bytes(), 0)

    def clear(self) -> int:
        """Drop everything that nobody else is appending to; returns the bytes freed."""
        with self._write_lock:
            self._let_go()
            return self.prune(limit_bytes=-1)

    def close(self) -> None:
        """Let go of files and locks."""
        with self._write_lock, self.index.lock:
            self._let_go()
            if self._used:
                # where nothing can be written there is nothing to note
                with suppress(OSError, sqlite3.Error, DamagedIndex), self.index.changing():
                    self._note_use()
            for reader in self._readers.values():
                if reader is not None:
                    reader.close()
            self._readers.clear()
            self._maps.clear()  # not closed: arrays may still look at them
            self.index.close()

    def _read(self, at: ArrayLocation) -> NDArray[Any] | None:
        if at.shard not in self._readers:
            file = self.index.shard_files().get(at.shard)
            try:
                reader: BinaryIO | None = (
                    None if file is None else (self._shards / file).open("rb", buffering=0)
                )
            except OSError:
                reader = None
            self._readers[at.shard] = reader
        reader = self._readers[at.shard]
        if reader is None:
            return None
        try:
            reader.seek(at.position)
            data = reader.read(at.type.size_bytes)
        except (OSError, ValueError):  # a bad sector, or a position that makes no sense
            return None
        if len(data) != at.type.size_bytes or zlib.crc32(data) != at.checksum:
            return None
        self._used.add(at.shard)
        return np.frombuffer(data, at.type.dtype).reshape(at.type.shape)

    def _map(self, at: ArrayLocation) -> NDArray[Any] | None:
        end = at.position + at.type.size_bytes
        if len(self._maps.get(at.shard, b"")) < end:  # not mapped yet, or written to since
            file = self.index.shard_files().get(at.shard)
            try:
                if file is None:
                    return None
                with (self._shards / file).open("rb") as opened:
                    found = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError):  # gone, or empty
                return None
            if len(found) < end:
                return None
            self._maps[at.shard] = found
        shard = self._maps[at.shard]
        with memoryview(shard) as view, view[at.position : end] as data:
            if zlib.crc32(data) != at.checksum:
                return None
        self._used.add(at.shard)
        count = at.type.size_bytes // at.type.dtype.itemsize
        array = np.frombuffer(shard, at.type.dtype, count, at.position)
        return array.reshape(at.type.shape)

    def _take_shard(self) -> HeldShard:
        """A shard with room that nobody appends to, or a new one."""
        for number, file in reversed(self.index.shard_files().items()):
            path = self._shards / file
            with suppress(FileNotFoundError, ShardBusy):
                if path.stat().st_size < self._shard_bytes():
                    shard = HeldShard(path)
                    shard.number = number
                    return shard
        # a name that no other process chooses, held before anybody can see it in the index
        shard = HeldShard(self._shards / f"{secrets.token_hex(8)}.bin")
        try:
            shard.number = self.index.add_shard(shard.path.name)
        except BaseException:
            shard.close()
            raise
        return shard

    def _drop(self, path: Path, shard: int | None) -> None:
        """Forget a shard and delete its file, unless somebody is appending to it."""
        with suppress(ShardBusy):
            held = HeldShard(path)
            try:
                if shard is not None:
                    self.index.drop_shard(shard)
                    with self.index.lock:
                        self._maps.pop(shard, None)
                        reader = self._readers.pop(shard, None)
                        if reader is not None:
                            reader.close()
            except BaseException:
                held.close()
                raise
            held.delete()

    def _shard_bytes(self) -> int:
        """Large enough for few files, small enough that dropping one leaves most of the rest."""
        return max(1, min(_SHARD_BYTES, self.limit_bytes // 8))

    def _let_go(self) -> None:
        if self._writing is not None:
            self._writing.close()
            self._writing = None

    def _note_use(self) -> None:
        self.index.touch_shards(self._used)
        self._used.clear()
