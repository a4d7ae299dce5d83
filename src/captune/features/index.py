"""The keys of cached features, and which arrays there are and where: the store's SQLite side.

One connection, shared by the threads of a process; WAL mode, shared by processes.
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS spaces (space INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS forms
    (form INTEGER PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, UNIQUE (dtype, shape));
CREATE TABLE IF NOT EXISTS shards
    (shard INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT NOT NULL UNIQUE, last_used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS entries
    (space INTEGER NOT NULL, content BLOB NOT NULL, shard INTEGER NOT NULL,
     position INTEGER NOT NULL, form INTEGER NOT NULL, checksum INTEGER NOT NULL,
     PRIMARY KEY (space, content)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS models (weights_id TEXT PRIMARY KEY, spec TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
_KEYS_AT_ONCE = 500
_BUSY_S = 30


class FeatureSpace(NamedTuple):
    """Everything besides the content that a feature depends on.

    what: "pooled", "grid" or "texts". dtype and backend: as computed, since half precision on a GPU
    and float32 on a CPU do not give the same numbers.
    """

    what: str
    weights_id: str
    preprocessing_id: str
    dtype: str
    backend: str

    @property
    def name(self) -> str:
        """How the index spells it."""
        return json.dumps(self)


class ArrayType(NamedTuple):
    """What the bytes of an array mean."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int


class ArrayLocation(NamedTuple):
    """Where the bytes of an array are, what they mean, and their crc32."""

    shard: int
    position: int
    type: ArrayType
    checksum: int


class DamagedIndex(Exception):
    """The index holds something that captune did not write; only a new one helps."""


class Index:
    """Raises DamagedIndex, and sqlite3.OperationalError where SQLite cannot work just now."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self._spaces: dict[FeatureSpace, int] = {}
        self._types: dict[int, ArrayType] = {}
        with _errors():
            self._connection = _connect(path)

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self._connection.close()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A transaction around several changes: all of them or none."""
        with self.lock, _errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    def find(
        self, space: FeatureSpace, contents: Sequence[bytes]
    ) -> list[tuple[bytes, ArrayLocation]]:
        """Where the arrays of these contents are, in the order of the disk; sha256 digests."""
        found: list[tuple[bytes, ArrayLocation]] = []
        with self.lock, _errors():
            number = self._space(space)
            if number is None:
                return found
            for start in range(0, len(contents), _KEYS_AT_ONCE):
                part = contents[start : start + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    "SELECT content, shard, position, form, checksum FROM entries "  # noqa: S608
                    f"WHERE space = ? AND content IN ({marks})",
                    (number, *part),
                ).fetchall()
                for content, shard, position, form, checksum in rows:
                    location = ArrayLocation(
                        int(shard), int(position), self._type(form), int(checksum)
                    )
                    found.append((content, location))
        found.sort(key=lambda item: item[1][:2])
        return found

    def add(self, space: FeatureSpace, rows: Iterable[tuple[bytes, ArrayLocation]]) -> None:
        """Add (content, location), inside `changing`; a row that is there is replaced."""
        number = self._space(space, make=True)
        entries = [
            (number, content, at.shard, at.position, self._type_number(at.type), at.checksum)
            for content, at in rows
        ]
        self._connection.executemany(
            "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)", entries
        )

    def shard_files(self) -> dict[int, str]:
        """Number and file name of every shard, least recently used first."""
        return dict(self._select("SELECT shard, file FROM shards ORDER BY last_used, shard"))

    def add_shard(self, file: str) -> int:
        """Make a new shard known; returns its number, which is never given again."""
        with self.changing():
            added = self._connection.execute(
                "INSERT INTO shards (file, last_used) VALUES (?, ?)", (file, time.time())
            )
            return added.lastrowid or 0

    def drop_shard(self, shard: int) -> None:
        """Forget a shard and all that is in it."""
        with self.changing():
            self._connection.execute("DELETE FROM entries WHERE shard = ?", (shard,))
            self._connection.execute("DELETE FROM shards WHERE shard = ?", (shard,))

    def touch_shards(self, shards: Iterable[int]) -> int:
        """Note that shards were used now, inside `changing`; returns how many are still known."""
        update = "UPDATE shards SET last_used = ? WHERE shard = ?"
        now = time.time()
        return sum(self._connection.execute(update, (now, shard)).rowcount for shard in shards)

    def get_limit(self) -> int | None:
        """The stored limit in bytes."""
        rows = self._select("SELECT value FROM settings WHERE name = 'limit'")
        return int(rows[0][0]) if rows else None

    def set_limit(self, limit_bytes: int) -> None:
        """Store a limit."""
        with self.changing():
            self._connection.execute(
                "INSERT OR REPLACE INTO settings VALUES ('limit', ?)", (limit_bytes,)
            )

    def remember_model(self, weights_id: str, spec: str) -> None:
        """Note which model a weights_id is."""
        if (weights_id, spec) not in self._select("SELECT weights_id, spec FROM models"):
            with self.changing():
                self._connection.execute(
                    "INSERT OR REPLACE INTO models VALUES (?, ?)", (weights_id, spec)
                )

    def usage(self) -> list[tuple[FeatureSpace, str | None, int, int]]:
        """(space, model spec if known, entries, bytes) of every space that is not empty."""
        specs = dict(self._select("SELECT weights_id, spec FROM models"))
        totals: dict[str, list[int]] = {}
        with self.lock, _errors():
            for name, form, entries in self._select(
                "SELECT name, form, count(*) FROM entries JOIN spaces USING (space) GROUP BY 1, 2"
            ):
                total = totals.setdefault(name, [0, 0])
                total[0] += entries
                total[1] += entries * self._type(form).size_bytes
            spaces = {name: FeatureSpace(*json.loads(name)) for name in totals}
        return [
            (space, specs.get(space.weights_id), totals[name][0], totals[name][1])
            for name, space in spaces.items()
        ]

    def size_bytes(self) -> int:
        """The part of the index file that is in use."""
        pages, free, page_bytes = (
            self._select(f"PRAGMA {name}")[0][0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page_bytes)

    def shrink(self) -> None:
        """Give the file's unused part back to the disk."""
        self._select("PRAGMA incremental_vacuum")
        self._select("PRAGMA wal_checkpoint(TRUNCATE)")

    def _select(self, statement: str) -> list[Any]:
        with self.lock, _errors():
            return self._connection.execute(statement).fetchall()

    def _space(self, space: FeatureSpace, *, make: bool = False) -> int | None:
        if space not in self._spaces:
            name = (space.name,)
            if make:
                self._connection.execute("INSERT OR IGNORE INTO spaces (name) VALUES (?)", name)
            row = self._connection.execute("SELECT space FROM spaces WHERE name = ?", name)
            if (found := row.fetchone()) is None:
                return None
            if self._connection.in_transaction:  # it may be rolled back
                return int(found[0])
            self._spaces[space] = found[0]
        return self._spaces[space]

    def _type(self, number: int) -> ArrayType:
        if number not in self._types:
            row = self._connection.execute(
                "SELECT dtype, shape FROM forms WHERE form = ?", (number,)
            ).fetchone()
            if row is None:
                raise DamagedIndex(f"row without form {number}")
            dtype, shape = np.dtype(row[0]), tuple(json.loads(row[1]))
            self._types[number] = ArrayType(dtype, shape, dtype.itemsize * math.prod(shape))
        return self._types[number]

    def _type_number(self, type: ArrayType) -> int:
        values = (type.dtype.str, json.dumps(type.shape))
        select = "SELECT form FROM forms WHERE dtype = ? AND shape = ?"
        row = self._connection.execute(select, values).fetchone()
        if row is None:
            self._connection.execute("INSERT INTO forms (dtype, shape) VALUES (?, ?)", values)
            row = self._connection.execute(select, values).fetchone()
        return int(row[0])


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None
    )
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise DamagedIndex(f"written by another captune, in format {version}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        # In WAL mode a power cut may cost the last rows, never the index; a kill costs nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _errors() -> Iterator[None]:
    """Tells an index that is beyond repair from one that cannot be used just now."""
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        raise DamagedIndex(str(error)) from error
