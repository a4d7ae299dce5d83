"""`captune models` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from captune.cli import main
from captune.models.lite import assets


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr()
    header, lite, *others = printed.out.splitlines()
    assert header.split() == ["model", "sides", "licence", "download", "needs", "here"]
    assert lite.split()[:7] == ["lite", "image", "+", "text", "Apache-2.0", "106", "MB"]
    assert any("captune[openclip]" in line for line in others)
    assert "--search" in printed.err


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["command"] == "models"
    assert content["models"][0]["spec"] == "lite"
    assert content["models"][0]["cached"] is None
    assert printed.err == ""


def test_search_that_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--search", "no model is called this"]) == 2
    assert "captune models --all lists them all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fetch"], "captune models fetch SPEC"),
        (["fetch", "lite"], "offline and has not fetched the image encoder EfficientNet-Lite2"),
        (["fetch", "lite", "--from", "nowhere"], "nowhere: no such folder"),
        (["fetch", "lightning"], "lightning"),
        (["list", "lite"], "captune models fetch SPEC"),
        (["--from", "here"], "captune models fetch SPEC"),
        (["check"], "captune models check hf:OWNER/NAME"),
        (["check", "lite"], "name a captioner of transformers"),
        (["check", "hf:a/b"], "captune models fetch hf:a/b --captioner"),
        (["check", "hf:a/b", "--decoder"], "--decoder is for captune models fetch SPEC"),
        (["fetch", "lite", "--prompt", "a"], "--prompt is for captune models check SPEC"),
        (["fetch", "lite", "--search", "a"], "--search is for captune models list"),
        (["check", "hf:a/b", "--all"], "--all is for captune models list"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert len(printed.err.splitlines()) == 1


def test_fetch_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path | None] = []

    def ensure(parts: object, source: Path | None = None) -> list[Path]:
        asked.append(source)
        return [tmp_path / "weights"]

    monkeypatch.setattr(assets, "ensure", ensure)
    assert main(["models", "fetch", "lite", "--from", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"lite is now in {tmp_path / 'weights'}\n"
    monkeypatch.setattr(assets.Asset, "is_cached", lambda self: True)
    assert main(["models", "fetch", "lite", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fetched"] is False
    assert content["folders"] == [str(tmp_path / "weights")]
    assert asked == [tmp_path, None]
