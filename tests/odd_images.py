"""Files for the tests of decoding, and the reason why one is refused."""

import time
from collections.abc import Callable

from PIL import features

from captune.images import UnreadableImage, decode_image
from tests.hostile import image_bytes as hostile
from tests.image_factory import broken_cases, readable_cases


def reason_of(data: bytes) -> str | None:
    try:
        decode_image(data)
    except UnreadableImage as refusal:
        return refusal.reason
    return None


def unusual() -> dict[str, bytes]:
    """Readable ones of every format, and of every way that captune treats differently."""
    files = {case.file: case.data for case in readable_cases()}
    files |= {
        "canvas.webp": hostile.animated_webp(300, 200),
        "still.webp": hostile.still_webp(300, 200),
        "frame.gif": hostile.gif_with_canvas(300, 200),
        "interlaced.png": hostile.flat_png(30, 20, interlaced=True),
        "runs.bmp": hostile.run_length_bmp(30, 20),
        "scaled.ppm": hostile.scaled_ppm(30, 20),
        "numbers.pgm": hostile.text_pgm(30, 20),
        "plain.tif": hostile.grey_tiff(30, 20),
        "strips.tif": hostile.tiff_of_strips(20),
    }
    if features.check("jpg_2000"):
        files["tiles.jp2"] = hostile.jpeg_2000(100, 70, tile=32)
    return files


def every() -> list[tuple[str, bytes]]:
    """Readable and broken ones, whose answer is always the same."""
    files = [(case.file, case.data) for case in (*readable_cases(), *broken_cases())]
    tiffs = hostile.damaged_tiffs()
    for name in ("group4.tif", "packbits.tif"):  # half of their pixels are whatever memory holds
        del tiffs[name]
    return [*files, *unusual().items(), *tiffs.items()]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
