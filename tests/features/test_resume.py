"""A run that was killed goes on where it was; two runs at once share what they compute."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.features.test_photos import collect, expected, make_encoder, make_photos

from captune.features import FeatureCache

RUN = """
import signal
import sys
from pathlib import Path
# a shell that runs the tests in the background has it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from test_photos import collect, make_encoder
from captune.features import FeatureCache
from captune.images import Photo
paths = sorted(Path(sys.argv[2]).glob("*.png"))
photos = [Photo(path, path.name) for path in paths]
encoder = make_encoder(pause_s=float(sys.argv[4]))
cache = FeatureCache(Path(sys.argv[3]))
collect(photos, encoder, cache, on_progress=lambda n: print(n, flush=True))
print("encoded", encoder.module.images, flush=True)
"""


def start(photos: Path, cache: Path, pause_s: float) -> subprocess.Popen:
    words = [sys.executable, "-c", RUN, Path(__file__).parent, photos, cache, str(pause_s)]
    return subprocess.Popen([str(w) for w in words], stdout=subprocess.PIPE, text=True)


def run_until(process: subprocess.Popen, count: int) -> int:
    done = 0
    while done < count:
        done += int(process.stdout.readline())
    return done


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_was(tmp_path, sign):
    photos = make_photos(tmp_path / "photos", 120)
    process = start(tmp_path / "photos", tmp_path / "features", 0.1)
    done = run_until(process, 48)
    process.send_signal(sign)
    process.wait(20)
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        names, features, _ = collect(photos, encoder, cache)
    assert names == [photo.name for photo in photos]
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
    # the batch that was being saved may be lost, nothing before it
    assert 120 - done - 16 <= encoder.module.images <= 120 - done + 8


def test_two_processes_write_at_once(tmp_path):
    photos = make_photos(tmp_path / "photos", 60)
    processes = [start(tmp_path / "photos", tmp_path / "features", 0.01) for _ in range(2)]
    for process in processes:
        assert process.wait(60) == 0
    with FeatureCache(tmp_path / "features") as cache:
        encoder = make_encoder()
        _, features, _ = collect(photos, encoder, cache)
        assert cache.statistics().entries == 60
        assert cache.statistics().shards <= 2
    assert encoder.module.images == 0
    np.testing.assert_allclose(features, expected(photos), rtol=1e-5)
