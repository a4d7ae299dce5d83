from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from tests.webapp.app_page import HOSTILE_NAME

from captune.cli import build_parser
from captune.errors import UserError
from captune.options.captioning import ExplainOptions
from captune.options.codec import from_python, read_options, typed_options, words_of
from captune.options.pages import ReportOptions
from captune.options.recognition import ClassifyOptions
from captune.options.scoring import CompareOptions, ScoreOptions
from captune.options.tuning import TuneOptions


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
                images=Path("images"), captions=Path("t.json"), val_captions=Path("v.json"),
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


def test_an_image_that_is_called_like_an_option_is_a_file() -> None:
    options = ClassifyOptions(images=["-v.png"], labels="cat")
    assert words_of("classify", options) == [
        *("captune", "classify", "./-v.png", "--labels", "cat"),
    ]


def test_python_gives_paths_as_text_and_one_text_for_a_list() -> None:
    options = from_python(ClassifyOptions, images=Path("a"), labels=Path("l.txt"), out="run")
    assert (options.images, options.labels, options.out) == (["a"], "l.txt", Path("run"))
    options = from_python(ClassifyOptions, images=["a", Path("b")], labels="x", top5=3, prompt="{}")
    assert (options.images, options.top5, options.prompt) == (["a", "b"], ["3"], ["{}"])


@pytest.mark.parametrize("keywords", [{"label": "x"}, {}], ids=["unknown", "missing"])
def test_python_is_told_of_a_wrong_keyword_as_by_any_function(keywords: dict[str, str]) -> None:
    with pytest.raises(TypeError, match=r"labels?'"):
        from_python(ClassifyOptions, images="a", **keywords)


def test_what_was_typed_is_known_also_at_its_default_and_shortened() -> None:
    words = ["tune", "images", "--captions", "c.json", "--val-captions=v.json", "--epo", "10"]
    arguments = build_parser("tune").parse_args(words)
    typed = typed_options(TuneOptions, arguments, words)
    assert typed == ["images", "captions", "val_captions", "epochs"]


def test_what_cannot_be_given_in_memory_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="per_image: expected a path, not dict"):
        from_python(ScoreOptions, candidates="a.json", per_image={"1": "a dog"})
    with pytest.raises(UserError, match="candidates: captions in memory are"):
        from_python(ScoreOptions, candidates={"1": object()}, references="refs.json")
    with pytest.raises(UserError, match=r"images: expected paths, .* or PIL images, not object"):
        from_python(ClassifyOptions, images=[object()], labels="cat,dog")
    with pytest.raises(UserError, match=r"images: expected paths, .* or PIL images, not NoneType"):
        from_python(ClassifyOptions, images=None, labels="cat,dog")
    with pytest.raises(UserError, match="prompt: expected texts or paths, not bytes"):
        from_python(ClassifyOptions, images="a", labels="cat,dog", prompt=b"a {}")
    with pytest.raises(UserError, match="batch_size: expected a whole number, not str"):
        from_python(ClassifyOptions, images="a", labels="cat,dog", batch_size="8")
    with pytest.raises(UserError, match="lr: expected a number, not str"):
        from_python(TuneOptions, lr="1e-3")


def test_python_gives_a_list_where_commas_are_typed() -> None:
    options = from_python(ExplainOptions, images="a", words=["dog", "ball"])
    assert options.words == "dog,ball"
    tune = from_python(TuneOptions, method=["lora", "prefix"], epochs=np.int64(3))
    assert (tune.methods, tune.epochs) == (["lora", "prefix"], 3)
    assert from_python(TuneOptions, curve=(100, 300)).sizes == [100, 300]
    with pytest.raises(UserError, match='words: "a, b" has a comma'):
        from_python(ExplainOptions, images="a", words=["a, b"])
