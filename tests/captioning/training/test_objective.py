"""The reward of self-critical training, its gradient, and that it teaches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.captioning.little_job import toy_data
from tests.captioning.tiny import GRID, tiny_decoder

from captune.captioning.dataset import CaptionDataset
from captune.captioning.model import IGNORED, CaptionModel, batch
from captune.captioning.recipe import build_model
from captune.captioning.training.batches import TrainingData
from captune.captioning.training.step import CrossEntropy, SelfCritical, advantages_of, collate


def captioner_of(family: str = "gpt2", bridge: str = "cross-attention") -> CaptionModel:
    settings = {"every": 1, "width": 32, "heads": 2} if bridge == "cross-attention" else {}
    return build_model(
        tiny_decoder(family), GRID, bridge=bridge, method="lora", bridge_settings=settings
    )


def cider_data(images: int = 8, samples: int = 4) -> tuple[TrainingData, list[list[str]]]:
    """Toy data whose references are the toy captions."""
    data = toy_data(images)
    decoder = tiny_decoder("gpt2")
    texts = [decoder.decode(own) for own in data.rows]
    captioned = CaptionDataset([], [], list(data.keys), texts, Path(), "")
    objective = SelfCritical(captioned, data.rows, samples=samples, max_tokens=10)
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

    def step(objective: Any) -> None:
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
        step(plain)  # sampled captions have to earn something for a difference to be felt
    before = earned()
    for _ in range(25):
        step(data.objective)
    assert earned() > before * 1.2


def test_a_caption_that_breaks_off_earns_less() -> None:
    data, texts = cider_data(8)
    reward = data.objective._cider  # type: ignore[attr-defined]
    whole = texts[0][0]
    broken = whole.rpartition(" ")[0]
    assert reward.score([whole], [texts[0]])[0] > reward.score([broken], [texts[0]])[0]


def test_batches_hold_fewer_images_where_each_is_sampled_often() -> None:
    from captune.options import TuneOptions

    data, _ = cider_data(24, samples=4)
    batches = data.batches(TuneOptions(batch_size=32))
    assert {len(examples) for examples in batches.of_epoch(0)} == {8}
    assert all(len(example.captions) == 1 for examples in batches for example in examples)
