"""Published figures beside those of runs: verdicts, conditions, and whether the page holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.report_runs import HOSTILE, change, images, score_run, tune_run

from captune.cli import main
from captune.errors import UserError
from captune.pages.checking import check_page
from captune.pages.page import write_report
from captune.pages.sections.published import answer, rows_of, section
from captune.pages.sources import PageSettings, RunSet, read_runs
from captune.studies import Study, read_study

NAMES = [f"{n}.jpg" for n in range(4)]
CAPTIONS = {name: f"a caption of {name}" for name in NAMES}
SCORES = {"cider": [0.2, 0.4, 0.6, 0.8], "clipscore_hw3": [0.5, 0.9, 0.7, 0.3]}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """cider is 0.5, its interval 0.2 to 0.8; the tune's best method is lora, on 4 of its images."""
    root = images(tmp_path / "images", NAMES)
    return [
        tune_run(tmp_path / "tune", root, {"adapter": CAPTIONS, "lora": CAPTIONS}),
        score_run(tmp_path / "score-lora", root, CAPTIONS, scores=SCORES),
    ]


def write_study(path: Path, rows: dict[str, str], **more: Any) -> Path:
    content = {
        "title": "A study",
        "about": f"A study by {HOSTILE}",
        "conditions": {
            "images": {"published": 4, "run": "score-lora", "at": ["images"]},
            f"epochs {HOSTILE}": {
                "published": HOSTILE, "run": "score-$best", "file": "run.json",
                "at": ["options", "seed"],
            },
            "elsewhere": {"published": 1, "run": "gone", "at": ["images"]},
        },
        "figures": [
            {
                "title": f"CIDEr {HOSTILE}", "shown": "score", "run": "score-$row",
                "at": ["metrics", "cider", "corpus"],
                "low": ["metrics", "cider", "interval", 0],
                "high": ["metrics", "cider", "interval", 1],
                "rows": rows, "depends": ["images", f"epochs {HOSTILE}", "elsewhere"], **more,
            }
        ],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def study_of(tmp_path: Path, rows: dict[str, str], **more: Any) -> Study:
    return read_study(str(write_study(tmp_path / "study.yaml", rows, **more)))


def sentences(study: Study, given: RunSet) -> list[str]:
    points = next(b for b in section(study, given).blocks if b.kind == "points")
    return [str(item.striptags()) for item in points.items]


@pytest.mark.parametrize(
    ("published", "side", "said"),
    [
        ("0.5", 0, "“lora”: no significant difference"),
        ("0.80", 0, "“lora”: no significant difference"),
        ("0.81", -1, "“lora”: lower here, by more"),
        ("0.9", -1, "“lora”: lower here, by more"),
        ("0.1", 1, "“lora”: higher here, by more"),
    ],
)
def test_a_difference_is_told_from_the_choice_of_images(
    published: str, side: int, said: str, runs: list[Path], tmp_path: Path
) -> None:
    given = read_runs(runs)
    study = study_of(tmp_path, {"lora": published})
    (row,) = rows_of(study.figures[0], given)
    assert row.here is not None
    assert (row.side, row.here.value) == (side, 0.5)
    table = next(b for b in section(study, given).blocks if b.kind == "table")
    assert said in sentences(study, given)[0]
    assert table.rows[0][3].value == pytest.approx(0.5 - float(published))


def test_a_published_figure_is_as_wide_as_its_rounding(runs: list[Path], tmp_path: Path) -> None:
    change(runs[1], "metrics.json", "metrics", "cider", "interval", value=[0.2, 0.7951])
    given = read_runs(runs)
    sides = [
        rows_of(study_of(tmp_path, {"lora": text}).figures[0], given)[0].side
        for text in ("0.80", "0.800")
    ]
    assert sides == [0, -1]


@pytest.mark.parametrize(
    ("bar", "said"),
    [
        ("0.1", "a bar: reached by “lora”, with its whole interval."),
        ("0.4", "a bar: reached by “lora”; other images might have told otherwise."),
        ("0.6", "a bar: missed, also by the best of these, “lora”; other images might"),
        ("0.9", "a bar: missed, also by the best of these, “lora”."),
    ],
)
def test_what_was_to_be_reached(bar: str, said: str, runs: list[Path], tmp_path: Path) -> None:
    study = study_of(tmp_path, {"adapter": "0.4", "lora": "0.5"}, bars={"a bar": bar})
    given = read_runs(runs)
    assert said in sentences(study, given)[-1]
    # of the adapter there is no score run on the page
    table = next(b for b in section(study, given).blocks if b.kind == "table")
    assert table.rows[0][2] is None
    assert sentences(study, given)[0] == "“adapter”: no run on this page has this figure."


def test_rows_of_which_the_same_is_to_be_said_share_a_sentence(
    runs: list[Path], tmp_path: Path
) -> None:
    study = study_of(tmp_path, {"one": "0.9", "two": "0.8", "three": "0.95"}, run="score-lora")
    assert sentences(study, read_runs(runs)) == [
        "“one” and “three”: lower here, by more than the choice of images explains.",
        "“two”: no significant difference: the published figure lies within the interval here.",
    ]


def test_the_ends_are_single_images(runs: list[Path], tmp_path: Path) -> None:
    study = study_of(
        tmp_path, {"highest": "1.0", "lowest": "0.3"}, run="score-$best", ends="clipscore_hw3"
    )
    rows = rows_of(study.figures[0], read_runs(runs))
    assert [(row.here.value, row.here.said) for row in rows if row.here] == [
        (0.9, "1.jpg"),
        (0.3, "3.jpg"),
    ]
    assert [row.side for row in rows] == [-1, 0]


def test_the_answer_counts_and_says_what_was_done_otherwise(
    runs: list[Path], tmp_path: Path
) -> None:
    study = study_of(tmp_path, {"lora": "0.9"})
    said = str(answer(study, read_runs(runs)).striptags())
    assert said.startswith("Of 1 published figures 0 agree with those here")
    assert "lower here: 1." in said
    assert "it differs in epochs" in said
    assert "images" not in said.partition("differs in")[2]  # 4 here as there
    none = str(answer(study, read_runs(runs[:1])))
    assert "None of the figures" in none


def test_a_page_with_them_is_text_and_can_be_checked(runs: list[Path], tmp_path: Path) -> None:
    study, page = write_study(tmp_path / "study.yaml", {"lora": "0.9"}), tmp_path / "page.html"
    words = ["report", *map(str, runs), "--published", str(study), "--out", str(page)]
    assert main(words) == 0
    text = page.read_text(encoding="utf-8")
    assert "<script>alert(2)" not in text
    assert 'id="published"' in text
    assert check_page(page).holds
    change(runs[1], "metrics.json", "metrics", "cider", "corpus", value=0.51)
    found = check_page(page)
    assert not found.holds
    assert any("0.5" in sentence for sentence in found.differing)
    write_study(study, {"lora": "0.8"})
    change(runs[1], "metrics.json", "metrics", "cider", "corpus", value=0.5)
    assert not check_page(page).holds


def test_a_study_that_is_none_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a built-in study"):
        write_report(runs, tmp_path / "page.html", PageSettings(published="nothing"))
    assert not (tmp_path / "page.html").exists()
