"""Every tab, on a desktop and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.browser import AXE, requests, serious_findings
from tests.colour_model import use_colour_model
from tests.webapp.app_page import (
    HOSTILE,
    HOSTILE_NAME,
    choose,
    colour_image,
    drop,
    load,
    opened,
    over,
    tab,
    text_of,
    typed,
    when,
    wrong,
)
from tests.webapp.made_up import little_captioner, write_runs

from captune.webapp.server import Running

pytestmark = pytest.mark.needs("chromium")


def names(driver: Any, job: str) -> list[str]:
    """The images of a result's cards, in their order."""
    cards = f"[...document.querySelectorAll('#result-{job} .card .file')]"
    found: list[str] = driver.execute_script(f"return {cards}.map(one => one.textContent)")
    return found


def describe(driver: Any) -> None:
    """Captions, a word's map, and two questions."""
    tab(driver, "Caption")
    driver.find_element("css selector", "#caption").click()
    over(driver, "caption")
    top = "document.querySelector('#result-caption').getBoundingClientRect().top"
    when(driver, f"{top} < innerHeight / 2")
    tab(driver, "Explain")
    driver.find_element("css selector", "#explain").click()
    over(driver, "explain")
    orders = {tuple(names(driver, job)) for job in ("classify", "caption", "explain")}
    assert orders == {tuple(sorted([HOSTILE_NAME, "blue.png"]))}
    words = "document.querySelectorAll('#result-explain .card')[0].querySelectorAll('.word')"
    assert driver.execute_script(f"return {words}.length") > 1
    driver.execute_script(f"{words}[1].focus()")
    map_of = "#result-explain .card .map[data-map='1']"
    assert driver.execute_script(f'return !document.querySelector("{map_of}").hidden')
    assert "of this map lies in" in text_of(driver, "#result-explain .card .told")
    driver.execute_script(f"{words}[1].blur()")
    assert driver.execute_script(f'return document.querySelector("{map_of}").hidden')
    driver.execute_script(f"{words}[0].click()")
    assert driver.execute_script(f"return {words}[0].getAttribute('aria-pressed')") == "true"
    typed(driver, "ask-word", "w3")
    typed(driver, "ask-against", "w7")
    driver.find_element("css selector", "#ask").click()
    over(driver, "ask")


def remove_one(driver: Any) -> None:
    """The second image, by keyboard; its cards are gone in every tab, and the focus goes on."""
    tab(driver, "Caption")
    buttons = "document.querySelectorAll('#strip-caption [data-remove]')"
    driver.execute_script(f"{buttons}[1].focus()")
    driver.switch_to.active_element.send_keys("\ue007")
    when(driver, f"{buttons}.length === 1 && document.activeElement === {buttons}[0]")
    for job in ("classify", "caption", "explain"):
        tab(driver, job.capitalize())
        when(driver, f"document.querySelectorAll('#result-{job} .card').length === 1")
        assert names(driver, job) == [HOSTILE_NAME]


def compare(driver: Any, folder: Path) -> None:
    """Two runs, and the page about them in its frame."""
    tab(driver, "Compare")
    choose(driver, "compare-a", "first")
    choose(driver, "compare-b", "second")
    typed(driver, "compare-references", str(folder / "references.json"))
    driver.find_element("css selector", "#compare").click()
    over(driver, "compare")


def report(driver: Any) -> None:
    """The page of two runs in its frame."""
    tab(driver, "Report")
    choose(driver, "report-runs", "recognised", "maps")
    driver.execute_script("document.querySelector('#report').click()")
    over(driver, "report")


def inside(driver: Any, tab_name: str) -> str:
    """What the page in a tab's frame says."""
    assert text_of(driver, f"#result-{tab_name} .refusal, #result-{tab_name} iframe") == ""
    frame = driver.find_element("css selector", f"#result-{tab_name} iframe")
    driver.switch_to.frame(frame)
    try:
        when(driver, "document.querySelector('.browse .image, h1')")
        return str(driver.execute_script("return document.body.innerText"))
    finally:
        driver.switch_to.default_content()


def alone(driver: Any) -> str:
    """What the page of the report says in a window of its own, which has no origin."""
    before = driver.current_window_handle
    driver.execute_script("document.querySelector('#result-report .open a').click()")
    when(driver, "true")
    (window,) = [one for one in driver.window_handles if one != before]
    driver.switch_to.window(window)
    try:
        for _ in range(2):
            when(driver, "document.querySelector('.browse .image, h1')")
            assert driver.execute_script("return window.origin") == "null"
            shown = str(driver.execute_script("return document.body.innerText"))
            driver.refresh()
        assert wrong(driver) == []
        return shown
    finally:
        driver.close()
        driver.switch_to.window(before)


@dataclass
class Walk:
    """What was seen on the way.

    findings: serious ones of axe, where it is there. elsewhere: addresses that are not the app's.
    """

    findings: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    alerts: int = 0

    def look(self, driver: Any) -> None:
        """Let axe look at the page."""
        if AXE.is_file():
            self.findings += serious_findings(driver)


@pytest.fixture(
    scope="module", params=[("desktop", False), ("phone", True)], ids=["desktop", "phone"]
)
def walk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Walk]:
    """All tabs, one after the other, and again after a reload; a phone in the dark scheme."""
    size, dark = request.param
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTUNE_CACHE", str(folder / "cache"))
        patch.setenv("CAPTUNE_OFFLINE", "1")
        use_colour_model(patch)
        little_captioner(folder, patch)
        write_runs(folder)
        with opened(folder, size, dark=dark) as (app, driver):
            driver.set_script_timeout(300)
            yield walked(folder, app, driver)


def walked(folder: Path, app: Running, driver: Any) -> Walk:
    walk = Walk()
    red = colour_image(folder / HOSTILE_NAME, (220, 20, 30))
    typed(driver, "labels", "red, red")  # a refusal is a part too
    drop(driver, "classify", red, colour_image(folder / "blue.png", (20, 10, 210)))
    when(driver, "document.querySelector('#result-classify .refusal')")
    walk.look(driver)
    typed(driver, "labels", "red, blue")
    over(driver, "classify")
    walk.look(driver)
    describe(driver)
    walk.look(driver)
    line = driver.execute_script("return document.querySelector('#result-ask code').textContent")
    assert line.endswith("--words w3 --against w7") or "--caption 'a w3'" in line
    remove_one(driver)
    compare(driver, folder)
    walk.look(driver)
    assert HOSTILE in inside(driver, "compare")
    assert (folder / "runs" / "compared" / "plots" / "differences.png").is_file()
    report(driver)
    assert HOSTILE_NAME in inside(driver, "report")
    assert HOSTILE_NAME in alone(driver)
    tab(driver, "Tune")
    typed(driver, "tune-images", str(folder / "images"))
    driver.find_element("css selector", "#tune").click()
    when(driver, "document.querySelector('#result-tune .refusal')")
    assert "training captions is missing" in text_of(driver, "#result-tune")
    typed(driver, "tune-captions", str(folder / "references.json"))
    typed(driver, "tune-epochs", "0")
    driver.find_element("css selector", "#tune").click()
    refused = "document.querySelector('#result-tune').innerText"
    when(driver, f"{refused}.includes('epochs must be 1 or more, not 0')")
    driver.find_element("css selector", "#look").click()
    over(driver, "look")
    assert "3 captions of 3 images; 3 of them are in the folder" in text_of(driver, "#result-look")
    for name in ("Classify", "Caption", "Explain", "Tune", "Compare", "Report"):
        tab(driver, name)
        wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, name
    walk.alerts = driver.execute_script("return alerts")
    walk.wrong = wrong(driver)
    # what the tabs showed is there again after a reload
    load(driver, app)
    for name, job in (("Explain", "ask"), ("Compare", "compare"), ("Report", "report")):
        tab(driver, name)
        over(driver, job)
    tab(driver, "Explain")
    over(driver, "explain")
    word = "document.querySelector('#ask-word textarea, #ask-word input').value"
    assert driver.execute_script(f"return {word}") == "w3"
    walk.wrong += wrong(driver)
    walk.elsewhere = {url for url in requests(driver) if not url.startswith(app.url)}
    return walk


def test_every_tab_works_and_nothing_is_fetched_from_elsewhere(walk: Walk) -> None:
    assert walk.alerts == 0
    assert walk.wrong == []
    assert walk.elsewhere == set()


@pytest.mark.needs("axe")
def test_axe_finds_nothing_serious(walk: Walk) -> None:
    assert walk.findings == []
