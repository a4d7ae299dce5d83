"""Every tab, on a desktop and on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.browser import requests, serious_findings
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

pytestmark = pytest.mark.needs("chromium")


def describe(driver: Any) -> None:
    """Captions, a word's map, and two questions."""
    tab(driver, "Caption")
    driver.find_element("css selector", "#caption").click()
    over(driver, "caption")
    words = "document.querySelectorAll('#result-caption .card')[0].querySelectorAll('.word')"
    assert driver.execute_script(f"return {words}.length") > 1
    driver.execute_script(f"{words}[1].focus()")
    map_of = "#result-caption .card .map[data-map='1']"
    assert driver.execute_script(f'return !document.querySelector("{map_of}").hidden')
    assert "of this map lies in" in text_of(driver, "#result-caption .card .told")
    driver.execute_script(f"{words}[1].blur()")
    assert driver.execute_script(f'return document.querySelector("{map_of}").hidden')
    driver.execute_script(f"{words}[0].click()")
    assert driver.execute_script(f"return {words}[0].getAttribute('aria-pressed')") == "true"
    typed(driver, "ask-word", "w3")
    typed(driver, "ask-against", "w7")
    driver.find_element("css selector", "#ask").click()
    over(driver, "ask")


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


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_tab_works_and_nothing_is_fetched_from_elsewhere(
    colours: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    little_captioner(tmp_path, monkeypatch)
    write_runs(tmp_path)
    red = colour_image(tmp_path / HOSTILE_NAME, (220, 20, 30))
    with opened(tmp_path, size) as (app, driver):
        drop(driver, "classify", red, colour_image(tmp_path / "blue.png", (20, 10, 210)))
        over(driver, "classify")
        describe(driver)
        line = driver.execute_script(
            "return document.querySelector('#result-ask code').textContent"
        )
        assert line.endswith("--words w3 --against w7") or "--caption 'a w3'" in line
        compare(driver, tmp_path)
        assert HOSTILE in inside(driver, "compare")
        assert (tmp_path / "runs" / "compared" / "plots" / "differences.png").is_file()
        report(driver)
        shown = inside(driver, "report")
        assert HOSTILE_NAME in shown
        assert HOSTILE_NAME in alone(driver)
        tab(driver, "Tune")
        typed(driver, "tune-images", str(tmp_path / "images"))
        typed(driver, "tune-captions", str(tmp_path / "references.json"))
        driver.find_element("css selector", "#look").click()
        over(driver, "preview")
        assert "3 captions of 3 images; 3 of them are in the folder" in text_of(
            driver, "#result-preview"
        )
        driver.find_element("css selector", "#tune").click()
        when(driver, "document.querySelector('#result-tune .refusal')")
        assert "validation captions is missing" in text_of(driver, "#result-tune")
        for name in ("Classify", "Caption", "Tune", "Compare", "Report"):
            tab(driver, name)
            wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, name
        assert driver.execute_script("return alerts") == 0
        assert wrong(driver) == []
        # what the tabs showed is there again after a reload
        load(driver, app)
        for name, job in (("Caption", "ask"), ("Compare", "compare"), ("Report", "report")):
            tab(driver, name)
            over(driver, job)
        tab(driver, "Caption")
        over(driver, "caption")
        assert (
            driver.execute_script(
                "return document.querySelector('#ask-word textarea, #ask-word input').value"
            )
            == "w3"
        )
        assert wrong(driver) == []
        assert {url for url in requests(driver) if not url.startswith(app.url)} == set()


@pytest.mark.needs("axe")
@pytest.mark.parametrize(("size", "dark"), [("desktop", False), ("phone", True)])
def test_axe_finds_nothing_serious_in_our_own_parts(
    colours: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str, dark: bool
) -> None:
    little_captioner(tmp_path, monkeypatch)
    write_runs(tmp_path)
    with opened(tmp_path, size, dark=dark) as (_, driver):
        driver.set_script_timeout(300)
        typed(driver, "labels", "red, red")  # a refusal is a part too
        drop(driver, "classify", colour_image(tmp_path / "blue.png", (20, 10, 210)))
        when(driver, "document.querySelector('#result-classify .refusal')")
        assert serious_findings(driver, "'.cap'") == []
        typed(driver, "labels", "red, blue")
        over(driver, "classify")
        assert serious_findings(driver, "'.cap'") == []
        describe(driver)
        assert serious_findings(driver, "'.cap'") == []
        compare(driver, tmp_path)
        assert serious_findings(driver, "'.cap'") == []
