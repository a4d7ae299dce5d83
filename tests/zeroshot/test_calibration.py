"""Calibration against hand-worked numbers, torch's own losses and optimiser, and simulation."""

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.special import softmax

from captune.zeroshot.calibration import (
    calibrate,
    ece_floor,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
    top_confidence,
)

Activation = Literal["softmax", "sigmoid"]


def drawn(images: int, labels: int, temperature: float, seed: int = 0):
    """Logits that are calibrated when divided by `temperature`, and truths drawn accordingly."""
    random = np.random.default_rng(seed)
    honest = random.normal(scale=2.0, size=(images, labels))
    chances = softmax(honest, axis=1).cumsum(axis=1)
    truth = (random.random((images, 1)) > chances).sum(axis=1).clip(max=labels - 1)
    return (honest * temperature).astype(np.float32), truth


def test_ece_of_five_images_worked_by_hand() -> None:
    # bins of width .2: (.2, .4] .4 wrong; (.4, .6] .6 right, .5 wrong; (.8, 1] .9 right, .95 wrong
    confidence = np.array([0.4, 0.6, 0.5, 0.9, 0.95])
    correct = np.array([False, True, False, True, False])
    bins = reliability_bins(confidence, correct, bins=5)
    assert [(b.count, b.correct) for b in bins] == [(1, 0), (2, 1), (2, 1)]
    assert [b.confidence for b in bins] == pytest.approx([0.4, 0.55, 0.925])
    expected = (1 * 0.4 + 2 * 0.05 + 2 * 0.425) / 5
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_ece_agrees_with_the_loop_of_guo_2017() -> None:
    random = np.random.default_rng(3)
    confidence, correct = random.random(997), random.random(997) < 0.6
    expected = 0.0
    boundaries = torch.linspace(0, 1, 16, dtype=torch.float64)
    scores, right = torch.tensor(confidence), torch.tensor(correct).double()
    for low, high in pairwise(boundaries):
        inside = scores.gt(low) & scores.le(high)
        if inside.any():
            gap = (scores[inside].mean() - right[inside].mean()).abs()
            expected += float(gap * inside.double().mean())
    bins = reliability_bins(confidence, correct)
    assert expected_calibration_error(bins) == pytest.approx(expected)


def test_the_rims_of_the_range_have_a_bin() -> None:
    bins = reliability_bins(np.array([0.0, 1.0]), np.array([False, True]))
    assert [(b.low, b.count) for b in bins] == [(0.0, 1), (pytest.approx(14 / 15), 1)]


def test_bins_of_equal_mass_hold_equally_many() -> None:
    random = np.random.default_rng(0)
    bins = reliability_bins(random.random(151) ** 3, random.random(151) < 0.5, equal="mass")
    assert {b.count for b in bins} == {10, 11}
    assert all(a.high <= b.low for a, b in pairwise(bins))
    few = reliability_bins(np.array([0.2, 0.7]), np.array([True, False]), equal="mass")
    assert [b.count for b in few] == [1, 1]


def test_likelihood_and_confidence_agree_with_torch() -> None:
    single, truth = drawn(50, 6, 3.0)
    logits = single.astype(np.float64)
    theirs, target = torch.tensor(logits), torch.tensor(truth)
    cross_entropy = torch.nn.functional.cross_entropy(theirs, target, reduction="none")
    assert negative_log_likelihood(logits, truth) == pytest.approx(cross_entropy.numpy(), abs=1e-12)
    yes = torch.nn.functional.one_hot(target, 6).double()
    binary = torch.nn.functional.binary_cross_entropy_with_logits(theirs, yes, reduction="none")
    assert negative_log_likelihood(logits, truth, "sigmoid") == pytest.approx(
        binary.sum(1).numpy(), abs=1e-12
    )
    assert top_confidence(logits) == pytest.approx(theirs.softmax(1).amax(1).numpy(), abs=1e-12)
    assert top_confidence(logits, "sigmoid") == pytest.approx(theirs.sigmoid().amax(1).numpy())
    assert negative_log_likelihood(single, truth) == pytest.approx(cross_entropy.numpy(), abs=1e-5)
    assert top_confidence(single) == pytest.approx(theirs.softmax(1).amax(1).numpy(), abs=1e-6)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[3e4, -3e4], [-3e4, 3e4]], np.float32)
    truth = np.array([0, 0])
    for activation in ("softmax", "sigmoid"):
        nll = negative_log_likelihood(logits, truth, activation)
        assert nll[0] == pytest.approx(0, abs=1e-6)
        assert nll[1] == pytest.approx(6e4)
        assert top_confidence(logits, activation) == pytest.approx([1, 1])


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 12.0])
def test_temperature_agrees_with_lbfgs(activation: Activation, temperature: float) -> None:
    logits, truth = drawn(400, 5, temperature)
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_t], max_iter=200, line_search_fn="strong_wolfe")
    theirs, target = torch.tensor(logits).double(), torch.tensor(truth)
    yes = torch.nn.functional.one_hot(target, 5).double()

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        scaled = theirs / log_t.exp()
        if activation == "softmax":
            loss = torch.nn.functional.cross_entropy(scaled, target)
        else:
            loss = 5 * torch.nn.functional.binary_cross_entropy_with_logits(scaled, yes)
        loss.backward()
        return loss

    for _ in range(5):
        optimiser.step(closure)
    assert fit_temperature(logits, truth, activation) == pytest.approx(
        float(log_t.detach().exp()), rel=2e-4
    )


def test_temperature_recovers_what_the_truth_was_drawn_from() -> None:
    logits, truth = drawn(20_000, 10, 4.0)
    assert fit_temperature(logits, truth) == pytest.approx(4.0, rel=0.03)


def test_a_temperature_that_cannot_be_fitted_stays_in_range() -> None:
    always_right = np.eye(4, dtype=np.float32)
    assert fit_temperature(always_right, np.arange(4)) == pytest.approx(0.01, rel=1e-2)
    always_wrong = fit_temperature(always_right, (np.arange(4) + 1) % 4)
    assert always_wrong == pytest.approx(100, rel=1e-2)
    assert fit_temperature(np.ones((3, 1), np.float32), np.zeros(3, np.intp)) == 1.0


def test_scaling_repairs_overconfidence_and_is_measured_on_other_images() -> None:
    logits, truth = drawn(3_000, 10, 5.0)
    asked: list[int] = []

    def score(rows):
        asked.append(len(rows))
        return logits[rows]

    found = calibrate(score, truth, rows_at_once=512)
    assert found is not None
    assert found.scaled is not None
    assert max(asked[:6]) <= 512
    assert found.temperature == pytest.approx(5.0, rel=0.1)
    assert found.raw.mean_confidence > found.raw.accuracy + 0.15
    assert found.raw.ece > 0.15
    assert found.scaled.ece < 2 * found.scaled.ece_floor
    assert found.scaled.nll < found.raw.nll
    assert found.scaled.accuracy == found.raw.accuracy
    in_sample = negative_log_likelihood(logits / found.temperature, truth).mean()
    assert found.scaled.nll > in_sample


def test_cross_fitting_does_not_flatter_noise() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(200, 10)).astype(np.float32)
    truth = random.integers(10, size=200)
    found = calibrate(lambda rows: logits[rows], truth)
    assert found is not None
    assert found.scaled is not None
    assert found.scaled.nll == pytest.approx(np.log(10), abs=0.05)


def test_few_images_get_no_temperature_and_none_get_nothing() -> None:
    logits, truth = drawn(6, 3, 1.0)
    found = calibrate(lambda rows: logits[rows], truth)
    assert found is not None
    assert (found.temperature, found.scaled, found.raw.images) == (None, None, 6)
    assert calibrate(lambda rows: logits[rows], truth[:0]) is None


def test_the_fit_is_the_same_from_a_sample_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, truth = drawn(6_000, 8, 3.0)
    whole = calibrate(lambda rows: logits[rows], truth)
    monkeypatch.setattr("captune.zeroshot.calibration.FIT_LOGITS", 16_000)
    sampled = calibrate(lambda rows: logits[rows], truth)
    assert whole is not None
    assert sampled is not None
    assert sampled.temperature == pytest.approx(whole.temperature, rel=0.1)
    assert sampled.temperature != whole.temperature
    assert sampled.raw == whole.raw


def test_floor_is_what_a_calibrated_model_shows() -> None:
    logits, truth = drawn(300, 10, 1.0, seed=5)
    floor = ece_floor(top_confidence(logits))
    errors = []
    for seed in range(60):
        logits, truth = drawn(300, 10, 1.0, seed=seed)
        bins = reliability_bins(top_confidence(logits), logits.argmax(1) == truth)
        errors.append(expected_calibration_error(bins))
    assert floor == pytest.approx(np.mean(errors), rel=0.15)
    assert ece_floor(np.ones(10)) == 0.0
