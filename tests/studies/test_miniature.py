"""The whole study, from the assignment's layout to the page, with models of toy size."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.studies.tiny_study import (
    PICTURES,
    write_clip,
    write_decoder,
    write_encoder,
    write_layout,
)

from captune.cli import main
from captune.pages.checking import check_page
from captune.runs import read_run
from captune.studies import read_study

STEPS = [step.name for step in read_study("dlcv-hw3").steps]


@dataclass
class Done:
    """A study that was done. printed: by `--json`."""

    words: list[str]
    data: Path
    out: Path
    decoder: Path
    vocabulary: Path
    printed: dict[str, Any]

    def again(self, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*self.words, *more, "--json"]) == 0
        printed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return printed


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("study")
    data, out = write_layout(folder / "hw3_data"), folder / "run"
    vocabulary = folder / "submission"
    decoder = write_decoder(data / "p2_data", vocabulary)
    clip = str(write_clip(folder / "clip"))
    words = [
        *("reproduce", "dlcv-hw3", "--data", str(data), "--out", str(out), "--epochs", "1"),
        *("--classifier", clip, "--score-model", clip, "--decoder", str(decoder)),
        *("--encoder", f"timm:{write_encoder(folder / 'encoder')}"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTUNE_CACHE", str(folder / "cache"))
        patch.setenv("CAPTUNE_OFFLINE", "1")
        patch.chdir(vocabulary)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main([*words, "--json"]) == 0
        found = Done(words, data, out, decoder, vocabulary, json.loads(printed.getvalue()))
        yield found


def times_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_step_leaves_its_run_by_the_command_that_was_said(done: Done) -> None:
    rows = done.printed["steps"]
    assert [row["step"] for row in rows] == STEPS
    assert {row["done"] for row in rows} == {"now"}
    for row in rows:
        folder = done.out / row["step"]
        if (folder / "run.json").is_file():
            typed = [word for word in read_run(folder).about["command"] if word != "--json"]
            assert typed == row["command"]
    assert {path.parent.name for path in done.out.glob("*/run.json")} == set(STEPS) - {
        "rank",
        "report",
    }
    tune = read_run(done.out / "tune")
    assert [row["method"] for row in tune.metrics["methods"]] == ["adapter", "prefix", "lora"]
    options = tune.about["options"]
    assert (options["lr"], options["weight_decay"], options["batch_size"]) == (5e-4, 1e-2, 32)
    assert options["set"][0] == "bridge.width=768"
    assert {record["path"] for record in read_run(done.out / "explain").records()} == {
        f"{name}.jpg" for name in PICTURES
    }


def test_the_ends_of_the_ranking_are_explained(done: Done) -> None:
    (table,) = (done.out / "rank").glob("*.csv")
    rows = list(csv.DictReader(table.open()))
    explained = read_run(done.out / "explain-best-and-worst")
    assert {record["path"] for record in explained.records()} == {
        rows[0]["path"],
        rows[-1]["path"],
    }


def test_the_page_sets_the_published_figures_beside_these_and_holds(done: Done) -> None:
    page = done.out / "report.html"
    assert done.printed["page"] == str(page)
    text = page.read_text(encoding="utf-8")
    for published in ("68 %", "70 %", "46 %", ".9215", ".9265", ".6283", ".7388", ".7368"):
        assert published in text
    assert "This was not the published experiment" in text
    found = check_page(page)
    assert found.differing == []
    assert found.figures > 100


def test_what_is_done_is_not_done_again(
    done: Done, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done.vocabulary)
    times = {path: path.stat().st_mtime_ns for path in done.out.rglob("*") if path.is_file()}
    printed = done.again(capsys)
    assert {row["done"] for row in printed["steps"]} == {"before"}
    assert times == {
        path: path.stat().st_mtime_ns for path in done.out.rglob("*") if path.is_file()
    }
    assert main([*done.words, "--only", "classify"]) == 0
    assert "1 of 1 step done before" in "".join(capsys.readouterr())
    # a run that is lost is made again, and so is all that stands on it
    (done.out / "score-lora" / "run.json").unlink()
    printed = done.again(capsys)
    now = [row["step"] for row in printed["steps"] if row["done"] == "now"]
    assert now == ["score-lora", "rank", "explain-best-and-worst", "report"]


def test_a_step_by_another_command_is_made_again(
    done: Done, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done.vocabulary)
    rows = done.again(capsys, "--dry-run", "--limit", "4")["steps"]
    assert [row["step"] for row in rows if row["done"]] == [
        name for name in STEPS if name != "tune"
    ]
    rows = done.again(capsys, "--dry-run")["steps"]
    assert all(row["done"] for row in rows)
    assert all(row["known_later"] == [] for row in rows)


def test_a_printed_command_gives_the_same(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = next(row for row in done.printed["steps"] if row["step"] == "prompts")
    out = tmp_path / "again"
    words = [str(out) if word == str(done.out / "prompts") else word for word in row["command"][1:]]
    assert main(words) == 0
    assert read_run(out).metrics == read_run(done.out / "prompts").metrics


def test_the_submission_of_part_one(done: Done, tmp_path: Path) -> None:
    """`hw3_1.sh IMAGES ID2LABEL OUT.csv`."""
    images, labels = done.data / "p1_data" / "val", done.data / "p1_data" / "id2label.json"
    out = tmp_path / "output_p1" / "pred.csv"
    clip = done.words[done.words.index("--classifier") + 1]
    given = ["classify", str(images), "--labels", str(labels), "--csv", str(out)]
    assert main([*given, "--model", clip]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "filename,label"
    rows = dict(line.split(",") for line in lines[1:])
    assert rows.keys() == {path.name for path in images.iterdir()}
    assert set(rows.values()) <= set(json.loads(labels.read_text()))


def test_the_submission_of_part_two(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hw3_2.sh IMAGES OUT.json DECODER`, run where encoder.json and vocab.bpe lie."""
    images, out = done.data / "p2_data" / "images" / "val", tmp_path / "output" / "pred.json"
    elsewhere = tmp_path / "given" / "decoder_model.bin"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(done.decoder.read_bytes())
    monkeypatch.chdir(done.vocabulary)
    given = ["caption", str(images), "--model", str(done.out / "tune"), "--beam", "1"]
    assert main([*given, "--predictions", str(out), "--decoder", str(elsewhere)]) == 0
    predictions = json.loads(out.read_text())
    assert predictions.keys() == {path.stem for path in images.iterdir()}
    assert all(isinstance(caption, str) for caption in predictions.values())
    assert predictions == json.loads((done.out / "pred.json").read_text())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--only", "nothing"], "--only nothing is not one of the steps (classify, prompts"),
        (["--only", "rank", "--out", "elsewhere"], "rank needs score-adapter, score-prefix"),
        (["--data", "gone"], "--data gone is not a folder"),
        (["--data", "."], "lacks p1_data/val, p1_data/id2label.json or id2label.json"),
        (["--epochs", "0"], "epochs must be 1 or more, not 0"),
        (["--limit", "-1"], "limit must be 0 or more, not -1"),
    ],
)
def test_what_is_refused(
    done: Done,
    change: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*done.words, *change]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
