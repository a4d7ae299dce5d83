from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from captune.cli import main
from captune.runs import read_run

LABELS = '{"7": "red", "8": "green", "9": "blue"}'
GOOD, BAD = "a photo of {}", "red, green or blue, that is {object}"


@pytest.fixture
def words(colours: Any, colour_images: Path, tmp_path: Path) -> list[str]:
    labels = tmp_path / "labels.json"
    labels.write_text(LABELS)
    return ["prompts", str(colour_images), "--labels", str(labels), "--prompt", GOOD,
            "--prompt", BAD]  # fmt: skip


def test_table_says_which_prompt_is_best(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--truth", "from-name"]) == 0
    out = capsys.readouterr().out
    assert f"{GOOD} (best)" in out
    assert "100.0 %" in out
    assert "33.3 %" in out  # every class answered "red": a third is right
    assert "green −2 of 2" in out


def test_json_csv_run_and_plots(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "run", tmp_path / "table.csv"
    words += ["--truth", "from-name", "--out", str(out), "--csv", str(table), "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["command"] == "prompts"
    assert result["images"] == 6
    assert result["skipped"] == []
    assert result["best"] == GOOD
    first = result["prompts"][0]
    assert (first["template"], first["accuracy"]) == (GOOD, 1.0)
    assert first["interval"][0] == pytest.approx(0.6097, abs=1e-3)
    assert result["prompts"][1]["lost"] == 4
    assert result["prompts"][1]["p_value"] == pytest.approx(0.125)  # two-sided binomial, 0 of 4
    # the colour model does not read "not": the denied prompt gives the same answer every time
    assert result["negation"][0]["same_answer"] == 1.0
    rows = list(csv.DictReader(table.open()))
    assert [row["template"] for row in rows[:2]] == [GOOD, BAD]
    run = read_run(out)
    assert run.kind == "prompts"
    record = next(run.records())
    assert record["truth"] == "7"
    assert [answer["id"] for answer in record["answers"][:2]] == ["7", "7"]
    plots = {path.name for path in (out / "plots").iterdir()}
    for name in ("accuracy", "agreement", "negation", "reliability-1", "classes-2"):
        assert {f"{name}.png", f"{name}.svg"} <= plots


def test_without_truth_only_agreement_is_told(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"] is None
    assert all(prompt["accuracy"] is None for prompt in result["prompts"])


def test_images_are_encoded_once_for_all_prompts(words: list[str], colours: Any) -> None:
    assert main([*words, "--no-cache"]) == 0
    assert colours.image.module.images == 6


def test_one_prompt_is_no_comparison(
    colours: Any, colour_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prompts", str(colour_images), "--labels", "red,blue", "--prompt", GOOD]
    assert main(words) == 2
    assert "two templates or more" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_refused_before_the_image_pass(
    colours: Any, colour_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prompts", str(colour_images), "--labels", "red,blue", "--out", str(colour_images)]
    assert main(words) == 2
    assert "not a run" in capsys.readouterr().err
    assert colours.image.module.images == 0
