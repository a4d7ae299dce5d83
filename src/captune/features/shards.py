"""Append-only files of array bytes; each has one writer at a time, which holds its lock."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from captune.features.closing import Closing

# fdatasync leaves out the file's times, which nobody needs after a crash; not on every system.
_sync_data = getattr(os, "fdatasync", os.fsync)


class ShardBusy(Exception):
    """Somebody else is appending to the shard."""


class Shard(Closing):
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


def new_path(folder: Path) -> Path:
    """A path in `folder` that no other process will choose."""
    return folder / f"{secrets.token_hex(8)}.bin"
