"""The feature cache as the rest of captune sees it: nothing that goes wrong in it ends a run.

An array is found again by its key: the model with its preprocessing (`FeatureSpace`, in index.py)
and the digest of the image file's bytes (images/decode.py).
"""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition, Lock, Thread
from typing import Any, TypeVar

from numpy.typing import NDArray

from captune.features.index import DamagedIndex, FeatureSpace
from captune.features.store import DEFAULT_LIMIT_BYTES, FeatureStore
from captune.storage import cache_folder, locked

logger = logging.getLogger("captune")
_WAITING_LIMIT = 4096  # arrays
_WAITING_LIMIT_BYTES = 2**26
T = TypeVar("T")


@dataclass(frozen=True)
class SpaceUsage:
    """What one space takes; spec is None where no run has said which model it was."""

    space: FeatureSpace
    spec: str | None
    entries: int
    size_bytes: int


@dataclass(frozen=True)
class CacheStatistics:
    """size_bytes: the shards and the used part of the index, which is what the limit counts."""

    folder: Path
    size_bytes: int
    limit_bytes: int
    entries: int
    shards: int
    spaces: list[SpaceUsage]


class FeatureCache(AbstractContextManager["FeatureCache", None]):
    """Arrays by space and content, shared by any number of processes and threads.

    folder: None stands for `features` in captune's cache folder.
    limit_bytes: None stands for what `set_limit` stored, 20 GB if nothing did.

    A damaged index is replaced by an empty one. A folder that cannot be used, or a disk that is
    full, costs one warning: what can be read is still found, and nothing more is written.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = cache_folder() / "features" if folder is None else Path(folder)
        self._given_limit = limit_bytes
        self._lock = Lock()  # opening and giving up; the store has locks of its own
        self._store: FeatureStore | None = None
        self._writable = True
        self._repaired = False
        try:
            self._store = FeatureStore(self.folder, limit_bytes)
        except (OSError, sqlite3.Error, DamagedIndex) as error:
            self._trouble(None, error)

    @property
    def is_writable(self) -> bool:
        """False once something went wrong that ended writing to it, and when it is closed."""
        return self._store is not None and self._writable

    @property
    def limit_bytes(self) -> int:
        """How much the cache may take on disk."""
        default = DEFAULT_LIMIT_BYTES if self._given_limit is None else self._given_limit
        return self._attempt(lambda store: store.limit_bytes, default)

    def set_limit(self, limit_bytes: int) -> None:
        """Keep at most so much from now on, in every process that is not given a limit."""
        self._attempt(lambda store: store.index.set_limit(limit_bytes), None, writes=True)

    def remember_model(self, spec: str, ids: Sequence[str]) -> None:
        """Note which model the ids of its sides belong to, for people who look at the cache."""

        def note(store: FeatureStore) -> None:
            for weights_id in ids:
                store.index.remember_model(weights_id, spec)

        self._attempt(note, None, writes=True)

    def get_many(
        self, space: FeatureSpace, contents: Sequence[str], *, mapped: bool = False
    ) -> dict[str, NDArray[Any]]:
        """The arrays that are there, by content; what is missing or damaged is left out.

        contents: sha256 in hex of what the features were computed from. The arrays are read-only.
        mapped: they are views of the cache's files and take no memory; they stay valid when the
            cache drops them or is closed.
        """
        nothing: dict[str, NDArray[Any]] = {}
        return self._attempt(lambda store: store.get_many(space, contents, mapped=mapped), nothing)

    def put_many(self, space: FeatureSpace, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays by content: bytes, one fsync, one commit, whatever their number.

        The fsync takes milliseconds, so callers put a batch at a time.
        """
        self._attempt(lambda store: store.put_many(space, arrays), None, writes=True)

    def statistics(self) -> CacheStatistics:
        """Sizes, in all and for each space, the largest first."""
        empty = CacheStatistics(self.folder, 0, self.limit_bytes, 0, 0, [])
        return self._attempt(self._statistics, empty)

    def prune(self, limit_bytes: int | None = None) -> int:
        """Drop what was least recently used until the limit holds; returns the bytes freed."""
        return self._attempt(lambda store: store.prune(limit_bytes), 0, writes=True)

    def clear(self) -> int:
        """Drop everything that no running process is appending to; returns the bytes freed."""
        return self._attempt(FeatureStore.clear, 0, writes=True)

    def close(self) -> None:
        """Let go of files and locks; a closed cache finds nothing and stores nothing."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def __exit__(self, *error: object) -> None:
        self.close()

    def _statistics(self, store: FeatureStore) -> CacheStatistics:
        spaces = [SpaceUsage(*usage) for usage in store.index.usage()]
        spaces.sort(key=lambda usage: -usage.size_bytes)
        return CacheStatistics(
            self.folder,
            store.size_bytes(),
            store.limit_bytes,
            sum(usage.entries for usage in spaces),
            len(store.index.shard_files()),
            spaces,
        )

    def _attempt(
        self, action: Callable[[FeatureStore], T], otherwise: T, *, writes: bool = False
    ) -> T:
        store = self._store
        if store is None or (writes and not self._writable):
            return otherwise
        try:
            return action(store)
        except (OSError, sqlite3.Error, DamagedIndex) as error:
            self._trouble(store, error)
            return otherwise

    def _trouble(self, store: FeatureStore | None, error: Exception) -> None:
        """Go on: with an empty index if this one is damaged, else without what does not work."""
        with self._lock:
            if store is not self._store:
                return  # closed, or another thread has seen to it
            if isinstance(error, DamagedIndex):
                self._store = None
                if store is not None:
                    store.close()
                if not self._repaired:
                    self._repaired = True
                    logger.warning(
                        "the index of the feature cache %s is damaged (%s); starting an empty one",
                        self.folder,
                        error,
                    )
                    try:
                        with locked(self.folder / "index.lock"):
                            for end in ("", "-wal", "-shm"):
                                (self.folder / f"index.sqlite{end}").unlink(missing_ok=True)
                        self._store = FeatureStore(self.folder, self._given_limit)
                        return
                    except (OSError, sqlite3.Error, DamagedIndex) as again:
                        error = again
            if self._writable:
                self._writable = False
                logger.warning(
                    "the feature cache %s cannot be used (%s); going on without writing to it",
                    self.folder,
                    error,
                )


def writable(cache: FeatureCache | None, stack: ExitStack) -> FeatureCache:
    """`cache`; where nothing can be written to it one in a temporary folder, until `stack` ends."""
    if cache is not None and cache.is_writable:
        return cache
    made = TemporaryDirectory(prefix="captune-features-", ignore_cleanup_errors=True)
    folder = Path(stack.enter_context(made))
    return stack.enter_context(FeatureCache(folder, limit_bytes=sys.maxsize))


class BackgroundWriter:
    """Puts arrays of one space into a cache from a thread of its own, beside the model.

    A sync takes milliseconds. What came in during one goes with the next, so a model that is faster
    than the disk costs larger batches, not a longer queue. cache: None saves nothing.
    """

    def __init__(self, cache: FeatureCache | None, space: FeatureSpace) -> None:
        self._cache = cache
        self._space = space
        self._waiting: dict[str, NDArray[Any]] = {}
        self._waiting_bytes = 0
        self._closing = False
        self._changed = Condition()
        self._thread: Thread | None = None

    def save(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Hand arrays over; waits only while thousands, or 64 MB, are waiting already."""
        if self._cache is None or not arrays:
            return
        if self._thread is None:
            # a daemon, so that a forgotten generator never keeps the interpreter from ending
            self._thread = Thread(target=self._run, name="captune-save", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    len(self._waiting) < _WAITING_LIMIT
                    and self._waiting_bytes < _WAITING_LIMIT_BYTES
                )
            )
            self._waiting.update(arrays)
            self._waiting_bytes += sum(array.nbytes for array in arrays.values())
            self._changed.notify_all()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *error: object) -> None:
        """Return once everything handed over is saved."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        assert self._cache is not None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                arrays, self._waiting, self._waiting_bytes = self._waiting, {}, 0
                self._changed.notify_all()
            if not arrays:
                return
            try:
                self._cache.put_many(self._space, arrays)
            except Exception:  # a thread that died here would leave save() waiting for ever
                logger.exception("features were not saved")


def cache_for(options: Any) -> AbstractContextManager[FeatureCache | None]:
    """The cache of a command, which `--no-cache` goes without."""
    return nullcontext() if options.no_cache else FeatureCache()
