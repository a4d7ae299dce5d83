"""A run that was killed goes on where it was; two runs at once share what they compute."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from tests.features.test_pipeline import collect, expected, make_encoder, make_images
from tests.processes import ended, pipe, start

from captune.features.cache import FeatureCache
from captune.images import ImageFile


def encode_slowly(folder: Path, features: Path, pause_s: float, tell: Connection) -> None:
    images = [ImageFile(path, path.name) for path in sorted(folder.glob("*.png"))]
    encoder = make_encoder(pause_s=pause_s)
    collect(images, encoder, FeatureCache(features), on_progress=tell.send)


def run_until(hear: Connection, count: int) -> int:
    done = 0
    while done < count:
        assert hear.poll(300)
        done += hear.recv()
    return done


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(tmp_path, sign):
    images = make_images(tmp_path / "images", 120)
    hear, tell = pipe()
    process = start(encode_slowly, tmp_path / "images", tmp_path / "features", 0.1, tell)
    done = run_until(hear, 48)
    os.kill(process.pid, sign)
    assert ended(process) != 0
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        names, features, _ = collect(images, encoder, cache)
    assert names == [image.name for image in images]
    np.testing.assert_allclose(features, expected(images), rtol=1e-5)
    # the batch that was being saved may be lost, nothing before it
    assert 120 - done - 16 <= encoder.module.images <= 120 - done + 8


def test_two_processes_write_at_once(tmp_path):
    images = make_images(tmp_path / "images", 60)
    _, tell = pipe()
    words = (tmp_path / "images", tmp_path / "features", 0.01, tell)
    processes = [start(encode_slowly, *words) for _ in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        _, features, _ = collect(images, encoder, cache)
        assert cache.statistics().entries == 60
        assert cache.statistics().shards <= 2
    assert encoder.module.images == 0
    np.testing.assert_allclose(features, expected(images), rtol=1e-5)
