from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import requests
from tests.colour_model import use_colour_model
from tests.webapp.app_page import (
    HOSTILE,
    HOSTILE_NAME,
    colour_image,
    drop,
    load,
    opened,
    text_of,
    typed,
    when,
    wrong,
)

from captune.options.recognition import ClassifyOptions
from captune.webapp.queue import QueuedJob
from captune.webapp.server import Running
from captune.webapp.tabs.images import _keep_classified

pytestmark = pytest.mark.needs("chromium")
RESULT = "#result-classify"
CARDS = f"document.querySelectorAll('{RESULT} .card').length"


@pytest.fixture(scope="module")
def opened_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        use_colour_model(patch)
        with opened(tmp_path_factory.mktemp("app")) as found:
            yield found


@pytest.fixture
def page(opened_once: tuple[Running, Any]) -> tuple[Running, Any]:
    """An app, and a browser that has kept nothing of it."""
    app, driver = opened_once
    # an answer that is on its way would write it again in a page that is open
    driver.get("about:blank")
    of = {"origin": app.url.rstrip("/"), "storageTypes": "local_storage"}
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", of)
    load(driver, app)
    wrong(driver)
    requests(driver)
    return app, driver


def bars(driver: Any) -> list[str]:
    """The best label of each image."""
    found: list[str] = driver.execute_script(
        f"return [...document.querySelectorAll('{RESULT} .bars')]"
        ".map(b => b.querySelector('.name').textContent)"
    )
    return found


def test_bars_move_while_labels_are_typed_and_names_are_text(
    page: tuple[Running, Any], tmp_path: Path
) -> None:
    app, driver = page
    red = colour_image(tmp_path / HOSTILE_NAME, (220, 20, 30))
    blue = colour_image(tmp_path / "blue.png", (20, 10, 210))
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    typed(driver, "labels", "red, green")
    drop(driver, "classify", red, blue, text)
    when(driver, f"{CARDS} === 2 && !document.querySelector('{RESULT} progress')")
    assert bars(driver)[0] == "red"
    assert "notes.txt: not an image: text" in text_of(driver, "#strip-classify")
    driver.find_element("css selector", "#labels textarea").send_keys(f", blue, {HOSTILE}")
    when(driver, f"document.querySelector('{RESULT} .same').innerText.includes('alert(2)')")
    when(driver, f"{CARDS} === 2 && !document.querySelector('{RESULT} progress')")
    assert bars(driver) == ["red", "blue"]
    shown = text_of(driver, RESULT)
    assert HOSTILE_NAME in shown
    assert HOSTILE in shown
    line = driver.execute_script(f"return document.querySelector('{RESULT} code').textContent")
    assert shlex.split(line)[:2] == ["captune", "classify"]
    given = {path.name for path in Path(shlex.split(line)[2]).iterdir()}
    assert given == {HOSTILE_NAME, "blue.png"}
    # again: said in a sentence, and no further card
    drop(driver, "classify", red)
    again = "document.querySelector('#strip-classify').innerText"
    when(driver, f"{again}.includes('Already there, and not added again: ')")
    when(driver, f"{CARDS} === 2 && !document.querySelector('{RESULT} progress')")
    # a reload finds the fields, the images and the result again
    before = bars(driver)
    load(driver, app)
    when(driver, f"{CARDS} === 2")
    assert bars(driver) == before
    value = driver.find_element("css selector", "#labels textarea").get_attribute("value")
    assert value == f"red, green, blue, {HOSTILE}"
    assert driver.execute_script("return alerts") == 0
    assert driver.execute_script("return document.querySelectorAll('img[src=x]').length") == 0
    assert wrong(driver) == []
    assert {url for url in requests(driver) if not url.startswith((app.url, "ws"))} == set()


def test_mistakes_are_sentences_in_the_page(page: tuple[Running, Any], tmp_path: Path) -> None:
    _, driver = page
    blue = colour_image(tmp_path / "blue.png", (20, 10, 210))
    refusal = f"(document.querySelector('{RESULT} .refusal') || {{}}).innerText"
    driver.find_element("css selector", "#classify").click()
    assert when(driver, refusal) == "there are no images yet; drop some, or take the examples"
    typed(driver, "labels", "red, red")
    drop(driver, "classify", blue)
    when(driver, f"({refusal} || '').includes('more than once')")
    typed(driver, "labels", "red")
    typed(driver, "prompts", "no place")
    when(driver, f"({refusal} || '').includes('has no place for the label')")
    typed(driver, "prompts", "a {}")
    when(driver, "document.querySelector('#result-classify').innerText.includes('softmax')")
    said = text_of(driver, "#result-classify")
    assert "one label gets all of a softmax: “Several labels may fit" in said
    assert "--multi-label" not in said
    # all that is typed, taken away: Control and a, then backspace
    labels = driver.find_element("css selector", "#labels textarea")
    labels.send_keys("\ue009a")
    labels.send_keys("\ue003")
    when(driver, f"({refusal} || '').includes('there are no labels')")
    assert wrong(driver) == []


def test_a_kept_run_speaks_of_the_page_and_not_of_flags(colours: object, tmp_path: Path) -> None:
    red = colour_image(tmp_path / "red.png", (220, 20, 30))
    job = QueuedJob(["captune", "classify"])
    _keep_classified(ClassifyOptions(images=[str(red)], labels="red,", out=tmp_path / "run"), job)
    assert [note for note in job.notes if "softmax" in note] == [
        "one label gets all of a softmax: “Several labels may fit: yes or no for each”, under More,"
        " asks whether it fits"
    ]


def test_forgotten_images_are_gone_from_the_disk(page: tuple[Running, Any], tmp_path: Path) -> None:
    app, driver = page
    blue = colour_image(tmp_path / "blue.png", (20, 10, 210))
    before = set((app.folder / "images").rglob("*.png"))
    drop(driver, "classify", blue)
    when(driver, f"{CARDS} === 1")
    assert len(set((app.folder / "images").rglob("*.png")) - before) == 1
    assert list((app.folder / "gradio").rglob("*.png")) == []
    driver.find_element("xpath", "//button[contains(., 'Forget my images')]").click()
    when(driver, "!document.querySelector('#strip-classify img')")
    assert set((app.folder / "images").rglob("*.png")) == before


def test_images_that_are_removed_quickly_one_after_the_other_are_all_gone(
    page: tuple[Running, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, driver = page
    uploads = app.context.uploads
    remove = uploads.remove
    monkeypatch.setattr(uploads, "remove", lambda *one: (time.sleep(0.4), remove(*one))[1])
    colours = [(220, 20, 30), (20, 10, 210), (10, 200, 20), (250, 250, 10), (5, 5, 5)]
    drop(driver, "classify", *(colour_image(tmp_path / f"{c[0]}.png", c) for c in colours))
    when(driver, f"{CARDS} === 5")
    # all before the first is answered, and one of them twice
    driver.execute_script(
        "const all = [...document.querySelectorAll('#strip-classify [data-remove]')];"
        "[0, 2, 2, 3, 4].forEach((n, at) => setTimeout(() => all[n].click(), 70 * at))"
    )
    when(driver, "document.querySelectorAll('#strip-classify li').length === 1")
    when(driver, f"{CARDS} === 1")
    shown = "document.querySelector('#strip-classify .remove').dataset.remove"
    assert driver.execute_script(f"return {shown}") == "20.png"
    assert text_of(driver, "#strip-classify").strip().startswith("1 image,")
    assert wrong(driver) == []
