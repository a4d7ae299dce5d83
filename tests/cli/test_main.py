from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captune.captioning.training import state
from captune.cli import main
from captune.cli.commands import COMMANDS
from captune.options.tuning import TuneOptions


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert {"classify", "prompts", "embed", "models", "cache", "env", "demo"} <= set(COMMANDS)
    for name in COMMANDS:
        assert f"    {name}" in out


@pytest.mark.parametrize("name", COMMANDS)
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


@pytest.mark.parametrize(("words", "loaded"), [([], []), (["classify"], ["recognition"])])
def test_a_command_loads_its_own_options_alone(words: list[str], loaded: list[str]) -> None:
    kinds = ("captioning", "pages", "recognition", "scoring")
    code = (
        f"import sys; from captune.cli import main; main([*{words!r}, '--help']);"
        f"sys.exit(' '.join(k for k in {kinds!r} if f'captune.options.{{k}}' in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.split() == loaded


@pytest.mark.parametrize("file", ["--csv=a.parquet", "--to=a.txt"])
def test_a_file_that_cannot_be_written_is_refused_before_torch_is_imported(file: str) -> None:
    words = ["classify", __file__, "--labels", "a,b", file]
    code = (
        f"import sys; from captune.cli import main; print(main({words!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2 False\n", done.stderr
    assert "a." in done.stderr


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "COMMAND" in capsys.readouterr().out


def test_an_unknown_command_or_flag_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["clasify"], ["classify", "p", "--labels", "a,b", "--nonsense"], ["classify"]):
        assert main(words) == 2
        error = capsys.readouterr().err.strip()
        assert error.count("\n") == 0
        assert "--help" in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["captoin", "x"], "no command captoin (did you mean caption?); captune --help shows"),
        (
            ["caption", "x", "--lables", "y"],
            "captune caption: unrecognized arguments: --lables y (did you mean --table?); captune",
        ),
        (
            ["classify", "x", "--lables", "y"],
            "--lables (did you mean --labels?); captune classify",
        ),
        (["score", "x", "--photos", "y"], "--photos y (did you mean --images?); captune score"),
        (["classify", "x", "--photos"], "arguments: --photos; captune classify --help shows"),
        (["compare", "a", "b", "--no-subset"], "--no-subset (--subset is off unless it is given)"),
        (["score", "x", "--image"], "argument --images: expected one argument"),
        (["score", "x", "--limit", "3"], "(every caption counts; captune caption --limit N"),
        (["compare", "x", "y", "--limit", "3"], "(every caption counts; captune caption --limit N"),
        (["score", "x", "y"], "arguments: y (captune compare holds two files or more against"),
        (["shards", "stauts", "x"], "invalid choice: 'stauts' (choose from"),
        (["shards", "nowhere"], "nowhere holds no shards of captune; name the --out of a command"),
        (["classify", "x", "--label"], "argument --labels: expected one argument"),
        (
            ["compare", "x", "x", "--references", "x", "--out", "runs/a.html"],
            "--out runs/a.html names a folder to write, and .html is the ending of a file; name it"
            " runs/a",
        ),
        (["caption", "x", "--csv", "a.csv"], "--csv a.csv (did you mean --to?)"),
        (["tune", "x", "--val-photos", "y"], "--val-photos y (did you mean --val-images?)"),
        (["rank", "x", "--out", "a.png"], "and .png is the ending of a file; name it a"),
        (["demo", "--out", "a.pdf"], "and .pdf is the ending of a file; name it a"),
        (["tune", "--method", "lorra"], "choose among adapter, dora, ia3"),
        (["tune", "--method", "lorra"], "did you mean lora?"),
        (["explain", "x", "--method", "atention"], "did you mean attention?"),
        (["score", "x", "--references", "y", "--metrics", "cidre"], "did you mean cider?"),
        (
            ["classify", "s3://a/b", "--labels", "a,b"],
            "s3://a/b is read in shards: name the folder, or the address, of",
        ),
        (["classify", "some.tar", "--labels", "a,b"], "some.tar is read in shards: name the"),
        (["prompts", "some.tar", "--labels", "a,b"], "is an archive, which captune does not open"),
    ],
)
def test_a_mistake_is_one_right_sentence(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.tar").write_bytes(b"x")
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert error.count("\n") == 0


def test_what_the_options_alone_tell_is_refused_before_anything_is_imported(tmp_path: Path) -> None:
    begun = tmp_path / "tune" / "lora"
    begun.mkdir(parents=True)
    (tmp_path / "some.tar").write_bytes(b"x")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"x")
    for name, image in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.csv").write_text(f"image,caption\n{image}.jpg,a dog\n")
    (begun / "tuning.json").write_text('{"epochs": 3}')
    tune = ["tune", "i", "--captions", "c", "--val-captions", "v", "--out"]
    mistakes = {
        'method "lorra"': [*tune, "new", "--method", "lorra"],
        'bridge "x"': [*tune, "new", "--bridge", "x"],
        'lora has no setting "rnk"': [*tune, "new", "--set", "lora.rnk=4"],
        "lora: rank -3; it must be 1": [*tune, "new", "--set", "lora.rank=-3"],
        "width must be a multiple of the heads": [
            *tune,
            "new",
            "--set",
            "bridge.width=7",
            "--set",
            "bridge.heads=2",
        ],
        '"x" is not a number of parameters': [*tune, "new", "--max-trainable", "x"],
        "foo: neither a model spec": [*tune, "new", "--encoder", "foo"],
        "c does not exist": ["tune", "images", *tune[2:], "new"],
        "v does not exist": ["tune", "images", "--captions", "a.csv", *tune[4:], "new"],
        "b.csv: none of its 1 images (2.jpg)": [
            "tune",
            "images",
            "--captions",
            "b.csv",
            *tune[4:],
            "new",
        ],
        'method "guess"': ["explain", "i", "--method", "guess"],
        "holds files that are not a run": ["classify", "i", "--labels", "a,b", "--out", "tune"],
        "was started with": [*tune, "tune", "--epochs", "5"],
        "IMAGES (folder of the training images) is missing": ["tune", "--out", "new"],
        "is an archive": ["tune", "some.tar", *tune[2:], "new"],
        "'s3:/a' is an address": ["tune", "s3://a", *tune[2:], "new"],
        "https://a/b.jpg is read in shards": ["caption", "https://a/b.jpg"],
        "'i' does not exist": ["explain", "i"],
    }
    code = (
        "import sys; from captune.cli import main\n"
        f"for words in {list(mistakes.values())!r}: assert main(words) == 2\n"
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for told, said in zip(mistakes, done.stderr.splitlines(), strict=True):
        assert told in said


def test_the_same_tune_is_not_refused(tmp_path: Path) -> None:
    options = TuneOptions(method="lora", out=tmp_path, set=["lora.rank=4"])
    (tmp_path / "lora").mkdir()
    asked = {**state.deciding(options), "set": {"bridge": {}, "lora": {"rank": 4}}}
    state.begin(tmp_path / "lora", asked)
    state.check_resumed(options)


def _interrupted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    def interrupt(self: object, arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("captune.cli.commands.Command.__call__", interrupt)
    return main(words)


def test_ctrl_c_says_what_was_kept_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    caption, tune = tmp_path / "caption", tmp_path / "tune"
    caption.mkdir()
    (caption / ".captions.jsonl").write_text("{}\n{}\n{}\n")
    for name in ("adapter", "lora", "prefix"):
        (tune / name).mkdir(parents=True)
        (tune / name / "tuning.json").write_text("{}")
    (tune / "adapter" / "run.json").write_text("{}")
    (tune / "lora" / "checkpoints" / "checkpoint-1200").mkdir(parents=True)
    for words, told in (
        (["caption", "i", "--out", str(caption)], f"kept: 2 images captioned in {caption}, comp"),
        (
            ["tune", "i", "--out", str(tune)],
            f"kept: adapter, finished, in {tune / 'adapter'}, lora",
        ),
        (
            ["tune", "i", "--out", str(tune)],
            f"lora up to update 1,200 in {tune / 'lora'}, computed",
        ),
        (["classify", "i", "--labels", "a,b"], "kept: computed features in "),
        (["classify", "i", "--labels", "a,b", "--no-cache"], "nothing was kept (--no-cache)"),
        (["report", "run", "--out", "x.html"], "stopped; run the same command again"),
    ):
        assert _interrupted(words, monkeypatch) == 130
        assert told in capsys.readouterr().err


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
    assert main(["env", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


_CAPTUNE = f"{sys.executable} -m captune"


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    (tmp_path / "c.json").write_text('{"a": "a dog runs", "b": "a cat sits"}')
    (tmp_path / "r.json").write_text('{"a": ["the dog runs"], "b": ["a cat sits there"]}')
    return tmp_path


def status_in_shell(line: str, folder: Path) -> tuple[int, str]:
    """Exit status of the first command of a pipeline, and what came out on either stream."""
    done = subprocess.run(
        ["bash", "-c", f"{line.format(captune=_CAPTUNE)}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        cwd=folder,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


_SCORE = "{captune} score c.json --references r.json --no-interval"


@pytest.mark.skipif(sys.platform == "win32", reason="bash closes the streams")
@pytest.mark.parametrize(
    ("line", "status"),
    [
        (f"{_SCORE} >&-", 0),
        (f"{_SCORE} >&- 2>&-", 0),
        ("{captune} score no.json --references r.json >&- 2>&-", 2),
        (f"{_SCORE} | true", 0),
        (f"{_SCORE} --json | true", 0),
        (f"{_SCORE} --out run 2>&1 | true", 0),
        ("{captune} --help | true", 0),
        # the reader has gone, and nothing is held back for it
        ("(sleep 0.3; PYTHONUNBUFFERED=1 {captune} --help) | true", 0),
        ("(sleep 0.3; PYTHONUNBUFFERED=1 {captune}) | true", 0),
        ("{captune} score no.json --references r.json --json | true", 2),
        ("{captune} score no.json --references r.json 2>&1 | true", 2),
    ],
)
def test_nobody_has_to_read_what_is_printed(captions: Path, line: str, status: int) -> None:
    found, said = status_in_shell(line, captions)
    assert found == status, said
    for bug in ("bug in captune", "Traceback", "Exception ignored", "BrokenPipe"):
        assert bug not in said
    assert (captions / "run/run.json").exists() == ("--out run" in line)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_standard_output_is_status_2(captions: Path) -> None:
    found, said = status_in_shell(f"{_SCORE} --json >/dev/full", captions)
    assert found == 2
    assert "the disk is full" in said
    assert "Exception ignored" not in said


def test_a_working_folder_that_was_deleted_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import captune.cli.env as env

    def gone() -> Path:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(env, "run", lambda arguments: Path.cwd())
    monkeypatch.setattr(Path, "cwd", gone)
    assert main(["env"]) == 2
    assert "the working folder was deleted" in capsys.readouterr().err


def test_no_sentence_of_ours_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "no\x1b[2J\nrun"]) == 2
    assert main(["\x1b[2J"]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "no\\x1b[2J\\nrun" in error


@pytest.mark.parametrize(
    "words", [["report", "x" * 300, "--out"], ["report", "x/" * 6000, "--out"]]
)
def test_a_path_that_is_too_long_is_one_short_sentence_of_status_2(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert said.endswith("is too long for the name of a file\n")
    assert main(["report", "none", "--out", "x/" * 6000 + "page.html"]) == 2
    said = capsys.readouterr().err
    assert len(said) < 5000
    assert "File name too long" in said


def test_a_process_ends_without_taking_itself_apart() -> None:
    code = """
import atexit, builtins, sys
from captune import cli
from captune.cli.commands import Command

class Held:
    def __del__(self):
        print("taken apart")

def command(_):
    atexit.register(print, "cleared up")
    return 7

builtins.held = Held()
cli.COMMANDS["env"] = Command(run=command)
sys.argv = ["captune", "env"]
cli.program()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "cleared up\n"), done.stderr
