from __future__ import annotations

import html
import json
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from tests.hostile.run_folders import sign_again
from tests.pages.page_reader import outline
from tests.score_runs import image_folder, write_run

from captune.errors import UserError
from captune.options.scoring import RankOptions
from captune.pages.rank import place_text, write_gallery
from captune.scoring.rank import Standing, rank_run

HOSTILE = [
    "<script>alert(1)</script><b>bold</b> & \"quotes\" 'x' {{ 7 * 7 }}",
    "رجل يركب دراجة",
    "👩‍👩‍👧 a family 🐱 猫",
    "long " * 3000,
    "",
    "line\nbreak \x00 \x1b[31m half \ud83d",
]


def gallery_of(run: Path, out: Path, **options: Any) -> Any:
    ranking = rank_run(RankOptions(run=run, **options))
    return write_gallery(ranking, out, command=["captune", "rank", "<i>run</i>"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten images with images; CIDEr rises with the number, CLIPScore falls."""
    names = {f"i{n}": f"i{n}.jpg" for n in range(10)}
    root = image_folder(tmp_path / "images", *names.values())
    scores = {f"i{n}": {"cider": n / 4, "clipscore": 1 - n / 20} for n in range(10)}
    captions = {f"i{n}": text for n, text in enumerate(HOSTILE)}
    return write_run(tmp_path / "run", scores, root=root, paths=names, captions=captions)


def test_the_page_is_one_file_in_which_text_is_text(run: Path, tmp_path: Path) -> None:
    page = gallery_of(run, tmp_path / "out")[0]["page"]
    parsed = outline(page)
    assert not {"b", "link", "iframe"} & set(parsed.tags)
    assert len(parsed.loads) == parsed.tags.count("img") == 10
    assert all(load.startswith("data:image/jpeg;base64,") for load in parsed.loads)
    text = page.read_text(encoding="utf-8")
    for caption in HOSTILE[:3]:
        assert html.escape(caption).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
    assert "long long…" in text
    assert "(empty caption)" in text
    assert "line break \\x00 \\x1b[31m half \\ud83d" in text
    assert text.count('dir="auto"') >= 20  # each caption and its reference
    assert "&lt;i&gt;run&lt;/i&gt;" in text
    assert "prefers-color-scheme" in text or "light-dark(" in text
    assert "@media print" in text


def test_the_head_says_what_was_ranked(run: Path, tmp_path: Path) -> None:
    words = " ".join(" ".join(outline(gallery_of(run, tmp_path)[0]["page"]).text).split())
    assert "The best and the worst of 10 captions by CIDER" in words
    assert "CIDER[ptb]: 0.500 over 10 images, 95 % interval 0.250 to 0.750" in words
    assert "lowest 0.000, median 1.125 (dashed), highest 2.250" in words
    # CLIPScore turns the order round: all five of the best are in its lower half
    assert "CLIPSCORE 0.775 0.650 5 of 5 0.900 5 of 5" in words
    assert "tokenizer ptb" in words


def test_cards_show_scores_places_and_references(run: Path, tmp_path: Path) -> None:
    words = " ".join(" ".join(outline(gallery_of(run, tmp_path, top=1)[0]["page"]).text).split())
    best, worst = words.rpartition("The best ")[2].split("The worst")
    assert "1 of 10 a caption of i9 CLIPSCORE 0.550 10 of 10 1 by people a reference of i9" in best
    assert "CLIPSCORE 1.000 1 of 10" in worst
    assert "i9.jpg" in best


def test_agreement_of_the_run_is_shown(run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    pair = {"metrics": ["clipscore", "cider"], "tau": -1.0, "interval": [-1.0, -0.9]}
    metrics["agreement"] = {"pairs": [pair]}
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = write_gallery(rank_run(RankOptions(run=run)), tmp_path)[0]["page"].read_text()
    assert "−1.00 (−1.00 to −0.90)" in page
    assert "Kendall" in page


def test_half_characters_of_a_strange_run_are_escaped(run: Path, tmp_path: Path) -> None:
    about = json.loads((run / "run.json").read_text())
    about |= {"started": "\ud83d", "versions": {"\ud83d": 3}, "command": ["\ud83d"]}
    (run / "run.json").write_text(json.dumps(about))
    page = gallery_of(run, tmp_path)[0]["page"].read_text()
    assert ">\\ud83d, \\ud83d 3</td>" in page


def test_a_image_outside_the_folder_of_the_run_is_on_no_page(run: Path, tmp_path: Path) -> None:
    image_folder(tmp_path, "private.jpg")
    records = run / "records.jsonl"
    records.write_text(records.read_text().replace('"i9.jpg"', '"../private.jpg"'))
    sign_again(run)
    written, _ = gallery_of(run, tmp_path, top=1)
    page = written["page"].read_text()
    assert page.count('src="data:image/jpeg') == 1
    assert "private" not in page
    assert "leaves the folder of the run" in " ".join(page.split())


def test_unreadable_images_are_grey_and_named(run: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "i0.jpg").write_text("no image")
    (images / "i9.jpg").unlink()
    written, skipped = gallery_of(run, tmp_path, top=3)
    assert {(s.path, s.reason) for s in skipped} == {
        ("i0.jpg", "not an image: text"),
        ("i9.jpg", "no such file"),
    }
    text = written["page"].read_text()
    assert "not shown: i0.jpg (not an image: text)" in text
    assert '<p class="gone">no such file</p>' in text
    assert text.count('src="data:image/jpeg') == 4
    svg = {e.text for e in ElementTree.parse(written["svg"]).iter() if e.text}
    assert "no such file" in svg


def test_without_images_there_are_captions_and_a_way_to_the_images(
    run: Path, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "images")
    written, skipped = gallery_of(run, tmp_path)
    text = written["page"].read_text()
    assert skipped == []
    assert "--images DIR says where they are now" in text
    assert "a caption of i9" in text
    assert "<img" not in text
    assert 'class="gone"' not in text


def test_one_image_is_shown_once(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images", "a.jpg")
    run = write_run(tmp_path / "run", {"a": {"cider": 1, "b": 2}}, root=root, paths={"a": "a.jpg"})
    parsed = outline(gallery_of(run, tmp_path)[0]["page"])
    words = " ".join(parsed.text)
    assert parsed.tags.count("img") == 1
    assert "The only pair" in words
    assert "worst" not in words
    assert "svg" not in parsed.tags


def test_equal_scores_have_no_distribution_and_say_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {image: {"cider": 0.0} for image in "abcd"})
    parsed = outline(gallery_of(run, tmp_path)[0]["page"])
    assert "svg" not in parsed.tags
    assert any("there is no best and no worst" in text for text in parsed.text)


def test_a_bar_that_would_flatten_all_others_is_cut(tmp_path: Path) -> None:
    scores = {f"i{n}": {"cider": max(0, n - 180) / 10} for n in range(200)}
    page = gallery_of(write_run(tmp_path / "run", scores), tmp_path)[0]["page"].read_text()
    assert "tallest bar (cut): 181 images" in page
    heights = [float(part.split('"')[0]) for part in page.split('class="bar"')[1:]
               for part in part.split(' height="')[1:2]]  # fmt: skip
    assert max(heights) == 90
    assert min(heights[1:]) > 9


def test_a_metric_of_any_name_gets_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {image: {"my/metric ä": 0.5} for image in "ab"})
    written = gallery_of(run, tmp_path / "out", by="my/metric ä")[0]
    assert [path.name for path in written.values()] == [
        f"rank-my-metric-ä{ending}" for ending in (".html", ".png", ".svg", ".csv")
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        p.name for p in written.values()
    }


def test_the_same_run_gives_the_same_gallery(run: Path, tmp_path: Path) -> None:
    first = gallery_of(run, tmp_path / "one")[0]
    second = gallery_of(run, tmp_path / "two")[0]
    assert all(first[what].read_bytes() == second[what].read_bytes() for what in first)


def test_a_place_that_cannot_be_written_is_refused_before_work(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        gallery_of(run, tmp_path / "file" / "out")


def test_only_the_images_shown_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 images cost two tables and a few pictures."""
    root = image_folder(tmp_path / "images", "a.jpg")
    scores = {f"i{n}": {"cider": n % 700 / 100, "clipscore": n / 2000} for n in range(2000)}
    paths = dict.fromkeys(scores, "a.jpg")
    run = write_run(tmp_path / "run", scores, root=root, paths=paths)
    opened: list[object] = []

    def counting(path: Path) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (64, 48))

    monkeypatch.setattr("captune.pages.rank.open_image", counting)
    start = time.process_time()
    written, _ = gallery_of(run, tmp_path, top=4)
    assert len(opened) == 8
    assert time.process_time() - start < 10  # about 1 s; with 2,000 images it would be minutes
    assert len(written["table"].read_text().splitlines()) == 2001


def test_places() -> None:
    assert place_text(Standing(12, 12, 79)) == "12 of 79"
    assert place_text(Standing(1, 1240, 5000)) == "1–1,240 of 5,000"
