from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from captune.cli import build_parser, main
from captune.cli.arguments import read_options
from captune.options import AppOptions


def test_without_gradio_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["app"]) == 2
    said = capsys.readouterr().err
    assert said == "captune app: captune app needs an extra: pip install 'captune[app]'\n"


def test_without_a_folder_of_runs_it_is_runs() -> None:
    arguments = build_parser("app").parse_args(["app"])
    assert read_options(AppOptions, arguments).runs == Path("runs")


def test_a_file_is_no_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.json").write_text("{}")
    assert main(["app", str(tmp_path / "runs.json")]) == 2
    assert "runs.json: is a file; RUNS names the folder of the runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "port 70000: must be a number from 0 to 65535"),
        (["--most-photos", "0"], "most-photos 0: must be 1 or more"),
        (["--host", "192.0.2.1"], "cannot be listened at"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", str(tmp_path / "runs"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="there is no polite kill here")
def test_it_answers_until_it_is_killed_politely_and_leaves_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "captune", "app", str(tmp_path / "runs"), "--json"]
    app = subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True)
    assert app.stdout is not None
    try:
        found = json.loads(app.stdout.readline())
        assert (found["command"], found["host"]) == ("app", "127.0.0.1")
        with urllib.request.urlopen(found["url"], timeout=60) as page:
            assert b"captune" in page.read()
        assert len(list(tmp_path.glob("captune-app-*"))) == 1
    finally:
        app.send_signal(signal.SIGTERM)
    assert app.wait(60) == 0
    assert list(tmp_path.glob("captune-app-*")) == []
