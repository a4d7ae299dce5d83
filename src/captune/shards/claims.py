"""Who works on which shard, without a lock service: a small file that only one can create.

A claim is renewed while its process works. One that was not for ten minutes, or whose process is
no longer on this machine, is taken over; it counts how often a process ended over the shard.
Two that take one over at the same moment compute it twice: each writes it whole, and the same.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from captune.shards.places import Place, StoreError

SUFFIX = ".claim"
MOST_TRIES = 3  # processes that a shard may end
RENEWED_S, ABANDONED_S = 60.0, 600.0


@dataclass
class Claims:
    """What this process has claimed in `place`, kept fresh until it lets go."""

    place: Place
    _held: dict[str, int] = field(default_factory=dict)
    # a signal may come while it is held
    _lock: Any = field(default_factory=threading.RLock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Start renewing."""
        threading.Thread(target=self._renew, name="captune-claims", daemon=True).start()

    def take(self, stem: str) -> int | None:
        """How many processes ended over the shard before; None where somebody works on it."""
        tries = 0
        for _ in range(3):  # another may take it over or let go of it in between
            if self.place.create(stem + SUFFIX, _written(tries)):
                with self._lock:
                    self._held[stem] = tries
                return tries
            other = claim_of(self.place, stem)
            if other is None:
                continue
            if is_alive(other):
                return None
            tries = _tries(other) + 1
            self.place.remove(stem + SUFFIX)
        return None

    def let_go(self, stem: str) -> None:
        """The shard is done, or given back."""
        with self._lock:
            held = self._held.pop(stem, None)
        if held is not None:
            self.place.remove(stem + SUFFIX)

    def close(self) -> None:
        """Let go of all, also where the process is asked to end."""
        self._ended.set()
        for stem in list(self._held):
            with suppress(OSError, StoreError):
                self.let_go(stem)

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_S):
            with self._lock:
                for stem, tries in self._held.items():
                    with suppress(OSError, StoreError):  # the next time, or another takes it over
                        self.place.write(stem + SUFFIX, _written(tries))


def abandon(place: Place, stem: str) -> None:
    """The process that had the shard is known to be gone, wherever it was: nobody waits for it."""
    with suppress(OSError, StoreError):  # else it is taken over when it is old
        claim = claim_of(place, stem)
        if claim is not None:
            place.write(stem + SUFFIX, json.dumps({**claim, "at": 0}).encode())


def claim_of(place: Place, stem: str) -> dict[str, Any] | None:
    """What stands in a claim; None where there is none."""
    try:
        found = json.loads(place.read(stem + SUFFIX))
    except FileNotFoundError:
        return None
    except ValueError:  # of a store that has no whole files
        return {}
    return found if isinstance(found, dict) else {}


def is_alive(claim: dict[str, Any]) -> bool:
    """Whether its process seems to be at work."""
    at, pid = claim.get("at"), claim.get("pid")
    if not isinstance(at, int | float) or not isinstance(pid, int):
        return False
    if claim.get("host") == socket.gethostname() and not _runs(pid):
        return False
    return time.time() - at < ABANDONED_S


def _runs(pid: int) -> bool:
    if sys.platform == "win32":  # where the signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _tries(claim: dict[str, Any]) -> int:
    tries = claim.get("tries", 0)
    return tries if isinstance(tries, int) else 0


def _written(tries: int) -> bytes:
    claim = {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time(), "tries": tries}
    return json.dumps(claim).encode()
