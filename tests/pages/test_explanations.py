from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pages.page_reader import outline
from tests.report_runs import HOSTILE_NAME, change, explain_run, faithful_run, images

from captune.errors import UserError
from captune.pages.checking import check_page
from captune.pages.page import write_report
from captune.pages.sources import PageSettings

CAPTIONS = {HOSTILE_NAME: "a <b>dog</b> runs", "b.jpg": "two cats"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return images(tmp_path / "images", list(CAPTIONS))


def items_of(page: Path) -> list[dict[str, Any]]:
    data = next(text for _, text in outline(page).scripts if '"grid"' in text)
    return json.loads(data)["items"]


def test_each_word_has_its_map(root: Path, tmp_path: Path) -> None:
    run = explain_run(tmp_path / "run", root, CAPTIONS)
    write_report([run], tmp_path / "page.html", PageSettings())
    first, second = items_of(tmp_path / "page.html")
    assert [word["word"] for word in first["words"]] == ["a", "<b>dog</b>", "runs"]
    assert first["grid"] == [3, 3]
    assert first["frame"] is None
    bytes_ = np.frombuffer(base64.b64decode(first["words"][1]["map"]), dtype=np.uint8)
    assert bytes_.tolist() == [0, 255, 0, 0, 0, 0, 0, 0, 0]
    assert [word["good"] for word in first["words"]] == [True, False, False]
    says = [word["says"] for word in first["words"]]
    assert says[0] == (
        "100 % of this map lies in the upper left part of the image; better than chance;"
        " the image adds 1.2 nats"
    )
    assert says[1].startswith(
        "100 % of this map lies in the upper part of the image; no better than chance"
    )
    assert (
        says[2]
        == "100 % of this map lies in the upper right part of the image; independent of the image"
    )
    assert second["name"] == "b.jpg"


def test_words_without_a_map_stand_beside_those_that_have_one(root: Path, tmp_path: Path) -> None:
    run = explain_run(tmp_path / "run", root, {"b.jpg": "dog runs"})
    write_report([run], tmp_path / "page.html", PageSettings())
    assert "text" not in items_of(tmp_path / "page.html")[0]
    change(run, "records.jsonl", "caption", value="the dog , a dog that runs.")
    write_report([run], tmp_path / "page.html", PageSettings())
    text = ["the", 0, ",", "a", "dog", "that", 1, "."]
    assert items_of(tmp_path / "page.html")[0]["text"] == text
    # what is no part of the text stays a list of words
    change(run, "records.jsonl", "caption", value="dog 83 %")
    write_report([run], tmp_path / "page.html", PageSettings())
    assert "text" not in items_of(tmp_path / "page.html")[0]


def test_the_answer_counts_the_maps_to_be_believed(root: Path, tmp_path: Path) -> None:
    run = explain_run(tmp_path / "run", root, CAPTIONS)
    write_report([run], tmp_path / "page.html", PageSettings())
    words = outline(tmp_path / "page.html").words
    assert "A map shows what the model used for each of 5 words of 2 images" in words
    assert "2 of 5 of them follow the model better than chance would (40.0 %)" in words
    found = check_page(tmp_path / "page.html")
    assert found.differing == []


def test_one_image_is_one_image(root: Path, tmp_path: Path) -> None:
    (name, said) = next(iter(CAPTIONS.items()))
    run = explain_run(tmp_path / "run", root, {name: said})
    write_report([run], tmp_path / "page.html", PageSettings())
    assert " of 1 image (" in outline(tmp_path / "page.html").words


def test_what_was_seen_of_a_image_is_in_shares_of_it(root: Path, tmp_path: Path) -> None:
    run = explain_run(tmp_path / "run", root, CAPTIONS, framed=True)
    write_report([run], tmp_path / "page.html", PageSettings())
    assert items_of(tmp_path / "page.html")[0]["frame"] == [0.25, 0.0, 0.75, 1.0]
    for image in root.iterdir():
        image.unlink()
    assert check_page(tmp_path / "page.html").differing == []


def test_large_grids_are_made_smaller(root: Path, tmp_path: Path) -> None:
    run = explain_run(tmp_path / "run", root, CAPTIONS, size=50)
    write_report([run], tmp_path / "page.html", PageSettings())
    (first, _) = items_of(tmp_path / "page.html")
    assert first["grid"] == [17, 17]
    assert len(base64.b64decode(first["words"][0]["map"])) == 17 * 17


def test_maps_outside_the_run_are_not_read(root: Path, tmp_path: Path) -> None:
    run = explain_run(tmp_path / "run", root, CAPTIONS)
    records = run / "records.jsonl"
    records.write_text(records.read_text().replace('"maps/0.npz"', '"maps/../../x.npz"'))
    with pytest.raises(UserError, match="outside the run"):
        write_report([run], tmp_path / "page.html", PageSettings())


def test_a_leaderboard_is_a_table_with_intervals(root: Path, tmp_path: Path) -> None:
    run = faithful_run(tmp_path / "run", root)
    write_report([run], tmp_path / "page.html", PageSettings())
    words = outline(tmp_path / "page.html").words
    assert "Are the maps faithful?" in words
    assert "chefer* 0.700 0.600 to 0.800" in words
    assert "nouns 40 better" in words
    assert "the maps change with the weights." in words
    assert check_page(tmp_path / "page.html").differing == []


def test_images_that_a_map_is_chosen_on_are_counted_apart(root: Path, tmp_path: Path) -> None:
    run = faithful_run(tmp_path / "run", root)
    change(run, "metrics.json", "images", value=4)
    change(run, "metrics.json", "stages", value={"choosing": 3, "reporting": 1})
    page = tmp_path / "page.html"
    made = write_report([run], page, PageSettings())
    assert made.title == "Explanations on 1 image"
    said = "Images that chose the default map: 3; other images, which the figures are of: 1."
    assert said in outline(page).words
    assert check_page(page).holds
