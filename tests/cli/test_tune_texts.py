"""Words that no training image shows, learnt from captions alone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.captioning.caption_job import interrupted_after, use_encoder
from tests.captioning.tiny import tiny_decoder
from tests.captioning.words_job import telling_model
from tests.cli.test_tune import words
from tests.colour_model import colour_model
from torch import Tensor

from captune.captioning.training import frozen, setup
from captune.captioning.training.step import SelfCritical
from captune.cli import main
from captune.models.encoders import ImageTextModel
from captune.runs import read_run

# what captions say of the channel that is brightest, and the colour that the model reads it as
KINDS = {"w0": "red", "w10": "green", "w20": "blue"}
CAPTIONS = {word: [f"a {word} w{n + 1}", f"a {word} w{n + 2}"] for n, word in enumerate(KINDS)}


def reading_model() -> ImageTextModel:
    """It sees nine places, and reads words of captions as colours."""
    model = telling_model()
    assert model.text is not None
    read = colour_model().text
    assert read is not None

    def tokenize(texts: Sequence[str]) -> Mapping[str, Tensor]:
        return read.tokenize([" ".join(KINDS.get(w, "x") for w in text.split()) for text in texts])

    return dataclasses.replace(model, text=dataclasses.replace(model.text, tokenize=tokenize))


def write_job(folder: Path) -> tuple[tuple[Path, Path, Path], Path]:
    """((images, train captions, val captions), captions alone): no training image is blue."""
    images = folder / "images"
    images.mkdir(parents=True)
    chance = np.random.default_rng(0)
    files = {}
    for part, kinds, count in (("train", (0, 1), 40), ("val", (0, 1, 2), 18)):
        rows = []
        for n in range(count):
            kind = kinds[n % len(kinds)]
            colour = chance.integers(0, 120, 3)
            colour[kind] = chance.integers(180, 250)
            name = f"{part}_{n:02}.png"
            Image.new("RGB", (18, 18), tuple(map(int, colour))).save(images / name)
            rows.append({"file_name": name, "captions": [*CAPTIONS.values()][kind]})
        files[part] = folder / f"{part}.jsonl"
        files[part].write_text("\n".join(map(json.dumps, rows)))
    extra = folder / "extra.jsonl"
    own = [{"image_id": f"text {n}", "captions": CAPTIONS["w20"]} for n in range(20)]
    extra.write_text("\n".join(map(json.dumps, own)))
    return (images, files["train"], files["val"]), extra


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Path]:
    """(what is typed but for --out, captions alone)"""
    model = reading_model()
    monkeypatch.setattr(frozen, "load_model", lambda spec, **where: model)
    for module in (frozen, setup):
        monkeypatch.setattr(module, "load_image_text_model", lambda spec, **where: model)
    use_encoder(monkeypatch, model)
    files, extra = write_job(tmp_path / "job")
    decoder = tiny_decoder("gpt2")
    decoder.module.save_pretrained(tmp_path / "decoder")
    decoder.tokenizer.save_pretrained(tmp_path / "decoder")
    how = ("--decoder", str(tmp_path / "decoder"), "--score-model", "none", "--method", "none")
    more = ("--epochs", "20", "--lr", "2e-2", "--select", "loss", "--set", "bridge.every=1")
    more += ("--dtype", "float32")  # so few weights learn less in a processor's half precision
    return words(files, tmp_path / "run", *how, *more, "--vocabulary", "captions"), extra


def said_of_blue(out: Path) -> list[str]:
    """Of the validation images that only captions tell of."""
    captions = {row["path"]: row["caption"] for row in read_run(out).records()}
    return [caption for name, caption in captions.items() if int(name[4:6]) % 3 == 2]


@pytest.mark.parametrize("is_given", [True, False], ids=["with the captions", "without"])
def test_words_of_captions_alone_are_said_of_images(
    is_given: bool, job: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, extra = job
    assert main([*command, *(["--extra-text", str(extra)] if is_given else [])]) == 0
    said = said_of_blue(tmp_path / "run")
    share = np.mean(["w20" in caption.split() for caption in said])
    assert (share > 0.5) if is_given else (share == 0)


def test_words_of_captions_alone_are_not_lost_by_a_tune_without_them(
    job: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, extra = job
    assert main([*command, "--extra-text", str(extra)]) == 0
    start, out = tmp_path / "run", tmp_path / "second"
    more = ["--epochs", "1", "--lr", "1e-9", "--start", str(start), "--out", str(out)]
    assert main([*command, *more]) == 0
    kept = [json.loads((run / "none" / "config.json").read_text())["decoder"]["tokens"]
            for run in (start, out)]  # fmt: skip
    assert kept[0] == kept[1]
    assert np.mean(["w20" in caption.split() for caption in said_of_blue(out)]) > 0.5


def test_other_captions_are_another_training(
    job: tuple[list[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, extra = job
    short = [*command, "--epochs", "1", "--captions-per-image", "1"]
    assert main([*short, "--extra-text", str(extra)]) == 0
    # a caption of each of 40 and of 20 images
    assert "5 updates in all, too few" in capsys.readouterr().err
    asked = json.loads((tmp_path / "run" / "none" / "tuning.json").read_text())
    assert (asked["extra_model"], asked["extra_noise"]) == ("lite", 0.5)
    (tmp_path / "run" / "none" / "run.json").unlink()
    capsys.readouterr()
    assert main([*short, "--extra-text", str(extra), "--extra-noise", "0"]) == 2
    assert "was started with extra-noise 0.5; now it is 0.0" in capsys.readouterr().err
    for text, said in (("[]", "extra.jsonl"), ('{"image_id": 1, "captions": [" "]}', "are empty")):
        extra.write_text(text)
        assert main([*short, "--extra-text", str(extra), "--out", str(tmp_path / "new")]) == 2
        assert said in capsys.readouterr().err
    reward = ("--objective", "cider", "--reward-model", "lite")
    assert main([*short, "--extra-text", str(extra), *reward]) == 2
    assert "--extra-text does not go with" in capsys.readouterr().err


def test_a_stopped_tune_with_other_captions_comes_to_the_same_weights(
    job: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, extra = job
    more = ("--epochs", "1", "--save-steps", "1", "--extra-text", str(extra))
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    assert main([*command, *more, "--out", str(whole)]) == 0
    with interrupted_after(5):
        assert main([*command, *more, "--out", str(out)]) == 130
    assert any((out / "none" / "checkpoints").glob("checkpoint-*"))
    assert main([*command, *more, "--out", str(out)]) == 0
    weights = [(run / "none" / "model.safetensors").read_bytes() for run in (whole, out)]
    assert weights[0] == weights[1]


@pytest.fixture
def learnt(monkeypatch: pytest.MonkeyPatch) -> list[setup.TrainingData]:
    """What each tune learns from."""
    kind, made = setup.TrainingData, list[setup.TrainingData]()

    def remember(*parts: Any) -> setup.TrainingData:
        made.append(kind(*parts))
        return made[-1]

    monkeypatch.setattr(setup, "TrainingData", remember)
    return made


def test_captions_alone_reward(
    job: tuple[list[str], Path], learnt: list[setup.TrainingData], tmp_path: Path
) -> None:
    command, extra = job
    short = [*command, "--epochs", "1", "--extra-text", str(extra)]
    assert main(short) == 0
    reward = ("--objective", "cider", "--samples", "2", "--start", str(tmp_path / "run"))
    assert main([*short, *reward, "--out", str(tmp_path / "rewarded")]) == 0
    assert [len(data.keys) for data in learnt] == [60, 60]
    assert isinstance(learnt[1].objective, SelfCritical)


@pytest.mark.parametrize(("labels", "rows"), [("w20,w0", 2), ("w30,w0", 1)])
def test_captions_alone_have_the_tags_that_they_name(
    labels: str, rows: int, job: tuple[list[str], Path], learnt: list[setup.TrainingData]
) -> None:
    command, extra = job
    tags = ("--prompt", "tags", "--tags", labels, "--epochs", "1")
    assert main([*command, "--extra-text", str(extra), *tags]) == 0
    (data,) = learnt
    assert data.tags is not None
    drawn = {tuple(row) for n in range(20) for row in data.tags[f"text of text {n}"]}
    assert () in drawn, "sometimes none"
    assert len(drawn) == rows
