from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import pytest

from captune.cli import build_parser, main
from captune.options.codec import read_options
from captune.options.pages import AppOptions


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
    assert "runs.json is a file; RUNS names the folder of the runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "port must be a number from 0 to 65535, not 70000"),
        (["--most-images", "0"], "most-images must be 1 or more, not 0"),
        (["--host", "192.0.2.1", "--shared", "--name", "a.example"], "cannot be listened at"),
        (
            ["--host", "x..y", "--shared", "--name", "a.example"],
            "is not an address; give one",
        ),
        (
            ["--host", "\udcff", "--shared", "--name", "a.example"],
            "is not an address; give one",
        ),
        (
            ["--host", "a" * 300, "--shared", "--name", "a.example"],
            "is not an address; give one",
        ),
        (["--host", "0.0.0.0"], "add --shared --name HOST"),
        (["--shared"], "--shared needs the name"),
        (["--shared", "--name", "http://a.example"], "is not a host name"),
    ],
)
def test_what_cannot_be_served_is_a_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", str(tmp_path / "runs"), *words]) == 2
    assert said in capsys.readouterr().err


def heard() -> None:
    """No signal is ignored, as those are that a program under `nohup` or in a script inherits."""
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`captune app --json`, with folders of its own for what is private and what is kept."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "captune", "app", str(tmp_path / "runs"), "--json"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, env=environment, text=True, preexec_fn=heard
    ) as found:
        yield found
        found.kill()


def page_of(address: str) -> bytes:
    """What a browser shows that comes to the address."""
    kept = urllib.request.HTTPCookieProcessor()
    opener = urllib.request.build_opener(kept, urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as page:
        assert page.url == address.partition("?")[0]
        found: bytes = page.read()
        return found


@pytest.mark.skipif(os.name != "posix", reason="there is no polite kill here")
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_it_answers_until_it_is_told_to_end_and_leaves_nothing(
    app: subprocess.Popen[str], tmp_path: Path, ending: str
) -> None:
    assert app.stdout is not None
    found = json.loads(app.stdout.readline())
    assert (found["command"], found["host"]) == ("app", "127.0.0.1")
    assert "?token=" in found["url"]
    assert b"captune" in page_of(found["url"])
    assert len(list(tmp_path.glob("captune-app-*"))) == 1
    began = time.monotonic()
    app.send_signal(getattr(signal, ending))
    assert app.wait(60) == 0
    assert time.monotonic() - began < 5
    assert list(tmp_path.glob("captune-app-*")) == []


@pytest.mark.skipif(os.name != "posix", reason="nobody watches it here")
def test_one_that_is_killed_leaves_nothing_either(
    app: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert app.stdout is not None
    app.stdout.readline()
    app.kill()
    app.wait(60)
    end = time.monotonic() + 10
    while list(tmp_path.glob("captune-app-*")) and time.monotonic() < end:
        time.sleep(0.05)
    assert list(tmp_path.glob("captune-app-*")) == []


def test_the_browser_is_opened_by_a_file_that_others_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[tuple[str, str]] = []

    def open_page(address: str) -> None:
        opened.append((address, Path(address.removeprefix("file://")).read_text()))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(webbrowser, "open", open_page)
    assert main(["app", str(tmp_path / "runs"), "--open"]) == 0
    ((address, text),) = opened
    assert address.startswith("file://")
    said = capsys.readouterr().err
    assert "?token=" in said
    assert "?code=" in text
    assert said.partition("?token=")[2].split()[0] not in text
