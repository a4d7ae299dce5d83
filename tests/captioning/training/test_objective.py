"""The reward of self-critical training, its gradient, and that it teaches."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.captioning.little_job import toy_data
from tests.captioning.tiny import GRID, tiny_decoder
from tests.colour_model import colour_model

from captune.captioning.model import IGNORED, CaptionModel, batch, build_model
from captune.captioning.training import step
from captune.captioning.training.step import (
    CrossEntropy,
    MatchReward,
    SelfCritical,
    TrainingData,
    advantages_of,
    collate,
)
from captune.errors import UserError
from captune.options.tuning import TuneOptions


def captioner_of(family: str = "gpt2", bridge: str = "cross-attention") -> CaptionModel:
    settings = {"every": 1, "width": 32, "heads": 2} if bridge == "cross-attention" else {}
    return build_model(
        tiny_decoder(family), GRID, bridge=bridge, method="lora", bridge_settings=settings
    )


def cider_data(
    images: int = 8, samples: int = 4, **more: Any
) -> tuple[TrainingData, list[list[str]]]:
    """Toy data whose references are the toy captions."""
    data = toy_data(images)
    decoder = tiny_decoder("gpt2")
    texts = [decoder.decode(own) for own in data.rows]
    objective = SelfCritical(texts, data.rows, samples=samples, max_tokens=10, **more)
    return TrainingData(data.keys, data.rows, data.grids, objective), texts


def collated(data: TrainingData, images: int) -> dict[str, Any]:
    from captune.captioning.training.batches import BatchItem

    return collate(data, [BatchItem(n, (0,)) for n in range(images)], start=0, pad=1)


def test_advantages_are_over_the_mean_of_the_others() -> None:
    found = advantages_of(torch.tensor([[1.0, 2.0, 6.0]]))
    torch.testing.assert_close(found, torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5]]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("bridge", ["cross-attention", "prefix"])
def test_samples_of_an_image_stand_together_and_end(family: str, bridge: str) -> None:
    captioner = captioner_of(family, bridge)
    torch.manual_seed(0)
    rows = captioner.sample(torch.randn(2, GRID.tokens, GRID.channels), samples=30, max_tokens=9)
    assert len(rows) == 60
    assert len({tuple(row) for row in rows}) > 50  # drawn, not the likeliest one again and again
    end = captioner.decoder.end_id
    assert all(end not in row[:-1] for row in rows)
    assert all(row[-1] == end or len(row) == 9 for row in rows)


def test_samples_follow_the_models_probabilities() -> None:
    captioner = captioner_of()
    grids = torch.randn(1, GRID.tokens, GRID.channels)
    start = captioner.decoder.start_id
    with torch.no_grad():
        expected = captioner.logits(
            grids, torch.tensor([[start]]), torch.ones(1, 1, dtype=torch.long)
        )[0, 0]
    torch.manual_seed(0)
    rows = captioner.sample(grids, samples=4000, max_tokens=1)
    drawn = torch.bincount(torch.tensor(rows).flatten(), minlength=len(expected)) / 4000
    assert (drawn - expected.softmax(0)).abs().max() < 0.03


def test_weights_weigh_each_captions_tokens() -> None:
    captioner = captioner_of("llama")
    ids, mask, targets = batch([[5, 6, 0], [7, 0], [8, 9, 10, 0], [4, 0]], start=0, pad=1)
    grids = torch.randn(2, GRID.tokens, GRID.channels)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    found = captioner(grids, ids, mask, targets, weights=weights)
    logits = captioner.logits(grids, ids, mask).log_softmax(dim=-1)
    by_hand = [
        -weights[row] * logits[row, place, targets[row, place]]
        for row in range(4)
        for place in range(targets.shape[1])
        if targets[row, place] != IGNORED
    ]
    torch.testing.assert_close(found, torch.stack(by_hand).mean())


def test_equal_weights_of_one_are_the_plain_loss() -> None:
    captioner = captioner_of()
    ids, mask, targets = batch([[5, 6, 0], [7, 0]], start=0, pad=1)
    grids = torch.randn(2, GRID.tokens, GRID.channels)
    plain = captioner(grids, ids, mask, targets)
    torch.testing.assert_close(captioner(grids, ids, mask, targets, weights=torch.ones(2)), plain)


def test_captions_earn_more_after_self_critical_steps() -> None:
    captioner, (data, texts) = captioner_of(), cider_data(8, samples=8)
    inputs = collated(data, 8)
    plain, optimiser = CrossEntropy(), torch.optim.AdamW(captioner.trained().values(), lr=1e-2)

    def update(objective: Any) -> None:
        loss: Any = objective.loss(captioner, captioner, inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def earned() -> float:
        torch.manual_seed(1)
        rows = captioner.sample(inputs["grids"], samples=16, max_tokens=10)
        reward = data.objective._cider  # type: ignore[attr-defined]
        references = [texts[n] for n in range(8) for _ in range(16)]
        return float(reward.score(captioner.decoder.decode(rows), references).mean())

    torch.manual_seed(0)
    for _ in range(12):
        update(plain)  # sampled captions have to earn something for a difference to be felt
    before = earned()
    for _ in range(25):
        update(data.objective)
    assert earned() > before * 1.2


def test_a_caption_that_breaks_off_earns_less() -> None:
    data, texts = cider_data(8)
    reward = data.objective._cider  # type: ignore[attr-defined]
    whole = texts[0][0]
    broken = whole.rpartition(" ")[0]
    assert reward.score([whole], [texts[0]])[0] > reward.score([broken], [texts[0]])[0]


def test_batches_hold_fewer_images_where_each_is_sampled_often() -> None:
    data, _ = cider_data(24, samples=4)
    batches = data.batches(TuneOptions(batch_size=32))
    assert {len(examples) for examples in batches.of_epoch(0)} == {8}
    assert all(len(example.captions) == 1 for examples in batches for example in examples)


def test_the_divergence_is_that_of_the_drawn_tokens() -> None:
    captioner = captioner_of("llama")
    ids, mask, targets = batch([[5, 6, 0], [7, 0], [8, 9, 10, 0], [4, 0]], start=0, pad=1)
    grids = torch.randn(2, GRID.tokens, GRID.channels)
    given = (grids, ids, mask, targets)
    logits, wanted = captioner.logits_at_targets(*given)
    own = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    plain = captioner(*given)
    torch.testing.assert_close(captioner(*given, reference=own, kl=5.0), plain)
    other = own + torch.linspace(-1, 1, len(own))
    ratio = (other - own).exp()
    by_hand = plain + 5 * (ratio - ratio.log() - 1).mean()
    torch.testing.assert_close(captioner(*given, reference=other, kl=5.0), by_hand)


def test_other_weights_hold_for_a_while() -> None:
    captioner = captioner_of()
    ids, mask, targets = batch([[5, 6, 0]], start=0, pad=1)
    given = (torch.randn(1, GRID.tokens, GRID.channels), ids, mask, targets)
    start = {name: one.detach().clone() for name, one in captioner.trained().items()}
    before = captioner(*given)
    with torch.no_grad():
        for parameter in captioner.trained().values():
            parameter.add_(0.1)
    moved = captioner(*given)
    with captioner.with_weights(start):
        torch.testing.assert_close(captioner(*given), before)
    torch.testing.assert_close(captioner(*given), moved)
    assert not torch.allclose(before, moved)


def test_a_divergence_that_counts_keeps_the_model_near_its_start() -> None:
    def moved(kl: float) -> float:
        """How far 20 updates go: the mean divergence from the start, over each next word."""
        torch.manual_seed(0)
        captioner, (data, _) = captioner_of(), cider_data(4, samples=4, kl=kl)
        inputs = collated(data, 4)
        optimiser = torch.optim.AdamW(captioner.trained().values(), lr=5e-3)
        data.objective.begin(captioner)
        given = [inputs[name] for name in ("grids", "ids", "mask")]
        before = captioner.logits(*given).log_softmax(-1).detach()
        torch.manual_seed(0)
        for _ in range(20):
            loss = data.objective.loss(captioner, captioner, inputs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        after = captioner.logits(*given).log_softmax(-1)
        return float((after.exp() * (after - before)).sum(-1).mean().detach())

    assert moved(kl=20.0) < moved(kl=0.0) / 3


def matched(share: float) -> MatchReward:
    return MatchReward(colour_model(), np.zeros((8, 3), np.float32), share)


def test_a_share_of_the_advantage_is_the_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    cosines = np.array([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]], dtype=np.float32)
    monkeypatch.setattr(step, "cosines_of", lambda model, vectors, texts: list(cosines))
    advantages = torch.tensor([[3.0, -3.0, 0.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    texts = ["", "", ""] * 2
    torch.testing.assert_close(matched(0.0).mixed(advantages, [0, 1], texts), advantages)
    found = matched(1.0).mixed(advantages, [0, 1], texts)
    assert found.std() == pytest.approx(advantages.std())
    assert found[0].tolist() == sorted(found[0].tolist())
    assert not found[1].any()
    half = matched(0.5).mixed(advantages, [0, 1], texts)
    torch.testing.assert_close(half, (advantages + found) / 2)


def test_the_other_models_reward_teaches_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        step,
        "cosines_of",
        lambda model, vectors, texts: [
            np.array([float("w33" in one.split()) for one in own]) for own in texts
        ],
    )
    # each reference says the words of its kind, and the other model likes one of the last kind
    captioner, (data, _) = captioner_of(), cider_data(8, samples=16, match=matched(1.0))
    inputs = collated(data, 8)
    optimiser = torch.optim.AdamW(captioner.trained().values(), lr=1e-2)

    def said() -> float:
        torch.manual_seed(1)
        rows = captioner.sample(inputs["grids"], samples=16, max_tokens=10)
        return float(np.mean(["w33" in text for text in captioner.decoder.decode(rows)]))

    def update(objective: Any) -> None:
        loss = objective.loss(captioner, captioner, inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    torch.manual_seed(0)
    for _ in range(12):
        update(CrossEntropy())
    before = said()
    for _ in range(25):
        update(data.objective)
    assert said() > before + 0.2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kl": 0.1}, "--kl is for --objective cider"),
        ({"reward_model": "clip"}, "--reward-model is for --objective cider"),
        ({"objective": "cider", "kl": -1.0}, "kl must be from 0 to 100, such as 0.04, not -1.0"),
        ({"objective": "cider", "reward_model": "lite"}, "is what --score-model judges by"),
        ({"reward_share": 1.0}, "reward-share must be from 0 to below 1"),
    ],
)
def test_options_of_the_reward(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TuneOptions(**how)
