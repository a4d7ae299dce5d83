from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.report_runs import (
    caption_run,
    change,
    classify_run,
    compare_run,
    images,
    score_run,
    tune_run,
)

from captune.errors import UserError
from captune.pages.checking import check_page
from captune.pages.page import write_report
from captune.pages.sources import PageSettings

NAMES = [f"{n}.jpg" for n in range(6)]
CAPTIONS = {name: f"a caption of {name}" for name in NAMES}
OTHER = {name: f"another of {name}" for name in NAMES}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    root = images(tmp_path / "images", NAMES)
    return [
        classify_run(tmp_path / "classify", root, NAMES),
        tune_run(tmp_path / "tune", root, {"adapter": CAPTIONS, "lora": OTHER}),
        caption_run(tmp_path / "caption", root, CAPTIONS),
        score_run(tmp_path / "score", root, CAPTIONS, candidates=str(tmp_path / "caption")),
        compare_run(tmp_path / "compare", root, CAPTIONS, OTHER),
    ]


@pytest.fixture
def page(runs: list[Path], tmp_path: Path) -> Path:
    write_report(runs, tmp_path / "page.html", PageSettings(title="A title"))
    return tmp_path / "page.html"


def edit(page: Path, old: str, new: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert old in text
    page.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_page_as_it_was_made_holds(page: Path) -> None:
    found = check_page(page)
    assert found.differing == []
    assert found.notes == []
    assert found.holds
    assert found.figures > 150
    assert found.runs == 7


def test_images_need_not_be_there_any_more(page: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "images")
    assert check_page(page).holds


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (">83.3 %</data>", ">93.3 %</data>", '/prompts/0/accuracy: the page shows "93.3 %"'),
        ('value="5"', 'value="6"', "/correct: the page has 6, the run gives 5"),
        ('"CIDEr-D":0.25', '"CIDEr-D":0.35', "/1/lines/"),
        ("a caption of 3.jpg", "a capti0n of 3.jpg", "a capti0n of 3.jpg"),
        ("A title</h1>", "Another title</h1>", 'the page says "Another title"'),
        ("softmax, weights", "sigmoid, weights", "sigmoid"),
    ],
)
def test_what_was_changed_on_the_page_is_named(page: Path, old: str, new: str, told: str) -> None:
    edit(page, old, new)
    found = check_page(page)
    assert not found.holds
    assert any(told in sentence for sentence in found.differing), found.differing


def test_a_number_changed_in_a_run_is_named(page: Path, runs: list[Path]) -> None:
    change(runs[3], "metrics.json", "metrics", "cider", "corpus", value=9.5)
    found = check_page(page)
    assert any("metrics/cider/corpus: the page has 0.625" in s for s in found.differing)
    assert any(
        "has 9.5 at /metrics/cider/corpus, its records give 0.625" in s for s in found.differing
    )
    assert any("metrics.json is not the file of then" in note for note in found.notes)


def test_a_run_that_never_agreed_with_itself_is_named(
    page: Path, runs: list[Path], tmp_path: Path
) -> None:
    change(runs[0], "metrics.json", "prompts", 0, "accuracy", value=0.9)
    change(runs[2], "metrics.json", "words_mean", value=3.0)
    change(runs[4], "metrics.json", "metrics", "cider", "b", "corpus", value=0.1)
    write_report(runs, page, PageSettings())
    told = "\n".join(check_page(page).differing)
    assert "classify: metrics.json has 0.9 at /prompts/0/accuracy, its records give 0.8333" in told
    assert "has 3.0 at /words_mean, its records give 4.0" in told
    assert "has 0.1 at /metrics/cider/b/corpus" in told


def test_runs_may_have_moved(page: Path, runs: list[Path], tmp_path: Path) -> None:
    moved = [run.rename(tmp_path / f"moved-{run.name}") for run in runs]
    with pytest.raises(UserError, match="does not exist"):
        check_page(page)
    # whose captions a score is of is told by the folder that they were in
    found = check_page(page, [str(run) for run in moved if run.name != "moved-score"])
    assert not found.holds
    (tmp_path / "moved-caption").rename(tmp_path / "caption")
    moved[2] = tmp_path / "caption"
    assert check_page(page, [str(run) for run in moved]).differing == []


def test_of_another_version_figures_are_compared_and_words_are_not(page: Path) -> None:
    edit(page, '"captune":"', '"captune":"0')
    edit(page, "How far to believe", "How much to believe")
    found = check_page(page)
    assert found.holds
    assert "words are not compared" in found.notes[0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<![<",  # Python's reader of HTML asserts that there is none
        pytest.param(
            f'<script type="application/json" id="about">[{"[]," * 2**23}[]]</script>', id="2 GB"
        ),
        "<html></html>",
        '<script type="application/json" id="about">[1]</script>',
        '<script type="application/json" id="about">{"settings": {"title": 1}}</script>',
        '<script type="application/json" id="about">{broken</script>',
        json.dumps({"settings": 1}),
    ],
)
def test_what_is_no_page_of_ours_is_refused(tmp_path: Path, content: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(content)
    with pytest.raises(UserError, match="is not a page of captune report"):
        check_page(page)
