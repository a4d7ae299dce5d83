from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, DistributedType
from tests.captioning.little_job import toy_data
from tests.captioning.tiny import GRID, tiny_decoder

from captune.captioning.model import CaptionModel, build_model
from captune.captioning.training.state import complete_checkpoints
from captune.captioning.training.step import TrainingData
from captune.captioning.training.trainer import CaptionTrainer, TrainingHistory, are_worse, train
from captune.errors import UserError
from captune.options.tuning import TuneOptions
from captune.progress import Silent


def options(**changes: Any) -> TuneOptions:
    return TuneOptions(
        **{"epochs": 2, "batch_size": 12, "lr": 1e-2, "select": "loss", "device": "cpu", **changes}
    )


def captioner_of(method: str = "lora", family: str = "gpt2") -> CaptionModel:
    settings = {"width": 16, "heads": 2, "every": 1}
    return build_model(
        tiny_decoder(family),
        GRID,
        bridge="cross-attention",
        method=method,
        bridge_settings=settings,
    )


class Watched(Silent):
    def __init__(self) -> None:
        self.done = 0
        self.total = 0
        self.said: set[str] = set()

    @contextmanager
    def bar(self, what: str, total: int = 0) -> Any:
        self.total = total

        def advance(done: int, said: str = "", before: bool = False) -> None:
            self.done += done
            self.said.add(said)

        yield advance


def run(
    captioner: CaptionModel,
    data: TrainingData,
    folder: Path,
    asked: TuneOptions,
    scores: list[float] | None = None,
) -> tuple[TrainingHistory, Watched]:
    given = iter(scores or [])
    progress = Watched()
    history = train(
        captioner,
        data,
        asked,
        folder,
        score=lambda say: say("scoring") or {"loss": next(given, 1.0)},
        progress=progress,
    )
    return history, progress


@pytest.mark.parametrize(("method", "family"), [("lora", "gpt2"), ("prefix", "llama")])
def test_training_learns_and_touches_nothing_frozen(
    method: str, family: str, tmp_path: Path
) -> None:
    captioner = captioner_of(method, family)
    trained = {id(p) for p in captioner.trained().values()}
    frozen = {name: p.clone() for name, p in captioner.named_parameters() if id(p) not in trained}
    before = {name: p.clone() for name, p in captioner.trained().items()}
    history, bar = run(
        captioner, toy_data(), tmp_path, options(epochs=12), [1.0 / (n + 1) for n in range(12)]
    )
    losses = [loss for _, loss in history.losses]
    assert sum(losses[-6:]) / 6 < 0.7 * sum(losses[:3]) / 3
    assert all(
        torch.equal(frozen[name], dict(captioner.named_parameters())[name]) for name in frozen
    )
    assert all(p.grad is None for name, p in captioner.named_parameters() if name in frozen)
    assert not any(torch.equal(before[name], p) for name, p in captioner.trained().items())
    assert bar.done == bar.total == 12 * 24 * 3
    assert any(said.startswith("loss ") for said in bar.said)
    assert "scoring" in bar.said
    assert history.best_epoch == 12
    assert [epoch["epoch"] for epoch in history.epochs] == list(range(1, 13))


def test_the_best_epoch_is_put_back(tmp_path: Path) -> None:
    seen = []
    captioner = captioner_of()
    scores = iter([0.5, 0.2, 0.7])

    def score(say: object) -> dict[str, float]:
        seen.append({name: p.clone() for name, p in captioner.trained().items()})
        return {"loss": next(scores)}

    history = train(captioner, toy_data(), options(epochs=3), tmp_path, score=score)
    assert history.best_epoch == 2
    assert all(torch.equal(p, seen[1][name]) for name, p in captioner.trained().items())
    steps = [int(epoch["step"]) for epoch in history.epochs]
    assert list(complete_checkpoints(tmp_path)) == [steps[1], steps[2]]
    names = {path.name for path in (tmp_path / f"checkpoint-{steps[2]}").iterdir()}
    assert "training_args.bin" not in names
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names
    assert not (tmp_path / ".unfinished" / f"checkpoint-{steps[2]}").exists()


def test_patience(tmp_path: Path) -> None:
    asked = options(epochs=9, patience=2)
    scores = [0.5, 0.4, 0.6, 0.6, 0.1]
    history, _ = run(captioner_of("none"), toy_data(), tmp_path, asked, scores)
    assert history.stopped_early
    assert len(history.epochs) == 4
    assert history.best_epoch == 2
    # the same command after a kill in the very end trains no further
    again, bar = run(captioner_of("none"), toy_data(), tmp_path, asked, [0.0])
    assert (again.epochs, again.best_epoch) == (history.epochs, 2)
    assert bar.done == 0


def test_worse_epochs_end_it_by_a_paired_test(tmp_path: Path) -> None:
    """Each image loses a little, which no mean over so different images would tell."""
    images = np.arange(40) / 10
    chance = np.random.default_rng(0)
    worse = [0.0, 0.3, 0.28, 0.15, 0.9]
    given = iter([list(images + gain + 0.05 * chance.random(40)) for gain in worse])

    def score(say: object) -> dict[str, Any]:
        each = next(given)
        return {"loss": 1.0, "cider": float(np.mean(each)), "each": each}

    asked = options(epochs=5, select="cider", stop_when_worse=True)
    history = train(captioner_of("none"), toy_data(), asked, tmp_path, score=score)
    assert history.best_epoch == 2
    assert len(history.epochs) in (3, 4)
    assert history.stopped_early
    assert set(history.epochs[0]) >= {"loss", "cider"}
    assert "each" not in history.epochs[0]
    # and it stays so
    again = train(captioner_of("none"), toy_data(), asked, tmp_path, score=score)
    assert again.epochs == history.epochs


def test_epochs_that_differ_by_chance_are_not_worse() -> None:
    chance = np.random.default_rng(0)
    best, *later = chance.random((4, 200))
    assert not are_worse(later, best + 0.01)
    assert not are_worse([best], best)
    assert are_worse(later, best + 0.2)


def test_a_loss_that_is_no_number_stops_it(tmp_path: Path) -> None:
    captioner = captioner_of()
    with torch.no_grad():
        next(iter(captioner.trained().values())).fill_(math.nan)
    with pytest.raises(UserError, match=r"the loss is nan after 1 of .* lower --lr"):
        run(captioner, toy_data(), tmp_path, options(save_steps=1))
    assert complete_checkpoints(tmp_path) == {}


FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Full(torch.autograd.Function):
    """A backward pass for which memory does not suffice once it has made some gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError(FULL)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_batch_that_does_not_fit_is_learnt_in_pieces_for_the_same_updates(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = options(epochs=2, batch_size=24, accumulate=2)
    whole, pieces = captioner_of("adapter"), captioner_of("adapter")
    before = {name: weights.clone() for name, weights in whole.trained().items()}
    run(whole, toy_data(), tmp_path / "whole", asked)
    projected, sizes = pieces.bridge.project, []

    def project(grids: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(grids))
        if len(grids) > 3 and where == "forward":
            raise torch.OutOfMemoryError(FULL)
        states = projected(grids, *rest)
        if len(grids) > 3:  # the last layers, and what is tuned, have their gradients then
            states.values[0] = Full.apply(states.values[0])
        return states

    monkeypatch.setattr(pieces.bridge, "project", project)
    _, bar = run(pieces, toy_data(), tmp_path / "pieces", asked)
    for name, weights in whole.trained().items():
        moved, other = weights - before[name], pieces.trained()[name] - before[name]
        assert (moved - other).norm() <= 0.01 * moved.norm(), name
    assert sizes[:4] == [8, 4, 2, 2]
    assert set(sizes[2:]) == {2}
    assert bar.done == bar.total
    said = [one.message for one in caplog.records if "out of memory" in one.message]
    assert said == [
        f"out of memory: going on with batches of {n}, several to each update" for n in (4, 2)
    ]


def test_out_of_memory_with_one_image_says_what_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = captioner_of()

    def full(*inputs: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(captioner, "forward", full)
    with pytest.raises(UserError, match="not enough memory for a batch of one; take a smaller"):
        run(captioner, toy_data(), tmp_path, options(batch_size=7, accumulate=2))


def test_several_processes_do_not_halve_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captioner = captioner_of()

    def full(*inputs: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError(FULL)

    def begun(*inputs: Any, **named: Any) -> None:
        monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.MULTI_CPU)

    monkeypatch.setattr(captioner, "forward", full)
    monkeypatch.setattr(CaptionTrainer, "on_epoch_begin", begun)
    with pytest.raises(UserError, match="with batches of 7; take a smaller --batch-size and a"):
        run(captioner, toy_data(), tmp_path, options(batch_size=7))


def test_accumulated_batches_are_one_update(tmp_path: Path) -> None:
    asked = options(epochs=2, batch_size=6, accumulate=5, label_smoothing=0.1)
    history, bar = run(captioner_of("adapter"), toy_data(), tmp_path, asked)
    assert history.epochs[-1]["step"] == 2 * math.ceil(12 / 5)
    assert bar.done == bar.total


def test_the_frozen_decoder_drops_nothing_out(tmp_path: Path) -> None:
    """GPT-2's own dropout stays off while it is trained around; the method's is on."""
    captioner = captioner_of()
    modes = []

    def look(module: Any, args: Any) -> None:
        modes.append((module.training, captioner.bridge.training))

    captioner.language_model.base_model.h[0].attn.register_forward_pre_hook(look)
    run(captioner, toy_data(), tmp_path, options(epochs=1))
    assert set(modes) == {(False, True)}
