from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from captune.cli import command_names, main


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert {"classify", "prompts", "embed", "models", "cache", "env", "demo"} <= set(
        command_names()
    )
    for name in command_names():
        assert f"    {name}" in out


@pytest.mark.parametrize("name", command_names())
def test_every_command_explains_itself_with_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"captune {name}" in out
    assert "examples:" in out
    assert "--json" in out
    assert "--offline" in out


@pytest.mark.parametrize("name", ["classify", "prompts", "embed"])
def test_every_command_that_runs_a_model_takes_the_same_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--device", "--dtype", "--batch-size", "--workers", "--model"):
        assert flag in out


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "PIL", "rich", "transformers", "timm", "matplotlib", "jinja2")
    code = (
        "import sys; from captune.cli import main; main(['--help']); main(['classify', '--help']);"
        f"sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "COMMAND" in capsys.readouterr().out


def test_an_unknown_command_or_flag_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["clasify"], ["classify", "p", "--labels", "a,b", "--nonsense"], ["classify"]):
        assert main(words) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0
        assert "--help" in error


def test_a_bug_is_status_1_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import captune.cli.env as env

    def broken(arguments: Any) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(env, "run", broken)
    assert main(["env"]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert "Traceback" not in error
    with pytest.raises(ZeroDivisionError):
        main(["env", "--debug"])
