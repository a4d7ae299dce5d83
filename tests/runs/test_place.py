"""A run folder takes its own kind of run, and one writer at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.run_folders import CAPTIONS, good_runs
from tests.report_runs import images, score_run

from captune.cli import main
from captune.errors import UserError
from captune.runs import RunWriter, check_run_folder, read_run
from captune.runs.writer import claim, locked_folder


@dataclass
class Options:
    out: Path | None
    overwrite: bool = False


def write(folder: Path, kind: str, **more: Any) -> None:
    with RunWriter(folder, kind=kind, options=Options(folder, **more), root=folder) as run:
        run.metrics = {"images": 0}


def all_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def captions(tmp_path: Path) -> dict[str, str]:
    """Two files of captions and their references, as words of a command."""
    for name, said in (("a", "a red wall"), ("b", "a green door"), ("refs", "a red door")):
        (tmp_path / f"{name}.json").write_text(json.dumps({f"i{n}": said for n in range(3)}))
    return {name: str(tmp_path / f"{name}.json") for name in ("a", "b", "refs")}


def test_compare_does_not_replace_a_tune(
    tmp_path: Path, captions: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    tune = good_runs(tmp_path)["tune"]
    for method in ("adapter", "lora"):
        (tune / method / "tuning.json").write_text("{}")
        (tune / method / "model.safetensors").write_bytes(b"weights")
    (tune / "table.csv").write_text("method\n")
    (tune / "lora" / "notes.txt").write_text("precious")
    before = all_files(tune)
    words = ["compare", captions["a"], captions["b"], "--references", captions["refs"]]
    words += ["--metrics", "cider", "--out", str(tune)]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert (
        f"{tune} holds a run of captune tune (adapter, lora), which captune compare would" in told
    )
    assert "or replace it with --overwrite" in told
    assert all_files(tune) == before
    assert main([*words, "--overwrite"]) == 0
    told = capsys.readouterr().err
    assert f"--overwrite: replaces a run of captune tune (adapter, lora) in {tune}" in told
    assert told.count("--overwrite") == 1
    assert read_run(tune).kind == "compare"
    assert {path.name for path in tune.iterdir()} == {
        *("run.json", "metrics.json", "records.jsonl", "report.html", "plots", "lora")
    }
    assert [path.name for path in (tune / "lora").iterdir()] == ["notes.txt"]


def test_the_earlier_run_stays_where_the_new_one_comes_to_nothing(tmp_path: Path) -> None:
    tune = good_runs(tmp_path)["tune"]
    (tune / "lora" / "tuning.json").write_text("{}")
    before = all_files(tune)
    with (
        pytest.raises(KeyboardInterrupt),
        RunWriter(tune, kind="score", options=Options(tune, overwrite=True), root=tune),
    ):
        raise KeyboardInterrupt
    assert all_files(tune) == before


def test_its_own_kind_is_replaced_without_a_word(tmp_path: Path) -> None:
    write(tmp_path / "run", "baking")
    write(tmp_path / "run", "baking")
    with pytest.raises(UserError, match="holds a run of captune baking, which captune frying"):
        write(tmp_path / "run", "frying")
    write(tmp_path / "run", "frying", overwrite=True)
    assert read_run(tmp_path / "run").kind == "frying"


@pytest.mark.parametrize("content", ["", "[]", '{"kind": 3}', "[" * 9999])
def test_a_run_that_cannot_be_read_is_of_no_kind(tmp_path: Path, content: str) -> None:
    write(tmp_path / "run", "baking")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"holds a run .*, which captune baking would replace"):
        check_run_folder(tmp_path / "run", "baking")
    check_run_folder(tmp_path / "run", "baking", overwrite=True)


def test_a_pipe_in_the_place_of_run_json_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "run", "baking")
    (tmp_path / "run" / "run.json").unlink()
    os.mkfifo(tmp_path / "run" / "run.json")
    monkeypatch.chdir(tmp_path / "run")
    with pytest.raises(UserError, match=r"^run\.json cannot be read \(a device, pipe"):
        read_run(Path())
    with pytest.raises(UserError, match="holds a run that cannot be read"):
        check_run_folder(tmp_path / "run", "baking")


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "images", "--labels", "cat,dog"],
        ["prompts", "images", "--labels", "cat,dog"],
        ["score", "a.json"],
        ["compare", "a.json", "b.json"],
        ["explain", "images"],
        ["caption", "images"],
    ],
)
def test_overwrite_needs_something_to_overwrite(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--overwrite"]) == 2
    assert "--overwrite is for" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "{images}", "--labels", "cat,dog"],
        ["prompts", "{images}", "--labels", "cat,dog"],
        ["score", "{a}", "--references", "{refs}"],
        ["compare", "{a}", "{b}", "--references", "{refs}"],
        ["explain", "{images}"],
        ["caption", "{images}"],
        ["faithful", "lite", "--images", "{images}", "--captions", "{refs}"],
        ["tune", "{images}", "--captions", "{refs}", "--val-captions", "{refs}"],
    ],
)
def test_every_job_refuses_a_folder_that_is_written_to_and_one_of_another_job(
    tmp_path: Path, captions: dict[str, str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any work: no model is loaded here."""
    there = {**captions, "images": str(images(tmp_path / "images", ["i0.jpg", "i1.jpg"]))}
    words = [word.format(**there) for word in words]
    out = tmp_path / "out"
    with locked_folder(out):
        assert main([*words, "--out", str(out)]) == 2
        told = capsys.readouterr().err
        assert f"{out}: another captune is writing there; wait for it, or choose" in told
    assert not out.exists()
    write(out, "baking")
    assert main([*words, "--out", str(out)]) == 2
    assert f"{out} holds a run of captune baking, which captune {words[0]} would" in (
        capsys.readouterr().err
    )


def test_rank_waits_for_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = score_run(tmp_path / "run", tmp_path, CAPTIONS)
    with locked_folder(run):
        assert main(["rank", str(run)]) == 2
        assert "another captune is writing there" in capsys.readouterr().err
    assert main(["rank", str(run)]) == 0


def test_a_folder_is_held_by_one_thread(tmp_path: Path) -> None:
    """Jobs of the app run in one process."""
    said: list[str] = []

    def other() -> None:
        try:
            write(tmp_path / "run", "baking")
        except UserError as error:
            said.append(str(error))

    with claim(tmp_path / "run", "baking"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        write(tmp_path / "run", "baking")  # the thread that holds it goes on
        assert (tmp_path / "run" / ".captune.lock").exists()
    assert "another captune is writing there" in said[0]
    other()
    assert len(said) == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("metrics.json", "records.jsonl", "run.json")
    ]


def test_nothing_is_left_of_a_job_that_wrote_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="came to nothing"),
        claim(tmp_path / "new" / "deep" / "run", "baking"),
    ):
        raise UserError("came to nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on Windows")
def test_a_killed_writer_lets_go(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from captune.runs.writer import claim\n"
        "with claim(Path(sys.argv[1]), 'baking'): print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another captune is writing there"):
            write(tmp_path / "run", "baking")
        process.kill()
        process.wait()
    assert (tmp_path / "run" / ".captune.lock").exists()
    write(tmp_path / "run", "baking")
    assert not (tmp_path / "run" / ".captune.lock").exists()


def test_two_that_begin_at_once_give_one_run(tmp_path: Path, captions: dict[str, str]) -> None:
    words = ["score", captions["a"], "--references", captions["refs"], "--metrics", "cider"]
    words = [sys.executable, "-m", "captune", *words, "--out", str(tmp_path / "out")]
    started = [
        subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(3)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in started]
    assert any(status == 0 for _, status in ends)
    for told, status in ends:
        assert status == 0 or (status == 2 and "another captune is writing there" in told)
    assert read_run(tmp_path / "out").metrics["images"] == 3


def test_a_lock_that_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "run", "baking")
    (tmp_path / "run" / ".captune.lock").mkdir()
    with pytest.raises(UserError, match="cannot be locked"):
        write(tmp_path / "run", "baking")
