"""Unusual files are decoded in processes that end when they take too long, and with captune."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from tests.hostile import image_bytes as hostile
from tests.image_factory import encoded, jpeg, picture
from tests.odd_images import every, reason_of, wait_until

from captune.errors import Stopped, UserError
from captune.images import UnreadableImage, decode, decode_image
from captune.images.decode import decoding_threads, stop_decoding
from captune.images.formats import decode_here


@pytest.fixture
def half_a_second(monkeypatch):
    monkeypatch.setenv("CAPTUNE_MAX_DECODING_SECONDS", "0.5")


SLOW = {
    "scans.jpg": lambda: hostile.progressive_jpeg(480, 8_000),
    "scaled.ppm": lambda: hostile.scaled_ppm(6_000, 4_000),
    "numbers.pgm": lambda: hostile.text_pgm(3_000, 4_000),
}


@pytest.mark.parametrize("name", SLOW)
def test_time_is_limited_whatever_the_decoder_does(name, half_a_second):
    data = SLOW[name]()
    start = time.monotonic()
    assert reason_of(data) == "takes over 0.5 s to decode (CAPTUNE_MAX_DECODING_SECONDS)"
    assert time.monotonic() - start < 10
    assert decode_image(encoded(picture(), "TIFF")).size == (48, 32)  # another one is started


@pytest.mark.parametrize("nonsense", ["long", "-1", "0", "nan"])
@pytest.mark.parametrize("name", ["CAPTUNE_MAX_DECODING_SECONDS", "CAPTUNE_MAX_DECODING_MB"])
def test_limits_are_numbers(name, nonsense, monkeypatch):
    monkeypatch.setenv(name, nonsense)
    with pytest.raises(UserError, match=f"{name}={nonsense} is not a number of"):
        decode_image(encoded(picture(), "TIFF"))


def test_the_other_process_answers_the_same():
    with decode._decoders.taken() as decoder:
        for name, data in every():
            answers = []
            for decoded_by in (
                lambda data: decode_here(data, 10**8),
                lambda data: decoder.decode(
                    data, "image", most_pixels=10**8, memory=10**8, seconds=60
                ),
            ):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        answers.append(np.asarray(decoded_by(data)))
                except UnreadableImage as refusal:
                    answers.append(np.array(refusal.reason))
            np.testing.assert_array_equal(*answers, err_msg=name)


def test_processes_are_used_again():
    data = encoded(picture(), "TIFF")
    with decode._decoders.taken() as first:
        pass
    decode_image(data)
    with decode._decoders.taken() as second:
        assert second is first


def test_a_crashed_decoder_is_a_damaged_file():
    data = hostile.scaled_ppm(3_000, 2_000)
    with decode._decoders.taken() as decoder:
        pid = decoder._process.pid
        threading.Timer(0.3, os.kill, (pid, signal.SIGSEGV)).start()
        with pytest.raises(UnreadableImage, match="damaged PPM, which ends its decoder"):
            decoder.decode(data, "PPM", most_pixels=10**8, memory=10**9, seconds=60)
    assert decode_image(encoded(picture(), "TIFF")).size == (48, 32)


def test_a_bug_of_ours_is_not_blamed_on_the_file():
    with pytest.raises(RuntimeError, match="TypeError"), decode._decoders.taken() as decoder:
        decoder.decode(jpeg(), "JPEG", most_pixels=10**8, memory="much", seconds=60)


def test_without_a_second_process_there_is_a_reason(monkeypatch):
    decode._decoders.end_idle()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert reason_of(encoded(picture(), "TIFF")) == (
        "no process can be started to decode it (No such file or directory)"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's limit is Linux's")
def test_memory_beyond_the_promise_is_refused():
    data = encoded(Image.new("RGB", (9_000, 9_000)), "PNG")
    with decode._decoders.taken() as decoder:
        with pytest.raises(UnreadableImage, match="not enough memory to decode it"):
            decoder.decode(data, "PNG", most_pixels=10**8, memory=10**7, seconds=60)
        image = decoder.decode(data, "PNG", most_pixels=10**8, memory=10**9, seconds=60)
        assert image.size == (9_000, 9_000)


DECODES_SLOWLY = """
import sys
from pathlib import Path
from captune.images import decode_image
decode_image(Path(sys.argv[1]).read_bytes())
"""


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(word) for word in listed.stdout.split()]


def is_there(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def in_a_process(words: list[str], **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *words], **options)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["scaled.ppm", "tile.jp2"])
def test_no_orphan_after_kill_9(kind, tmp_path):
    """Also while a decoder holds Python's lock, as that of JPEG 2000 does."""
    path = tmp_path / kind
    if kind == "tile.jp2":
        if not features.check("jpg_2000"):
            pytest.skip("this Pillow has no JPEG 2000")
        path.write_bytes(hostile.jpeg_2000(7_000, 7_000))
    else:
        path.write_bytes(hostile.scaled_ppm(6_000, 4_000))
    with in_a_process(["-c", DECODES_SLOWLY, str(path)]) as parent:
        wait_until(lambda: children(parent.pid))
        (child,) = children(parent.pid)
        stat = Path(f"/proc/{child}/stat")
        wait_until(lambda: int(stat.read_text().rsplit(")", 1)[1].split()[11]) > 50)  # it decodes
        parent.kill()
    wait_until(lambda: not is_there(child), 5)


@pytest.fixture
def slow_folder(tmp_path):
    folder = tmp_path / "slow"
    folder.mkdir()
    data = hostile.scaled_ppm(6_000, 4_000)
    for n in range(6):
        (folder / f"{n}.ppm").write_bytes(data[: -1 - n] + b"\1" * (n + 1))
    return folder


CLASSIFIES = """
import sys, captune.zeroshot.classifier
from tests.colour_model import colour_model
captune.zeroshot.classifier.load_image_text_model = lambda spec, **where: colour_model()
from captune.cli import main
sys.exit(main(sys.argv[1:]))
"""


def classify(folder: Path, **options) -> subprocess.Popen:
    words = ["-c", CLASSIFIES, "classify", str(folder), "--labels", "red,blue"]
    # a shell that runs the tests in the background has it ignored
    return in_a_process(
        words,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        **options,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_does_not_wait_for_slow_images(times, slow_folder):
    with classify(slow_folder) as command:
        wait_until(lambda: children(command.pid))
        time.sleep(1)
        start = time.monotonic()
        for _ in range(times):
            command.send_signal(signal.SIGINT)
            time.sleep(0.1)
        _, err = command.communicate(timeout=60)
        took = time.monotonic() - start
    assert command.returncode in ((130,) if times == 1 else (130, -signal.SIGINT)), err
    assert "Traceback" not in err
    assert took < 5  # 2 s, on a machine that does nothing else


def test_stopping_ends_what_runs_and_what_waits():
    data = hostile.scaled_ppm(6_000, 4_000)
    with decoding_threads(8) as threads:
        futures = [threads.submit(decode_image, data) for _ in range(20)]
        wait_until(lambda: sum(future.running() for future in futures) >= 8)
        time.sleep(0.5)
        stop_decoding()
        assert all(
            future.cancelled() or isinstance(future.exception(timeout=10), Stopped)
            for future in futures
        )
    assert decode_image(encoded(picture(), "TIFF")).size == (48, 32)


def test_libtiff_says_nothing_beside_the_reasons(tmp_path):
    files = hostile.damaged_tiffs()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "good.jpg").write_bytes(jpeg())
    with classify(tmp_path) as command:
        _, err = command.communicate(timeout=120)
    assert command.returncode == 0
    lines = err.splitlines()
    assert len(lines) >= 5
    assert all(line.startswith("skipped ") and line.endswith("damaged TIFF") for line in lines), err


@pytest.mark.needs("linux")
def test_memory_is_given_back_after_each_image():
    """OpenJPEG takes 180 MB in small pieces for a file that claims a tile for every pixel."""
    tiles = bytearray(hostile.jpeg_2000(200, 150))
    start = tiles.index(b"\xff\x51") + 22
    tiles[start : start + 8] = (1).to_bytes(4) * 2
    with decode._decoders.taken() as decoder:
        decoder.decode(bytes(tiles), "JPEG 2000", most_pixels=10**6, memory=10**9, seconds=60)
        status = Path(f"/proc/{decoder._process.pid}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) > 150_000  # kB
    assert int(status.split("VmRSS:")[1].split()[0]) < 60_000
