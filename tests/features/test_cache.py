"""The feature cache survives whatever happens to its files, and never ends a run."""

import os
import sqlite3
import threading

import numpy as np
import pytest
from tests.processes import ended, start

from captune.features.cache import FeatureCache
from captune.features.index import FeatureSpace
from captune.features.store import DEFAULT_LIMIT_BYTES

SPACE = FeatureSpace("pooled", "w", "p", "float32", "torch-cpu")


def content(i: int) -> str:
    return f"{i:064x}"


def vector(i: int) -> np.ndarray:
    return np.random.default_rng(i).standard_normal(64, dtype=np.float32)


def check(cache: FeatureCache, numbers, missing: int | None = None) -> int:
    """Whatever is found is right; returns how many are not found."""
    found = cache.get_many(SPACE, [content(i) for i in numbers])
    for i in numbers:
        if content(i) in found:
            np.testing.assert_array_equal(found[content(i)], vector(i))
    lost = len(numbers) - len(found)
    assert missing is None or lost == missing
    return lost


def put(cache: FeatureCache, numbers) -> None:
    cache.put_many(SPACE, {content(i): vector(i) for i in numbers})


def test_arrays_of_any_type_and_shape(cache):
    arrays = {
        content(0): np.arange(24, dtype=np.float16).reshape(2, 3, 4),
        content(1): np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        content(2): np.zeros((0, 5), np.float32),
        content(3): np.float32(3.5) * np.ones(()),
    }
    cache.put_many(SPACE, arrays)
    found = cache.get_many(SPACE, list(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_more_keys_than_one_statement_takes(cache):
    put(cache, range(2500))
    check(cache, range(2600), missing=100)
    assert cache.get_many(SPACE, []) == {}


@pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "gone", "flipped"])
def test_a_damaged_shard_is_a_miss_and_is_written_anew(tmp_path, damage):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(100))
    (shard,) = (tmp_path / "shards").glob("*.bin")
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(data[: len(data) // 2 + 3])
    elif damage == "zeros":
        shard.write_bytes(bytes(len(data)))
    elif damage == "empty":
        shard.write_bytes(b"")
    elif damage == "gone":
        shard.unlink()
    else:
        data[300] ^= 1
        shard.write_bytes(data)
    with FeatureCache(tmp_path) as cache:
        lost = check(cache, range(100))
        assert lost == {"cut": 50, "flipped": 1}.get(damage, 100)
        put(cache, range(100))
        check(cache, range(100), missing=0)


@pytest.mark.parametrize("damage", ["noise", "cut", "flipped", "empty", "other"])
def test_a_damaged_index_starts_an_empty_cache(tmp_path, damage, warnings):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(400))
    index = tmp_path / "index.sqlite"
    data = bytearray(index.read_bytes())
    if damage == "noise":
        index.write_bytes(os.urandom(20_000))
    elif damage == "cut":
        index.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        for position in range(4096, len(data), 4096):
            data[position : position + 200] = os.urandom(200)
        index.write_bytes(data)
    elif damage == "empty":
        index.write_bytes(b"")
    else:
        with sqlite3.connect(index) as connection:
            connection.execute("PRAGMA user_version = 99")
    with FeatureCache(tmp_path) as cache:
        check(cache, range(400), missing=400)
        put(cache, range(400))
        check(cache, range(400), missing=0)
        cache.prune()
        assert len(list((tmp_path / "shards").glob("*.bin"))) == 1
    assert len(warnings.records) == (0 if damage == "empty" else 1)


def test_torn_bytes_after_a_kill_are_harmless(tmp_path):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(10))
    (shard,) = (tmp_path / "shards").glob("*.bin")
    with shard.open("ab") as file:
        file.write(b"half a vect")
    with FeatureCache(tmp_path) as cache:
        put(cache, range(10, 20))
        check(cache, range(20), missing=0)
        assert cache.statistics().shards == 1


def test_a_read_only_index_is_still_read(tmp_path, warnings):
    with FeatureCache(tmp_path) as cache:
        put(cache, range(10))
    with FeatureCache(tmp_path) as cache:
        cache._store.index._connection.execute("PRAGMA query_only = ON")
        put(cache, range(10, 20))
        put(cache, range(20, 30))
        check(cache, range(30), missing=20)
    assert len(warnings.records) == 1
    assert "going on without writing" in warnings.text


def test_the_limit_drops_what_was_used_longest_ago(tmp_path, monkeypatch):
    clock = iter(range(1, 10**6))
    monkeypatch.setattr("captune.features.index.time.time", lambda: float(next(clock)))
    # a limit of 1 MB makes shards of 125 kB: 500 vectors of 256 bytes
    with FeatureCache(tmp_path, limit_bytes=10**6) as cache:
        for first in range(0, 8000, 250):
            put(cache, range(first, first + 250))
            check(cache, range(100), missing=0)  # always in use
        assert cache.statistics().size_bytes <= 10**6 + 125_000
    with FeatureCache(tmp_path, limit_bytes=10**6) as cache:
        check(cache, range(100), missing=0)
        check(cache, range(7900, 8000), missing=0)
        assert check(cache, range(600, 1000)) > 300
        assert cache.prune(300_000) > 0
        assert cache.statistics().size_bytes <= 300_000


def test_prune_leaves_a_shard_that_is_written_and_clear_under_a_writer_loses_nothing_new(tmp_path):
    with FeatureCache(tmp_path) as writer, FeatureCache(tmp_path) as other:
        put(writer, range(10))
        other.prune(0)
        check(writer, range(10), missing=0)
        # a person deletes what is in the way
        other._store.index.drop_shard(1)
        put(writer, range(10, 20))
        check(other, range(10, 20), missing=0)
        assert writer.clear() > 0
        check(other, range(20), missing=20)


def test_a_limit_is_stored_for_the_next_process(tmp_path):
    with FeatureCache(tmp_path) as cache:
        assert cache.limit_bytes == DEFAULT_LIMIT_BYTES == 20 * 10**9
        cache.set_limit(123_456)
    with FeatureCache(tmp_path) as cache:
        assert cache.limit_bytes == 123_456
    with FeatureCache(tmp_path, limit_bytes=5) as cache:
        assert cache.limit_bytes == 5


def test_spaces_and_contents_are_kept_as_they_always_were(tmp_path):
    """A cache that an earlier captune wrote is still hit."""
    with FeatureCache(tmp_path) as cache:
        put(cache, [7])
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        rows = index.execute("SELECT name, content FROM entries JOIN spaces USING (space)")
        assert rows.fetchall() == [
            ('["pooled", "w", "p", "float32", "torch-cpu"]', bytes(31) + b"\x07")
        ]


def test_statistics_by_model(cache):
    put(cache, range(5))
    cache.remember_model("lite", ["w"])
    found = cache.statistics()
    assert [(u.space, u.spec, u.entries, u.size_bytes) for u in found.spaces] == [
        (SPACE, "lite", 5, 5 * 256)
    ]


def test_a_closed_cache_is_empty(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, range(3))
    cache.close()
    cache.close()
    put(cache, range(3, 6))
    assert cache.get_many(SPACE, [content(0)]) == {}


def put_two_hundred(folder, first):
    with FeatureCache(folder) as cache:
        for i in range(first, first + 200, 5):
            cache.put_many(SPACE, {content(j): vector(j) for j in range(i, i + 5)})


def test_many_threads_and_processes_on_one_cache(tmp_path):
    processes = [start(put_two_hundred, tmp_path, first) for first in (0, 200)]
    with FeatureCache(tmp_path) as cache:
        threads = [
            threading.Thread(
                target=lambda n=n: [
                    cache.put_many(SPACE, {content(j): vector(j) for j in range(i, i + 5)})
                    for i in range(400 + n * 200, 600 + n * 200, 5)
                ]
            )
            for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [ended(process) for process in processes] == [0, 0]
        check(cache, range(800), missing=0)
