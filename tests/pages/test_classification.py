from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from captune.cli import main
from captune.errors import UserError
from captune.images.match import sample_names
from captune.pages.blocks import Cards
from captune.pages.page import write_report
from captune.pages.sources import PageSettings


@pytest.fixture
def run_folder(colours: Any, colour_images: Path, tmp_path: Path) -> Path:
    labels = tmp_path / "labels.json"
    labels.write_text('{"7": "red <script>alert(1)</script>", "8": "green & \\"white\\""}')
    (colour_images / "7_0.png").rename(colour_images / "7_<b>0.png")
    (colour_images / "bad.jpg").write_text("<i>no image</i>")
    out = tmp_path / "run"
    assert main(["classify", str(colour_images), "--labels", str(labels), "--out", str(out)]) == 0
    return out


def test_names_and_labels_are_text_never_markup(run_folder: Path) -> None:
    page = (run_folder / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>0.png" not in page
    assert "red &lt;script&gt;" in page
    assert "bad.jpg" in page


def test_the_page_shows_a_part_and_says_so(run_folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_report([run_folder], page, PageSettings(limit=2))
    text = page.read_text()
    items = re.search(r'class="items">(.*?)</script>', text)
    assert items is not None
    assert len(json.loads(items[1])["items"]) == 2
    assert "The first 2 of 6" in re.sub("<[^>]*>", "", text)


def test_a_image_that_is_gone_is_said_to_be_gone(
    run_folder: Path, colour_images: Path, tmp_path: Path
) -> None:
    (colour_images / "8_0.png").unlink()
    write_report([run_folder], tmp_path / "page.html", PageSettings())
    assert "no such file" in (tmp_path / "page.html").read_text()


def test_the_answers_are_called_top_5_where_there_are_more(
    run_folder: Path, colour_images: Path, tmp_path: Path
) -> None:
    six = "red,green,blue,white,black,grey"
    for labels, title in (("red,green", "Answers"), (six, "Top-5 answers")):
        out = tmp_path / title
        command = ["classify", str(colour_images), "--labels", labels, "--out", str(out)]
        assert main(command) == 0
        page = write_report([out], tmp_path / "page.html", PageSettings())
        cards = next(one for one in page.sections[0].blocks if isinstance(one, Cards))
        assert cards.title == title
        assert cards.note == ""  # all six images are there: no sample


def test_the_page_names_what_made_it(run_folder: Path) -> None:
    page = re.sub("<[^>]*>", "", (run_folder / "report.html").read_text())
    for part in ("captune classify", "c0" * 32, "resize-8", "numpy", "cores"):
        assert part in page


def test_sampling_is_seeded_and_names_are_checked() -> None:
    names = [f"{n}.jpg" for n in range(50)]
    first = sample_names(names, ["3"], seed=1)
    assert len(first) == 3
    assert sample_names(names, ["3"], seed=1) == first
    assert sample_names(names, ["3"], seed=2) != first
    assert len(sample_names(names, ["99"], seed=0)) == 50
    assert sample_names(names, ["7.jpg", "images/7.jpg"], seed=0) == ["7.jpg"]
    with pytest.raises(UserError, match=r"gone\.jpg"):
        sample_names(names, ["gone.jpg"], seed=0)
