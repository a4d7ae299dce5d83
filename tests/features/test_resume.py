"""A run that was killed goes on where it was; two runs at once share what they compute."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from tests.features.test_photos import collect, expected, make_encoder, make_photos
from tests.processes import ended, pipe, start

from captune.features import FeatureCache
from captune.images import Photo


def encode_slowly(folder: Path, features: Path, pause_s: float, tell: Connection) -> None:
    photos = [Photo(path, path.name) for path in sorted(folder.glob("*.png"))]
    encoder = make_encoder(pause_s=pause_s)
    collect(photos, encoder, FeatureCache(features), on_progress=tell.send)


def run_until(hear: Connection, count: int) -> int:
    done = 0
    while done < count:
        assert hear.poll(300)
        done += hear.recv()
    return done


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(tmp_path, sign):
    photos = make_photos(tmp_path / "photos", 120)
    hear, tell = pipe()
    process = start(encode_slowly, tmp_path / "photos", tmp_path / "features", 0.1, tell)
    done = run_until(hear, 48)
    os.kill(process.pid, sign)
    assert ended(process) != 0
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        names, features, _ = collect(photos, encoder, cache)
    assert names == [photo.name for photo in photos]
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
    # the batch that was being saved may be lost, nothing before it
    assert 120 - done - 16 <= encoder.module.images <= 120 - done + 8


def test_two_processes_write_at_once(tmp_path):
    photos = make_photos(tmp_path / "photos", 60)
    _, tell = pipe()
    words = (tmp_path / "photos", tmp_path / "features", 0.01, tell)
    processes = [start(encode_slowly, *words) for _ in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        _, features, _ = collect(photos, encoder, cache)
        assert cache.statistics().entries == 60
        assert cache.statistics().shards <= 2
    assert encoder.module.images == 0
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
