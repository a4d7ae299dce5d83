"""The app in this process and a browser that walks it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from tests.browser import browser, complaints

from captune.options.pages import AppOptions
from captune.webapp.server import Running, running

HOSTILE_NAME = '"><img src=x onerror=alert(1)>.jpg'
# Gradio's words when a stream ends, and when a page with an open stream is left
_FRAMEWORKS = (
    *("Method not implemented", "BodyStreamBuffer was aborted", "Connection errored out"),
    "signal is aborted without reason",
)
HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{this}}"


@contextmanager
def opened(
    folder: Path, size: str = "desktop", *, dark: bool = False, **options: Any
) -> Iterator[tuple[Running, Any]]:
    """An app with its runs in `folder`, and a browser that has loaded it."""
    with (
        running(AppOptions(runs=folder / "runs", **options)) as app,
        browser(folder / "browser", size, dark=dark) as driver,
    ):
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument",
            {"source": "window.alerts = 0; window.alert = () => { window.alerts += 1 }"},
        )
        load(driver, app)
        yield app, driver


def load(driver: Any, app: Running) -> None:
    """Load the page, or load it again."""
    driver.get(app.address)
    when(driver, "document.querySelector('#classify')")
    # events of the page's own loading
    time.sleep(1)


def when(driver: Any, script: str, seconds: float = 90) -> Any:
    """What a script gives once that is true."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(f"return {script}")):
        assert time.monotonic() < end, script
        time.sleep(0.05)
    return found


def wrong(driver: Any) -> list[str]:
    """What the console says, but for what Gradio itself says when one of its streams ends."""
    return [said for said in complaints(driver) if not any(own in said for own in _FRAMEWORKS)]


def drop(driver: Any, panel: str, *paths: Path) -> None:
    """Drop files on a panel."""
    field = driver.find_element("css selector", f"#drop-{panel} input[type=file]")
    field.send_keys("\n".join(map(str, paths)))


def typed(driver: Any, field: str, text: str) -> None:
    """Replace what a text field holds."""
    box = driver.find_element("css selector", f"#{field} textarea, #{field} input")
    box.clear()
    box.send_keys(text)


def text_of(driver: Any, place: str) -> str:
    """What a reader sees there."""
    return str(
        driver.execute_script("return document.querySelector(arguments[0]).innerText", place)
    )


def colour_image(path: Path, colour: tuple[int, int, int]) -> Path:
    """A photo of one colour."""
    Image.new("RGB", (64, 48), colour).save(path)
    return path


def tab(driver: Any, name: str) -> None:
    """Come to a tab, which on a phone may be in the menu of those that find no room."""
    shown = "document.querySelector(`#jobs button[role=tab][id='panel-${arguments[0]}-button']`)"
    found = driver.execute_script(
        f"const one = {shown}; if (one && one.checkVisibility()) {{ one.click(); return true }}"
        "document.querySelector('#jobs .overflow-menu > button')?.click(); return false",
        name.lower(),
    )
    if not found:
        listed = "[...document.querySelectorAll('#jobs .overflow-dropdown button')]"
        item = f"{listed}.find(one => one.innerText.trim() === {name!r})"
        when(driver, item, 10)
        driver.execute_script(f"{item}.click()")
    when(driver, f"document.querySelector('#panel-{name.lower()}')?.checkVisibility()", 10)


def choose(driver: Any, field: str, *values: str) -> None:
    """Take values of a list."""
    box = driver.find_element("css selector", f"#{field} input")
    for value in values:
        box.click()
        box.send_keys(value)
        listed = f"[...document.querySelectorAll('#{field} [role=option]')]"
        when(driver, f"{listed}.some(one => one.innerText.includes({value!r}))")
        box.send_keys("\ue007")
        time.sleep(0.2)


def over(driver: Any, job: str) -> None:
    """Wait until the job that was begun is over."""
    state = f"(document.querySelector('#result-{job} .job')?.className || '')"
    when(driver, f"/done|failed|stopped/.test({state})", 180)
