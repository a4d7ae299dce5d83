"""What decoding takes of memory: a budget for the whole process, and pixels strip by strip."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.hostile import image_bytes as hostile
from tests.image_factory import encoded
from tests.odd_images import every, reason_of, wait_until

from captune.errors import Stopped
from captune.images import UnreadableImage
from captune.images.decode import Budget, machine_memory, memory_limit
from captune.images.formats import decode_here


def test_budget_is_never_exceeded_and_serves_in_order():
    budget, now, most, order = Budget(), [0], [0], []
    lock = threading.Lock()

    def work(n: int) -> None:
        amount = 30 + 7 * (n % 9)
        with budget.hold(amount, 100):
            with lock:
                order.append(n)
                now[0] += min(amount, 100)
                most[0] = max(most[0], now[0])
            time.sleep(0.001)
            with lock:
                now[0] -= min(amount, 100)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(300)))
    assert sorted(order) == list(range(300))
    assert 30 < most[0] <= 100


def test_a_large_image_is_not_overtaken_for_ever():
    budget, order = Budget(), []
    first, started = threading.Event(), []

    def hold(name: str, amount: int, until: threading.Event | None = None) -> None:
        started.append(name)
        with budget.hold(amount, 10):
            order.append(name)
            if until is not None:
                until.wait(10)

    threads = [threading.Thread(target=hold, args=("small", 5, first))]
    threads += [threading.Thread(target=hold, args=("large", 50))]  # alone
    threads += [threading.Thread(target=hold, args=("late", 1))]
    for thread in threads:
        thread.start()
        wait_until(lambda: len(budget._waiting) + len(order) == len(started))
    assert order == ["small"]
    first.set()
    for thread in threads:
        thread.join(10)
    assert order == ["small", "large", "late"]


def test_waiting_for_memory_can_be_stopped():
    budget = Budget()
    with budget.hold(1, 1), ThreadPoolExecutor(1) as pool:

        def wait() -> None:
            with budget.hold(1, 1):
                pass

        future = pool.submit(wait)
        wait_until(lambda: budget._waiting)
        budget.stop()
        assert isinstance(future.exception(timeout=10), Stopped)
    with budget.hold(1, 1):
        pass


def test_memory_limit_is_a_quarter_at_most(monkeypatch):
    assert memory_limit() <= min(1.3e9, machine_memory() / 4)
    monkeypatch.setenv("CAPTUNE_MAX_DECODING_MB", "5")
    assert memory_limit() == 5_000_000
    assert reason_of(encoded(Image.new("RGB", (1_000, 1_000)), "PNG")) == (
        "takes 0.0 GB of memory to decode, over the limit of 0.0 GB (CAPTUNE_MAX_DECODING_MB)"
    )


def test_a_container_has_the_memory_that_it_is_given(monkeypatch, tmp_path):
    found = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/sys/fs/cgroup/a/b/memory.max": "max\n",
        "/sys/fs/cgroup/a/memory.max": "123456789\n",
    }

    def read(self, **_):
        try:
            return found[str(self)]
        except KeyError:
            raise FileNotFoundError(self) from None

    machine_memory.cache_clear()
    monkeypatch.setattr(Path, "read_text", read)
    assert machine_memory() == 123_456_789
    machine_memory.cache_clear()


MEASURES = """
import json, os, resource, sys
from concurrent.futures import ThreadPoolExecutor
from tests.hostile import image_bytes as hostile
from captune.images import decode_image
from captune.images.decode import decoded_image
from tests.image_factory import encoded, picture
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
def work(data):
    with decoded_image(data) as image:
        return image.resize((9, 9)).getpixel((0, 0))
make = {"webp": hostile.animated_webp, "png": hostile.flat_png}[sys.argv[1]]
files = [make(1_600, 1_600 - n) for n in range(16)]
decode_image(encoded(picture(), "TIFF"))
work(files[0])
before = used()
with ThreadPoolExecutor(16) as pool:
    pixels = list(pool.map(work, files))
print(json.dumps([before, used(), pixels]))
"""


@pytest.mark.parametrize(("kind", "limit_mb"), [("webp", 50), ("png", 50)])
def test_sixteen_threads_take_no_more_than_the_budget(kind, limit_mb):
    """One of them takes 31 MB or 20 MB at its worst; 16 at once took ten times the budget."""
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", MEASURES, kind],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        # glibc keeps some of what small images took, a heap a thread
        env={**os.environ, "CAPTUNE_MAX_DECODING_MB": str(limit_mb), "MALLOC_ARENA_MAX": "2"},
        check=True,
    )
    before, after, pixels = json.loads(done.stdout)
    assert len(pixels) == 16
    assert after - before < 2.5 * limit_mb


@pytest.mark.parametrize("rows", [1, 7])
def test_strips_change_no_pixel(rows, monkeypatch):
    wide = [(name, data) for name, data in every() if len(data) < 100_000]
    for name, data in wide:
        try:
            whole = decode_here(data, 10**8)
        except UnreadableImage:
            continue
        monkeypatch.setattr("captune.images.formats._STRIP_PIXELS", rows * whole.width)
        np.testing.assert_array_equal(decode_here(data, 10**8), whole, err_msg=name)
        monkeypatch.undo()


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "I;16B"])
def test_grey_in_strips_has_one_scale(mode, monkeypatch):
    values = np.linspace(0, 65_000, 40 * 30).reshape(30, 40)
    image = Image.fromarray(values.astype({"F": "f4", "I": "i4"}.get(mode, "u2")))
    data = encoded(image, "TIFF")
    if mode == "I;16B":
        data = hostile.tiff(
            [
                *((256, 4, 1, 40), (257, 4, 1, 30), (258, 3, 1, 16), (259, 3, 1, 1)),
                *((262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (279, 4, 1, 2400)),
            ],
            values.astype("<u2").tobytes(),
        )
    whole = np.asarray(decode_here(data, 10**8))
    monkeypatch.setattr("captune.images.formats._STRIP_PIXELS", 80)
    np.testing.assert_array_equal(decode_here(data, 10**8), whole)
    assert whole.max() > 250
