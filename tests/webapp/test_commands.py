from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from tests.webapp.app_page import HOSTILE_NAME

from captune.cli import build_parser
from captune.cli.arguments import read_options
from captune.options import (
    ClassifyOptions,
    CompareOptions,
    ExplainOptions,
    ReportOptions,
    TuneOptions,
)
from captune.webapp.commands import words_of


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "classify",
            ClassifyOptions(
                images=[HOSTILE_NAME, "a b.png"],
                labels="cat,it's",
                prompt=["a {}", "-a {}"],
                multi_label=True,
            ),
        ),
        ("explain", ExplainOptions(images=["a.png"], words="dog", against="cat", beam=1)),
        (
            "tune",
            TuneOptions(
                images=Path("images"), captions=Path("t.json"), val=Path("v.json"),
                out=Path("r"), lr=1e-3, method="lora,prefix",
            ),
        ),
        ("compare", CompareOptions(first=Path("a"), second=Path("b"), metrics="cider")),
        ("report", ReportOptions(runs=["a", "b"], out=Path("r.html"), title="A & <b>")),
    ],
)  # fmt: skip
def test_what_is_shown_is_read_back_as_the_same_options(command: str, options: object) -> None:
    line = shlex.join(words_of(command, options))
    words = shlex.split(line)
    assert words[:2] == ["captune", command]
    arguments = build_parser(command).parse_args(words[1:])
    assert read_options(type(options), arguments) == options


def test_a_image_that_is_called_like_an_option_is_a_file() -> None:
    options = ClassifyOptions(images=["-v.png"], labels="cat")
    assert words_of("classify", options) == [
        *("captune", "classify", "./-v.png", "--labels", "cat"),
    ]
