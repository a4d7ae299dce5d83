from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.captioning.little_job import ColourGrids, kinds_of, write_job
from tests.captioning.tiny import GRID, tiny_decoder

from captune.captioning.dataset import read_dataset, tokenise
from captune.captioning.model import CaptionModel, build_model
from captune.captioning.training import validation
from captune.captioning.training.step import CrossEntropy, TrainingData
from captune.captioning.training.trainer import train
from captune.captioning.training.validation import (
    Captioned,
    ValidationSet,
    validation_loss,
    write_captions,
)
from captune.images import find_images
from captune.models.decoders import Decoder
from captune.options.tuning import TuneOptions


class OneVector:
    """A grid as the original report had it: the image's vector, repeated."""

    def __init__(self, grids: Any) -> None:
        self._grids = grids

    def grids_of(self, keys: Any) -> torch.Tensor:
        grids = self._grids.grids_of(keys)
        return grids.mean(1, keepdim=True).expand_as(grids)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaptionModel, ValidationSet]:
    """A captioner that has learnt to tell its images apart."""
    images, train_file, val_file = write_job(tmp_path_factory.mktemp("job"), train=24, val=12)
    found = find_images([images])
    data, val = read_dataset(train_file, found), read_dataset(val_file, found)
    grids = ColourGrids(kinds_of(images))
    decoder = tiny_decoder("gpt2")
    captioner = build_model(
        decoder, GRID, bridge="cross-attention", method="lora",
        bridge_settings={"width": 16, "heads": 2, "every": 1},
    )  # fmt: skip
    left = iter(range(100, 0, -1))
    train(
        captioner,
        TrainingData(data.keys, tokenise(data, decoder, 20).rows, grids, CrossEntropy()),
        TuneOptions(epochs=25, batch_size=12, lr=2e-2, select="loss", device="cpu"),
        tmp_path_factory.mktemp("checkpoints"),
        score=lambda say: {"loss": next(left)},
    )
    return captioner, ValidationSet(val, tokenise(val, decoder, 20).rows, grids, max_tokens=20)


def test_a_captioner_that_looks(job: tuple[CaptionModel, ValidationSet]) -> None:
    captioner, val = job
    written = write_captions(captioner, val)
    assert written.captions.keys() == set(val.data.ids)
    finding = validation.image_dependence(captioner, val, written, seed=0)
    assert not finding.wrong, finding.sentence
    assert finding.figure > 0
    assert "with the right images" in finding.sentence


def test_the_full_stop_is_at_its_word(
    job: tuple[CaptionModel, ValidationSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "decode", lambda self, rows: ["a  dog ."] * len(rows))
    assert set(write_captions(*job).captions.values()) == {"a dog."}


def test_a_captioner_that_sees_nothing(job: tuple[CaptionModel, ValidationSet]) -> None:
    captioner, val = job
    flat = ValidationSet(val.data, val.rows, OneVector(ConstantGrids()), max_tokens=20)
    written = write_captions(captioner, flat)
    finding = validation.image_dependence(captioner, flat, written, seed=0)
    assert finding.wrong
    assert finding.sentence.startswith("the captions do not depend on the image: CIDEr is ")
    assert finding.sentence.endswith(f"no difference in any of {len(val.data)} images")


class ConstantGrids:
    def grids_of(self, keys: Any) -> torch.Tensor:
        return torch.ones(len(keys), GRID.tokens, GRID.channels)


def test_uniform_attention_is_found() -> None:
    captioner, val = build_model(
        tiny_decoder("llama"), GRID, bridge="cross-attention", method="none",
        bridge_settings={"width": 16, "heads": 2, "every": 1, "entry": False},
    ), _made_up()  # fmt: skip
    entropies = validation.attention_entropies(captioner, val)
    assert entropies.shape == (3, 2)
    assert (entropies <= 1 + 1e-6).all()
    assert validation.attention(captioner, val).figure < 1
    flat = validation.attention(captioner, ValidationSet(val.data, val.rows, OneVector(val.grids)))
    assert flat.figure == pytest.approx(1, abs=1e-5)
    assert flat.wrong
    assert flat.sentence.startswith("attention maps of this captioner show no place")


def _made_up() -> ValidationSet:
    from captune.captioning.dataset import CaptionDataset

    ids = ["1", "2", "3"]
    data = CaptionDataset(ids, [], ids, [["a"]] * 3, Path())
    images = [None] * 3
    object.__setattr__(data, "images", images)
    return ValidationSet(data, [[[5, 6, 7, 0]], [[5, 9, 0]], [[6, 0]]], RandomGrids())


class RandomGrids:
    def grids_of(self, keys: Any) -> torch.Tensor:
        made = [torch.Generator().manual_seed(int(key)) for key in keys]
        return torch.stack(
            [3 * torch.randn(GRID.tokens, GRID.channels, generator=one) for one in made]
        )


def test_repetition() -> None:
    assert validation.repeats(["a", "dog", "a", "dog", "a", "dog"])
    assert validation.repeats(["the", "the", "the", "end"])
    assert not validation.repeats(["a", "dog", "and", "a", "dog", "and", "a", "cat"])
    texts = {"1": "a dog runs", "2": "a a a a", "3": "a man", "4": "so on and"}
    written = Captioned(texts, {"1": True, "2": True, "3": True, "4": False})
    finding = validation.repetition(written)
    assert (finding.figure, finding.wrong) == (0.5, True)
    assert 'for example 2: "a a a a"' in finding.sentence
    assert finding.is_fatal
    silent = validation.repetition(Captioned({"1": "", "2": "a dog"}, {"1": True, "2": True}))
    assert silent.is_fatal
    assert "50.0 % of the captions are empty, repeat themselves or do not end" in silent.sentence
    fine = validation.repetition(Captioned({"1": "a dog"}, {"1": True}))
    assert not fine.is_fatal
    assert (fine.figure, fine.wrong) == (0.0, False)


def test_leak() -> None:
    finding = validation.leak(["a.jpg", "b.jpg"], 40)
    assert (finding.figure, finding.wrong) == (0.05, True)
    assert "2 of 40 validation images are among the training images" in finding.sentence
    assert not validation.leak([], 40).wrong


@pytest.mark.parametrize("count", [2, 3, 50])
def test_shuffled_gives_everyone_another(count: int) -> None:
    places = validation.deranged(count, random.Random(1))
    assert sorted(places) == list(range(count))
    assert all(place != own for own, place in enumerate(places))


def test_the_batch_that_memory_has_room_for_is_remembered(
    job: tuple[CaptionModel, ValidationSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, val = job
    sizes: list[int] = []
    real = model.logits_at_targets

    def small(**given: Any) -> Any:
        sizes.append(len(given["ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(**given)

    monkeypatch.setattr(model, "logits_at_targets", small)
    whole = validation_loss(model, val)
    assert max(sizes) > 2
    sizes.clear()
    assert validation_loss(model, val.first(range(len(val.data)))) == whole
    assert max(sizes) <= 2


def test_validation_loss_is_torch_s(job: tuple[CaptionModel, ValidationSet]) -> None:
    captioner, val = job
    total = count = 0.0
    for place, rows in enumerate(val.rows):
        one = ValidationSet(val.data.only([place]), [rows[:1]], val.grids)
        total += validation_loss(captioner, one) * len(rows[0])
        count += len(rows[0])
    assert validation_loss(captioner, val) == pytest.approx(total / count, abs=1e-5)
