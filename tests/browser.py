"""A real browser without a screen: Debian's Chromium, started anew for each test."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
# where `make test` puts it: npm install --prefix .venv/axe-core axe-core
AXE = Path(sys.prefix) / "axe-core" / "node_modules" / "axe-core" / "axe.min.js"
# without these it would ask the network for updates, and as root it would not start
_SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars"),
)


def is_present() -> bool:
    """Whether there is a browser, its driver, and what speaks to it."""
    return bool(which("chromium") and which("chromedriver") and find_spec("selenium"))


@contextmanager
def browser(folder: Path, size: str = "desktop", *, dark: bool = False) -> Iterator[Any]:
    """A selenium driver; folder: of its own, for the profile."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    width, height = SIZES[size]
    options = webdriver.ChromeOptions()
    options.binary_location = str(which("chromium"))
    for switch in (
        *_SWITCHES,
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},{height}",
    ):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(which("chromedriver"))))
    try:
        # a window is not made as narrow as a phone
        screen = {"width": width, "height": height, "deviceScaleFactor": 1}
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", screen | {"mobile": size == "phone"}
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        # without it nothing is focused in a window that no one has brought to the front
        driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        yield driver
    finally:
        driver.quit()


def complaints(driver: Any) -> list[str]:
    """What the console says, warnings included."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Any) -> list[str]:
    """Every address that was asked for since the last time.

    But what is in the page itself, and the browser's own pages, which come out of its program.
    """
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    own = ("data:", "blob:", "chrome:", "chrome-untrusted:")
    return [url for url in found if not url.startswith(own)]


def serious_findings(driver: Any, within: str = "document") -> list[str]:
    """What axe-core calls serious or critical, one line an element."""
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    result = driver.execute_async_script(
        f"const done = arguments[0]; axe.run({within}).then(done, e => done(String(e)));"
    )
    assert isinstance(result, dict), result
    return [
        f"{found['id']}: {node['html'][:200]}"
        for found in result["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
