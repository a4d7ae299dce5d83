"""Hugging Face datasets in the place of files, command by command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.captioning.little_job import IDENTITY, ColourGrids
from tests.captioning.tiny import GRID, tiny_decoder
from tests.colour_model import colour_model
from tests.datasets import NAMES, colour_rows, png, save_parquet, save_splits
from tests.pages.page_reader import outline

from captune.captioning.captioner import describe_decoder
from captune.captioning.dataset import CaptionDataset
from captune.captioning.training import setup
from captune.captioning.training.frozen import FrozenParts
from captune.cli import main
from captune.images import dataset
from captune.options.tuning import TuneOptions
from captune.runs import read_run


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return save_splits(tmp_path / "walls", train=colour_rows(12), validation=colour_rows(6))


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_classify_by_its_classes_and_its_truth(
    colours: Any, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = colour_rows(6)
    rows[4]["image"] = {"bytes": b"broken", "path": None}
    save_parquet(tmp_path / "flat" / "test.parquet", rows)
    out = tmp_path / "run"
    words = ["--dataset", str(tmp_path / "flat"), "--labels", "from-dataset"]
    words += ["--label-column", "label", "--out", str(out), "--csv", str(tmp_path / "answers.csv")]
    found = printed(capsys, "classify", *words)
    assert (found["images"], found["prompts"][0]["accuracy"]) == (5, 1.0)
    assert [one["path"] for one in found["skipped"]] == ["test/4"]
    assert [one["image"] for one in found["answers"]][:2] == ["test/0", "test/1"]
    assert (tmp_path / "answers.csv").read_text().splitlines()[1] == "test/0,red"
    run = read_run(out)
    assert next(run.records())["path"] == "test/0"
    # a later command shows the images, too
    dataset.opened.clear()
    assert main(["report", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "test/0" in outline(tmp_path / "page.html").words
    assert (tmp_path / "page.html").read_text().count("data:image/") >= 5


def test_prompts_and_embed(
    colours: Any, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset", str(place), "--split", "val"]
    more = ["--labels", ",".join(NAMES), "--label-column", "label"]
    more += ["--prompt", "a {}", "--prompt", "one {}"]
    found = printed(capsys, "prompts", *words, *more)
    assert (found["images"], found["prompts"][0]["accuracy"]) == (6, 1.0)
    file = tmp_path / "features.npz"
    assert printed(capsys, "embed", *words, "--to", str(file))["images"] == 6
    assert np.load(file)["paths"].tolist() == [f"validation/{n}" for n in range(6)]


def test_score_against_the_captions_of_a_dataset(
    colours: Any, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = {f"validation/{n}": f"a {NAMES[n % 3]} wall number {n}" for n in range(6)}
    (tmp_path / "pred.json").write_text(json.dumps(captions))
    words = ["score", str(tmp_path / "pred.json"), "--dataset", str(place), "--split", "validation"]
    out = tmp_path / "run"
    found = printed(capsys, *words, "--metrics", "bleu_4,clipscore", "--out", str(out))
    assert found["metrics"]["bleu_4"]["corpus"] == pytest.approx(1)
    assert found["metrics"]["clipscore"]["corpus"] > 0
    assert printed(capsys, "verify", str(out))["holds"]
    assert printed(capsys, "rank", str(out), "--by", "bleu_4")["images"] == 6


def test_tune_on_one_split_and_validate_on_another(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(options: TuneOptions, parts: Sequence[CaptionDataset], **unused: Any) -> FrozenParts:
        kinds = {
            key: int(id.rpartition("/")[2]) % 3
            for part in parts
            for id, key in zip(part.ids, part.keys, strict=True)
        }
        decoder = tiny_decoder("gpt2")
        models = [describe_decoder(decoder)]
        return FrozenParts(IDENTITY, GRID, ColourGrids(kinds), decoder, colour_model(), [], models)

    monkeypatch.setattr(setup, "load_frozen", load)
    out = tmp_path / "run"
    words = ["--dataset", str(place), "--split", "train", "--caption-column", "caption"]
    words += ["--epochs", "1", "--max-tokens", "12", "--device", "cpu", "--out", str(out)]
    words += ["--set", "bridge.width=16", "--set", "bridge.heads=2"]
    found = printed(capsys, "tune", *words)
    assert (found["images"], found["trained_on"]) == (6, 12)
    assert next(read_run(out).records())["path"] == "validation/0"
    # resumed, and by its configuration, from another folder
    assert printed(capsys, "tune", *words)["methods"] == found["methods"]
    monkeypatch.chdir("/")
    again = ["--config", str(out / "config.yaml"), "--out", str(tmp_path / "again")]
    assert printed(capsys, "tune", *again)["trained_on"] == 12


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["classify", "--labels", "a", "--dataset", "nowhere"], "nowhere is not a folder"),
        (["classify", "--labels", "a", "--split", "val", "."], "--split is for --dataset"),
        (["classify", "--labels", "a"], "no images were given"),
        (["classify", ".", "--labels", "a", "--dataset", "."], "IMAGES or --dataset, not both"),
        (["classify", "--labels", "from-dataset", "--dataset", "."], "--label-column"),
        (["caption", "--dataset", ".", "--sidecar"], "--sidecar writes beside image files"),
        (["faithful", "lite", "--out", "x", "--images", "."], "--captions is missing"),
    ],
)
def test_what_is_refused(
    words: list[str], told: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.png").write_bytes(png("red"))
    assert main(words) == 2
    assert told in capsys.readouterr().err
