from __future__ import annotations

import base64
import io
import re
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.browser import browser, complaints, requests, serious_findings
from tests.report_runs import (
    HOSTILE,
    HOSTILE_NAME,
    caption_run,
    classify_run,
    compare_run,
    explain_run,
    faithful_run,
    images,
    score_run,
    tune_run,
)

from captune.pages.page import write_report
from captune.pages.sources import PageSettings

pytestmark = pytest.mark.needs("chromium")

NAMES = [HOSTILE_NAME, *(f"a/{n}.jpg" for n in range(29))]
CAPTIONS = {name: f"{HOSTILE} number {i}" for i, name in enumerate(NAMES)}
OTHER = {name: f"another {i}" for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of every job, with hostile names, captions and labels."""
    folder = tmp_path_factory.mktemp("page")
    root = images(folder / "images", NAMES)
    runs = [
        classify_run(folder / "classify", root, NAMES),
        tune_run(folder / "tune", root, {"adapter": CAPTIONS, "lora": OTHER}),
        caption_run(folder / "caption", root, CAPTIONS),
        score_run(folder / "score", root, CAPTIONS, candidates=str(folder / "caption")),
        compare_run(folder / "compare", root, CAPTIONS, OTHER),
        explain_run(folder / "explain", root, CAPTIONS),
        faithful_run(folder / "faithful", root),
    ]
    write_report(runs, folder / "page.html", PageSettings(title=HOSTILE))
    return folder / "page.html"


def when(driver: Any, script: str, seconds: float = 60) -> Any:
    """What a script gives once that is true."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(f"return {script}")):
        assert time.monotonic() < end, script
        time.sleep(0.05)
    return found


def walk(driver: Any, page: Path) -> None:
    """Come to every section, open all that opens, and draw every gallery."""
    driver.get(page.as_uri())
    driver.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
    links = driver.execute_script(
        "return [...document.querySelectorAll('.contents a')].map(a => a.hash.slice(1))"
    )
    assert links[0] == "answer"
    assert links[-1] == "again"
    for section in links:
        driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", section)
    driver.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    galleries = driver.execute_script("return document.querySelectorAll('.browse').length")
    for n in range(galleries):
        driver.execute_script(f"document.querySelectorAll('.browse')[{n}].scrollIntoView()")
        when(driver, f"document.querySelectorAll('.browse')[{n}].querySelector('.image')")


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_every_section_works_and_nothing_is_fetched(page: Path, tmp_path: Path, size: str) -> None:
    with browser(tmp_path, size) as driver:
        walk(driver, page)
        captions = "document.querySelectorAll('.browse')[1]"
        count = f"{captions}.querySelectorAll('.image').length"
        assert driver.execute_script(f"return {count}") == 24
        driver.execute_script(f"{captions}.querySelector('.more').click()")
        assert driver.execute_script(f"return {count}") == 30
        assert driver.execute_script("return document.activeElement.tagName") == "LI"
        driver.execute_script(
            f"const input = {captions}.querySelector('input'); input.value = 'A/17';"
            "input.dispatchEvent(new Event('input'))"
        )
        when(driver, f"{count} === 1")
        told = driver.execute_script(f"return {captions}.querySelector('output').textContent")
        assert told == "1 image of 30"
        driver.execute_script(
            f"const root = {captions}; root.querySelector('input').value = '';"
            "const sort = root.querySelector('select');"
            "sort.value = [...sort.options].findIndex(o => o.text.includes('worst first'));"
            "sort.dispatchEvent(new Event('change'))"
        )
        when(driver, f"{count} === 24")
        driver.execute_script("document.querySelectorAll('figcaption button')[0].click()")
        wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        texts = "[...document.querySelectorAll('.texts .scroll')]"
        assert driver.execute_script(f"return {texts}.length") > 3
        moving = f"{texts}.filter(one => one.scrollWidth > one.clientWidth)"
        assert driver.execute_script(f"return {moving}.map(one => one.ariaLabel)") == []
        assert complaints(driver) == []
        asked = requests(driver)
        assert {url for url in asked if not url.startswith(page.as_uri())} == set()


@pytest.mark.parametrize("size", ["desktop", "phone"])
def test_the_navigation_arrives_where_it_points(page: Path, tmp_path: Path, size: str) -> None:
    with browser(tmp_path, size) as driver:
        driver.get(page.as_uri())
        # as for a reader who wants no motion, so that each click has arrived when it returns
        driver.execute_script("document.documentElement.style.scrollBehavior = 'auto'")
        count = driver.execute_script("return document.querySelectorAll('.contents a').length")
        assert count > 5
        for i in range(count):
            below, left = driver.execute_script(
                "const link = document.querySelectorAll('.contents a')[arguments[0]];"
                "link.click();"
                "const head = document.querySelector('.contents').getBoundingClientRect().bottom;"
                "const own = document.getElementById(link.hash.slice(1)).getBoundingClientRect();"
                "const root = document.documentElement;"
                "return [own.top - head, root.scrollHeight - innerHeight - root.scrollTop];",
                i,
            )
            assert -1 <= below <= 100 or left < 1  # of a short last section there is no more


def test_a_phone_shows_at_which_side_the_navigation_goes_on(page: Path, tmp_path: Path) -> None:
    def edges(driver: Any, left: int) -> tuple[bool, bool]:
        """Which edges are not of the colour of the paper between, above the words."""
        driver.execute_script(
            f"document.querySelector('.contents ul').scrollLeft = {left};"
            "document.querySelector('.contents').scrollIntoView()"
        )
        time.sleep(0.2)
        shown = driver.find_element("css selector", ".contents").screenshot_as_png
        with Image.open(io.BytesIO(shown)) as picture:
            pixels = picture.convert("RGB")
        paper = pixels.getpixel((pixels.width // 2, 4))
        return pixels.getpixel((1, 4)) != paper, pixels.getpixel((pixels.width - 2, 4)) != paper

    with browser(tmp_path, "phone") as driver:
        driver.get(page.as_uri())
        assert edges(driver, 0) == (False, True)
        assert edges(driver, 120) == (True, True)
        assert edges(driver, 10**6) == (True, False)


def test_paper_has_everything(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as driver:
        driver.get(page.as_uri())
        shown = "return [...document.querySelectorAll('.browse .grid')].map(g => g.children.length)"
        folded = "return document.querySelectorAll('details.fold:not([open])').length"
        before, closed = driver.execute_script(shown), driver.execute_script(folded)
        assert 0 not in before
        assert 24 in before
        assert closed
        driver.execute_script("dispatchEvent(new Event('beforeprint'))")
        assert 30 in driver.execute_script(shown)
        assert driver.execute_script(folded) == 0
        # a map for each word, which cannot be hovered over
        words, maps = driver.execute_script(
            "const all = document.querySelectorAll('.large .image');"
            "return ['.word', '.maps canvas'].map(s => all[0].querySelectorAll(s).length)"
        )
        assert words == maps > 0
        # no heading, and no caption of a table, is alone at the foot of a sheet
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        for head in ("h2", ".from", "h3", "h4", "figcaption", "thead", "tbody > tr:first-child"):
            style = f"return getComputedStyle(document.querySelector('{head}')).breakAfter"
            assert driver.execute_script(style) == "avoid", head
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        driver.execute_script("dispatchEvent(new Event('afterprint'))")
        assert driver.execute_script(shown) == before
        assert driver.execute_script(folded) == closed


def test_no_sheet_holds_the_footer_alone(tmp_path: Path) -> None:
    root = images(tmp_path / "images", NAMES)
    runs = [classify_run(tmp_path / name, root, NAMES[:1]) for name in ("a", "b")]
    write_report(runs, tmp_path / "page.html", PageSettings())
    with browser(tmp_path) as driver:
        driver.get((tmp_path / "page.html").as_uri())
        for height in range(200, 230, 3):  # the last block ends in many places of a sheet
            sheet = {"paperWidth": 6.5, "paperHeight": height / 25.4}
            printed = driver.execute_cdp_cmd("Page.printToPDF", sheet)["data"]
            assert signs_on_last_sheet(base64.b64decode(printed)) > 200, sheet


def signs_on_last_sheet(pdf: bytes) -> int:
    """How many characters Chromium drew on it."""
    contents = re.findall(rb"/Type /Page\b[^s].*?/Contents (\d+) 0 R", pdf, re.DOTALL)[-1]
    found = re.search(rb"\n%s 0 obj\n<<.*?>> stream\n(.*?)\nendstream" % contents, pdf, re.DOTALL)
    assert found is not None
    return zlib.decompress(found[1]).count(b"Tj")


def test_a_word_shows_its_map_by_keyboard_and_keeps_it_when_tapped(
    page: Path, tmp_path: Path
) -> None:
    with browser(tmp_path) as driver:
        walk(driver, page)
        driver.execute_script("window.card = document.querySelector('.large .image')")
        driver.execute_script("card.querySelectorAll('.word')[1].focus()")
        assert driver.execute_script("return card.querySelector('.look').className") == "look seen"
        told = driver.execute_script("return card.querySelector('.told').textContent")
        assert told.endswith("no better than chance; the image adds 1.2 nats")
        assert driver.execute_script(
            "const c = card.querySelector('canvas');"
            "return [...c.getContext('2d').getImageData(12, 4, 1, 1).data]"  # patch 1 of 8 pixels
        ) == pytest.approx([252, 253, 191, 163], abs=14)
        driver.execute_script("card.querySelectorAll('.word')[1].blur()")
        assert driver.execute_script("return card.querySelector('.look').className") == "look"
        driver.execute_script("card.querySelectorAll('.word')[0].click()")
        pressed = "card.querySelectorAll('.word')[0].getAttribute('aria-pressed')"
        assert driver.execute_script(f"return {pressed}") == "true"
        assert driver.execute_script("return card.querySelector('.look').className") == "look seen"


def test_hostile_text_stays_text(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path) as driver:
        driver.get("data:text/html,<p>")
        driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument",
            {"source": "window.alerts = 0; window.alert = () => { window.alerts += 1 }"},
        )
        walk(driver, page)
        assert driver.execute_script("return alerts") == 0
        assert (
            driver.execute_script("return document.querySelectorAll('img[src=x], b').length") == 0
        )
        shown = driver.execute_script("return document.body.innerText")
        assert HOSTILE_NAME in shown
        assert "</script><script>alert(2)</script>" in shown
        assert "<i>one</i>" in shown


@pytest.mark.needs("axe")
@pytest.mark.parametrize(("size", "dark"), [("desktop", False), ("phone", True)])
def test_axe_finds_nothing_serious(page: Path, tmp_path: Path, size: str, dark: bool) -> None:
    with browser(tmp_path, size, dark=dark) as driver:
        driver.set_script_timeout(300)
        walk(driver, page)
        assert serious_findings(driver) == []
