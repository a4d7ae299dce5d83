"""A full disk while a command writes: one sentence, nothing half-written, what was there stays."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.captioning.caption_job import (
    use_encoder,
    use_map_methods,
    write_captioner,
    write_images,
)
from tests.captioning.little_job import fake_frozen, write_job
from tests.full_disk import no_larger_files
from tests.report_runs import classify_run, images

from captune.captioning.training import setup, state
from captune.cli import main

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no limit of file sizes on Windows")

SIZES = (0, 40, 300, 3000)  # bytes that a file may have; some results are smaller than the last


def tree(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for locks and what a captioning goes on from."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".captions")
    }


def check(
    words: list[str], results: Path, capsys: pytest.CaptureFixture[str], sizes: tuple[int, ...]
) -> None:
    """Where nothing was before, and where an earlier result is."""
    for has_result in (False, True):
        if has_result:
            assert main(words) == 0
        before = tree(results)
        assert bool(before) == has_result
        for size in sizes:
            capsys.readouterr()
            with no_larger_files(size):
                status = main(words)
            said = capsys.readouterr().err
            assert status == 2, (size, said)
            assert said.count("could not be written (") == 1, said
            assert "bug" not in said
            assert tree(results) == before


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    use_encoder(monkeypatch)
    return str(write_captioner(tmp_path / "model" / "run"))


@pytest.mark.parametrize("what", ["--csv", "--out"])
def test_classify(
    what: str, colours: Any, colour_images: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(results / "labels")
    words = ["classify", str(colour_images), "--labels", "red,blue", what, place, "--top5", "2"]
    check(words if what == "--out" else words[:-2], results, capsys, SIZES[:2])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_answers(
    ending: str, colours: Any, colour_images: Path, results: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["classify", str(colour_images), "--labels", "red,blue"]
    check([*words, "--to", str(results / f"answers.{ending}")], results, capsys, SIZES[:2])


@pytest.mark.parametrize("ending", ["npz", "parquet", "safetensors"])
def test_embed(
    ending: str, colours: Any, colour_images: Path, results: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["embed", str(colour_images), "--to", str(results / f"features.{ending}")]
    check(words, results, capsys, SIZES[:2])


@pytest.mark.needs("linux")
def test_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = classify_run(tmp_path / "run", images(tmp_path / "images", ["a.jpg"]), ["a.jpg"])
    for words in (["cite", str(run)], ["completion", "bash"], ["env", "--json"]):
        with Path("/dev/full").open("w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert main(words) == 2
            os.dup2(2, full.fileno())  # what could not be written would be written once more
        assert capsys.readouterr().err == (
            f"captune {words[0]}: the disk is full; make room and run it again\n"
        )


@pytest.mark.parametrize("written", ["--predictions=captions.json", "--out=captions"])
def test_caption(
    written: str, captioner: str, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "images", 4)
    words = ["caption", str(folder), "--model", captioner, "--max-tokens", "8", "--device", "cpu"]
    check([*words, written.replace("=", f"={results}/")], results, capsys, SIZES[:2])


def test_explain(
    captioner: str, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_images(tmp_path / "images", 1)
    words = ["explain", str(folder), "--model", captioner, "--max-tokens", "4", "--device", "cpu"]
    words += ["--faithfulness", "none", "--out", str(results / "maps")]
    check(words, results, capsys, SIZES[:3])


def test_faithful(
    captioner: str,
    tmp_path: Path,
    results: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_map_methods(monkeypatch, "attention", "gradient")
    folder = write_images(tmp_path / "images", 8)
    files = enumerate(sorted(folder.iterdir()))
    captions = {path.stem: [("w20 w22", "w22 w20")[n % 2]] for n, path in files}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    given = str(tmp_path / "captions.json")
    words = ["faithful", captioner, "--images", str(folder), "--captions", given]
    words += ["--val-captions", given, "--minutes", "0.01", "--max-tokens", "4", "--device", "cpu"]
    check([*words, "--out", str(results / "maps")], results, capsys, SIZES[2:3])


@pytest.mark.parametrize("what", ["--per-image", "--out"])
def test_score(
    what: str, tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = {f"{n}": f"a dog runs {n}" for n in range(6)}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "references.json").write_text(json.dumps({k: [v] for k, v in captions.items()}))
    words = ["score", str(tmp_path / "captions.json")]
    words += ["--references", str(tmp_path / "references.json"), what, str(results / "scores")]
    check(words, results, capsys, SIZES[:2])


def test_report(tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{n}.jpg" for n in range(4)]
    run = classify_run(tmp_path / "run", images(tmp_path / "images", names), names)
    words = ["report", str(run), "--out", str(results / "page.html")]
    check(words, results, capsys, SIZES)
    words += ["--figures", str(results / "figures")]
    with no_larger_files(SIZES[-1]):
        assert main(words) == 2
    assert "could not be written" in capsys.readouterr().err


def test_tune(
    results: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint that the disk has no room for: the last one stays, and the tune goes on."""
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    folder, train, val = map(str, write_job(tmp_path / "job"))
    out = results / "run"
    words = ["tune", folder, "--captions", train, "--val-captions", val, "--out", str(out)]
    words += ["--epochs", "2", "--batch-size", "12", "--lr", "1e-2", "--max-tokens", "12"]
    words += ["--device", "cpu", "--set", "bridge.width=16", "--set", "bridge.heads=2"]
    words += ["--method", "lora"]
    publish = state.publish_checkpoint
    made: list[str] = []

    def count(staged: Path, target: Path) -> None:
        if made:
            (staged / "optimizer.pt").write_bytes(bytes(10))
            with no_larger_files(1):
                (staged / "more").write_bytes(bytes(10))
        publish(staged, target)
        made.append(target.name)

    for size in (0, 100, 3000, 20_000):
        with no_larger_files(size):
            assert main(words) == 2
        said = capsys.readouterr().err
        assert "could not be written (" in said
        assert "bug" not in said
    checkpoints = out / "lora" / "checkpoints"
    assert not any(checkpoints.glob("*"))
    monkeypatch.setattr(state, "publish_checkpoint", count)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "checkpoints could not be written (file too large); the checkpoint of step" in said
    assert [path.name for path in checkpoints.iterdir()] == made
    monkeypatch.setattr(state, "publish_checkpoint", publish)
    assert main(words) == 0
    assert "lora: continues from update 6 of 12\n" in capsys.readouterr().err


def test_what_a_tune_left_that_could_not_begin_is_no_hindrance(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for a file may have room for the folder."""
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    folder, train, val = map(str, write_job(tmp_path / "job"))
    words = ["tune", folder, "--captions", train, "--val-captions", val, "--out", str(results)]
    words += ["--epochs", "1", "--batch-size", "12", "--max-tokens", "12", "--device", "cpu"]
    words += ["--set", "bridge.width=16", "--set", "bridge.heads=2", "--method", "lora"]
    (results / "lora").mkdir()
    assert main(words) == 0
