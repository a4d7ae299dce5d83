"""`captune completion`: what shtab is given, what is printed, and what bash makes of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from captune.cli import main
from captune.options.pages import SHELLS

SCRIPT = "complete -F _captune captune\n\tif true\n"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, argparse.ArgumentParser]:
    """The parser that shtab was given, by shell; the library itself is replaced."""
    found: dict[str, argparse.ArgumentParser] = {}

    def complete(parser: argparse.ArgumentParser, shell: str) -> str:
        found[shell] = parser
        return SCRIPT

    monkeypatch.setitem(sys.modules, "shtab", SimpleNamespace(FILE="files", complete=complete))
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_as_it_is(
    shell: str, given: dict[str, argparse.ArgumentParser], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == f"{SCRIPT}\n"
    assert main(["completion", shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"] == SCRIPT
    assert list(given) == [shell]


def test_files_are_completed_where_files_go(given: dict[str, argparse.ArgumentParser]) -> None:
    main(["completion", "bash"])
    commands = given["bash"]._actions[-1].choices
    assert isinstance(commands, dict)
    marked = {
        name: {action.dest for action in parser._actions if hasattr(action, "complete")}
        for name, parser in commands.items()
    }
    assert {"images", "captions", "val_captions", "out", "config"} <= marked["tune"]
    assert {"images", "predictions"} <= marked["caption"]
    assert marked["report"] >= {"runs", "out", "figures"}
    assert not {"epochs", "method", "objective", "help", "seed"} & marked["tune"]
    assert marked["completion"] == set()


def test_without_shtab_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    said = "captune completion: making the script needs an extra: pip install 'captune[completion]'"
    assert capsys.readouterr().err.strip() == said


@pytest.mark.needs("shtab", "linux")
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("ca", {"cache", "caption"}),
        ("caption --be", {"--beam"}),
        ("tune --objective c", {"captions", "cider"}),
        ("tune --captions tr", {"train.json"}),
        ("classify images --labels tr", {"train.json"}),
        ("caption images --model ru", {"runs"}),
        ("shards status ru", {"runs"}),
    ],
)
def test_bash_completes(
    typed: str, completed: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "train.json").touch()
    (tmp_path / "runs").mkdir()
    words = f"COMP_WORDS=(captune {typed}); COMP_CWORD={len(typed.split())}"
    shell = f'source ./script; {words}; _shtab_captune; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == completed
