"""A killed training that goes on ends with the weights of the one that was never killed."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.captioning.little_job import toy_data
from tests.captioning.tiny import GRID, tiny_decoder
from tests.processes import ended, start

from captune.captioning.model import build_model
from captune.captioning.training import state
from captune.captioning.training.trainer import CaptionTrainer, train
from captune.errors import Stopped
from captune.options.tuning import TuneOptions
from captune.progress import Silent


class Slow(Silent):
    """Each step takes `pause_s` longer."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s

    def bar(self, what: str, total: int = 0) -> Any:
        return nullcontext(lambda done, said="", **_: time.sleep(self._pause_s))


class Killed(BaseException):
    pass


def go(
    folder: Path,
    *,
    pause_s: float = 0.0,
    save_steps: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, torch.Tensor]:
    """A training with everything that has a state: dropout, sampled captions, warm-up, averages."""
    torch.set_num_threads(1)
    captioner = build_model(
        tiny_decoder("gpt2"),
        GRID,
        bridge="cross-attention",
        method="lora",
        bridge_settings={"width": 16, "heads": 2, "every": 2, "dropout": 0.2},
        method_settings={"rank": 2, "dropout": 0.2},
    )
    options = TuneOptions(
        epochs=3, batch_size=6, captions_per_image="2", accumulate=2, lr=1e-2, warmup=0.3,
        select="loss", device="cpu", save_steps=save_steps,
    )  # fmt: skip
    scores = {"loss": 0.0}

    def score(say: object) -> dict[str, float]:
        time.sleep(pause_s)
        weights = next(iter(captioner.trained().values()))
        scores["loss"] = float(weights.detach().abs().sum())
        return scores

    train(
        captioner,
        toy_data(),
        options,
        folder,
        score=score,
        progress=Slow(pause_s),
        stop=stop,
    )
    return {name: p.detach().clone() for name, p in captioner.trained().items()}


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return go(tmp_path_factory.mktemp("whole"))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("after", [(5,), (1, 9, 13), (12, 24, 25)])
def test_killed_in_any_step(
    after: tuple[int, ...],
    never_killed: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = CaptionTrainer.compute_loss
    for steps in after:
        left = [steps]

        def dying(self: Any, *args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return kept(self, *args, **kwargs)

        monkeypatch.setattr(CaptionTrainer, "compute_loss", dying)
        try:
            ended = go(tmp_path)
        except Killed:
            continue
        assert same(ended, never_killed)
    monkeypatch.setattr(CaptionTrainer, "compute_loss", kept)
    assert same(go(tmp_path), never_killed)


@pytest.mark.parametrize("when", ["before the files are whole", "before the name", "after it"])
def test_killed_while_saving(
    when: str,
    never_killed: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, count = state.publish_checkpoint, [0]

    def dying(staged: Path, target: Path) -> None:
        count[0] += 1
        if count[0] != 4:
            return real(staged, target)
        if when == "before the files are whole":
            (staged / "optimizer.pt").write_bytes(b"PK half")
        elif when == "after it":
            real(staged, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(state, "publish_checkpoint", dying)
        with pytest.raises(Killed):
            go(tmp_path)
    assert same(go(tmp_path), never_killed)


def test_a_checkpoint_without_its_mark_or_a_file_is_passed_over(
    never_killed: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state, "prune", lambda folder, keep: None)
        go(tmp_path)
    steps = list(state.complete_checkpoints(tmp_path))
    (tmp_path / f"checkpoint-{steps[-1]}" / "complete.json").unlink()
    (tmp_path / f"checkpoint-{steps[-2]}" / "optimizer.pt").unlink()
    (tmp_path / f"checkpoint-{steps[-3]}" / "complete.json").write_text("{")
    assert list(state.complete_checkpoints(tmp_path)) == steps[:-3]
    assert same(go(tmp_path), never_killed)


@pytest.mark.parametrize("updates", [1, 4, 6, 11])
def test_stopped_after_any_update_it_keeps_a_checkpoint_and_goes_on(
    updates: int, never_killed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """4 is the end of an epoch; no checkpoint but that of the stop would be due so early."""
    done = [0]

    def stop() -> bool:
        done[0] += 1
        return done[0] >= updates

    with pytest.raises(Stopped, match=f"stopped after {updates} of 12 updates"):
        go(tmp_path, save_steps=1000, stop=stop)
    assert max(state.complete_checkpoints(tmp_path)) == updates
    assert same(go(tmp_path, save_steps=1000), never_killed)


def test_asked_to_stop_at_the_very_end_it_is_over(
    never_killed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    done = [0]

    def stop() -> bool:
        done[0] += 1
        return done[0] >= 12

    assert same(go(tmp_path, stop=stop), never_killed)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 here")
def test_kill_9(never_killed: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A process of its own, killed at moments drawn by chance, then left to end."""
    chance = random.Random(0)
    checkpoints = tmp_path / "checkpoints"
    for kill in range(2):
        process = start(go_slowly, tmp_path)
        wanted = max(state.complete_checkpoints(checkpoints), default=0) + 2
        deadline = time.monotonic() + 300
        while max(state.complete_checkpoints(checkpoints), default=0) < wanted:
            assert process.exitcode is None, "it came to its end before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        process.kill()
        assert ended(process) == -signal.SIGKILL, kill
    assert ended(start(go_slowly, tmp_path)) == 0
    assert same(load_file(tmp_path / "ended.safetensors"), never_killed)


def go_slowly(place: Path) -> None:
    """In a process of its own, with time to be killed in."""
    save_file(go(place / "checkpoints", pause_s=0.03), place / "ended.safetensors")
