"""The screenshots of the README: the app and a report, on images that scientific packages ship.

    python docs/pictures.py

It needs the extras app and demo, the embedded models, captune-lite, selenium and Chromium. Writes
docs/pictures/*.png, below 300 kB each.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.browser import browser
from tests.webapp.app_page import drop, load, over, tab, typed

from captune.cli import main as captune
from captune.demo import gather_images
from captune.options.pages import AppOptions
from captune.webapp.server import running

PICTURES = Path(__file__).parent / "pictures"
MOST_BYTES = 300_000
SHOWN = ("rocket.jpg", "cat.jpg", "coffee.jpg", "temple.jpg")
LABELS = "rocket, cat, cup of coffee, temple, dog, bicycle, horse, pizza"


def take(driver: Any, name: str) -> None:
    """The window as a PNG with few enough colours to be small."""
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    for colours in (256, 128, 64, 32):
        small = picture.quantize(colours, dither=Image.Dither.FLOYDSTEINBERG)
        buffer = io.BytesIO()
        small.save(buffer, "PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.png").write_bytes(buffer.getvalue())
    print(f"{name}.png: {buffer.tell() / 1000:.0f} kB")


def of_app(folder: Path, images: list[Path]) -> None:
    """Classify on a desktop, Explain on a desktop, Classify on a phone."""
    with running(AppOptions(runs=folder / "runs")) as app:
        with browser(folder / "desktop") as driver:
            load(driver, app)
            typed(driver, "labels", LABELS)
            drop(driver, "classify", *images)
            over(driver, "classify")
            time.sleep(1)
            take(driver, "app-classify")
            tab(driver, "Explain")
            driver.find_element("css selector", "#explain").click()
            over(driver, "explain")
            driver.execute_script(
                "const words = [...document.querySelectorAll('#result-explain .word')];"
                "(words.find(w => w.innerText.startsWith('rocket')) || words[1]).click()"
            )
            time.sleep(1)
            take(driver, "app-explain")
        with browser(folder / "phone", "phone", dark=True) as driver:
            load(driver, app)
            typed(driver, "labels", LABELS)
            drop(driver, "classify", *images)
            over(driver, "classify")
            driver.execute_script(
                "document.querySelector('#result-classify .card').scrollIntoView()"
            )
            time.sleep(1)
            take(driver, "app-phone")


def of_report(folder: Path, images: list[Path]) -> None:
    """The top of a report."""
    runs = [folder / "runs" / name for name in ("recognised", "described")]
    names = [str(image) for image in images]
    captune(["classify", *names, "--labels", LABELS, "--out", str(runs[0])])
    captune(["explain", *names, "--faithfulness", "none", "--out", str(runs[1])])
    page = folder / "report.html"
    captune(["report", *map(str, runs), "--out", str(page)])
    with browser(folder / "report") as driver:
        driver.get(page.as_uri())
        time.sleep(2)
        take(driver, "report")


def main() -> None:
    """All of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = gather_images(folder).images
        images = [found / name for name in SHOWN]
        of_app(folder, images)
        of_report(folder, images)


if __name__ == "__main__":
    main()
