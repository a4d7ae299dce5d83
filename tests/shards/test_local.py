"""Worker processes of this machine: one that dies costs one shard, and who starts again goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from captune.cli import main
from tests.shards import toy
from tests.shards.conftest import rows_of


def words(folder: Path, model: str, jobs: int) -> list[str]:
    images = [str(folder / "in" / "{00000..00003}.tar"), "--labels", "red,green,blue"]
    how = ["--model", f"toy:{model}", "--out", str(folder / "out"), "--jobs", str(jobs)]
    return ["classify", *images, *how]


def test_a_shard_that_ends_its_process_is_given_up_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.install(tmp_path / "site", monkeypatch)
    toy.write_tars(tmp_path / "in", 4, images=3)
    deadly = [("a.png", toy.picture(toy.COLOURS["red"])), ("b.png", toy.picture(toy.MAGENTA))]
    toy.write_tar(tmp_path / "in" / "00001.tar", deadly)
    assert main(words(tmp_path, "deadly", 1)) == 2
    said = capsys.readouterr().err
    assert "1 of 4 shards failed: 00001 (it ended the process that worked on it 3 times)" in said
    out = tmp_path / "out"
    assert sorted(path.stem for path in out.glob("*.parquet")) == ["00000", "00002", "00003"]
    assert not list(out.glob("*.claim"))


@pytest.mark.needs("linux")
def test_a_killed_driver_leaves_nothing_half_written_and_nobody_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.install(tmp_path / "site", monkeypatch)
    toy.write_tars(tmp_path / "in", 4, images=60)
    out = tmp_path / "out"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "captune", *words(tmp_path, "slow", 1)]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list(out.glob("*.parquet")) and time.monotonic() < until:
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*_stats.json")}
    until = time.monotonic() + 20  # the worker ends with its parent, and lets go
    while list(out.glob("*.claim")) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(out.glob("*.claim"))
    assert len(done) < 4
    assert main(words(tmp_path, "slow", 1)) == 0
    for stem in ("00000", "00001", "00002", "00003"):
        assert [row["key"] for row in rows_of(out, stem)] == [f"{stem}{n:04d}" for n in range(60)]
    now = {path.name: path.stat().st_mtime_ns for path in out.glob("*_stats.json")}
    assert {name: now[name] for name in done} == done
    assert not [name for name in os.listdir(out) if name.endswith(".partial")]  # noqa: PTH208


def test_a_script_needs_no_guard_and_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.install(tmp_path / "site", monkeypatch)
    toy.write_tars(tmp_path / "in", 1, images=3)
    script = tmp_path / "script.py"
    script.write_text(
        "import captune\n"
        "print('once')\n"
        "result = captune.classify('in/00000.tar', ['red', 'green'], model='toy:colours',"
        " out='out')\n"
        "print(result.images)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines() == ["once", "3"], done.stderr


def test_two_processes_that_race_do_each_shard_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.install(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    toy.write_tars(tmp_path / "in", 4, images=30)
    command = [sys.executable, "-m", "captune", *words(tmp_path, "slow", 1)]
    racing = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=180)[0] for process in racing]
    assert [process.returncode for process in racing] == [0, 0]
    done = [re.search(r"now (\d+) shard", text) for text in said]
    assert sum(int(found[1]) for found in done if found) == 4
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 4
    assert not list((tmp_path / "out").glob("*.claim"))
