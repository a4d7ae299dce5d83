"""Paths that cannot be, wherever one is typed: a sentence, and never a bug."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.score_runs import write_run

from captune.cli import main
from captune.files import home_path

LONG = "x" * 300
NOBODY = "~nobody-of-that-name/x"


def test_the_home_folder_of_nobody_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert home_path("~/x") == Path("/home/me/x")
    assert home_path(NOBODY) == Path(NOBODY)


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "IMAGES", "--labels", f"{LONG}.json"],
        ["classify", "IMAGES", "--labels", "a,b", "--model", NOBODY],
        ["caption", "IMAGES", "--model", NOBODY],
        ["score", "CAPTIONS", "--references", f"{LONG}.json"],
        ["score", "CAPTIONS", "--references", NOBODY],
        ["rank", "RUN", "--out", LONG],
        ["report", "RUN", "--out", "page.html", "--published", NOBODY],
        ["app", LONG, "--port", "70000"],
    ],
    ids=" ".join,
)
def test_it_is_one_sentence(
    words: list[str],
    colour_images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps({"a": "a dog"}))
    write_run(tmp_path / "run", {"a": {"cider": 0.5}, "b": {"cider": 0.25}})
    places = {"IMAGES": str(colour_images), "CAPTIONS": "captions.json", "RUN": "run"}
    assert main([places.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a bug in captune" not in said
