"""`captune env` says what a bug report needs and no secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import captune
from captune import storage
from captune.cli import env, main


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://me:hush-one@index.example/simple\n"
    )
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://hush-two@a/simple https://u:hush-3@b/simple")
    monkeypatch.setenv("UV_INDEX_URL", "https://u:hush-four@c/simple")
    monkeypatch.setenv("HTTPS_PROXY", "http://u:hush-five@proxy:3128")
    monkeypatch.setenv("HF_TOKEN", "hush-six")


def test_everything_for_a_report_and_no_secret(
    secrets: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cached = storage.cache_folder() / "features" / "shard"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"x" * 2_000_000)
    assert main(["env", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "hush" not in printed
    content = json.loads(printed)
    assert content["command"] == "env"
    assert content["versions"]["captune"] == captune.__version__
    assert content["versions"]["torch"][0].isdigit()
    assert content["machine"]["threads"] >= 1
    assert content["caches"]["features"] == "2.0 MB"
    assert content["caches"]["text encoder all-MiniLM-L6-v2"] == "not fetched"
    assert content["network"]["offline"] is True
    assert "https://****@index.example/simple" in content["network"].values()
    assert content["environment"]["HTTPS_PROXY"] == "http://****@proxy:3128"


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert f"  captune: {captune.__version__}\n" in printed
    assert "  offline: True\n" in printed


def test_a_pip_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").write_text("")
    (tmp_path / "pip" / "__main__.py").write_text("import sys; sys.exit('broken https://a:b@c')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert env._pip_settings() == {"pip": "broken https://****@c"}


def test_home_is_not_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/jane"))
    assert env._masked("/home/jane/.cache/captune") == "~/.cache/captune"
