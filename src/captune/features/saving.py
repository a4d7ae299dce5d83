"""Saving beside the model, which need not wait the milliseconds that a disk takes to sync."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from threading import Condition, Thread
from types import TracebackType
from typing import Any

from numpy.typing import NDArray

from captune.features.cache import FeatureCache

logger = logging.getLogger("captune")
_WAITING_LIMIT = 4096  # arrays
_WAITING_LIMIT_BYTES = 2**26


class BackgroundSaver:
    """Puts arrays into a cache from a thread of its own, as soon as the one before is on disk.

    What came in during one sync goes with the next, so a model that is faster than the disk costs
    larger batches, not a longer queue. cache: None saves nothing.
    """

    def __init__(self, cache: FeatureCache | None) -> None:
        self._cache = cache
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
            self._changed.wait_for(self._has_room)
            self._waiting.update(arrays)
            self._waiting_bytes += sum(array.nbytes for array in arrays.values())
            self._changed.notify_all()

    def _has_room(self) -> bool:
        few = len(self._waiting) < _WAITING_LIMIT
        return few and self._waiting_bytes < _WAITING_LIMIT_BYTES

    def __enter__(self) -> BackgroundSaver:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
                self._cache.put_many(arrays)
            except Exception:  # a thread that died here would leave save() waiting for ever
                logger.exception("features were not saved")
