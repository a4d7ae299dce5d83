"""Kendall's tau between metrics, and when a user is told that they disagree."""

from typing import Any

import numpy as np
import pytest

from captune.runs.records import json_value
from captune.scoring.rank import agreement, comparable
from captune.statistics import kendall_tau
from captune_metrics.scores import Scores


def scores(metric: str, values: Any, title: str = "") -> Scores:
    per_image = {f"{i}.jpg": float(value) for i, value in enumerate(values)}
    return Scores(metric, float(np.mean(values)), per_image, {}, title=title)


def test_every_two_metrics_are_compared() -> None:
    random = np.random.default_rng(0)
    x = random.random(60)
    y = x + random.normal(scale=0.1, size=60)
    found = agreement({
        "cider": scores("cider", x), "rouge_l": scores("rouge_l", y), "flat": scores("flat", x * 0),
    })  # fmt: skip
    assert [pair.metrics for pair in found.pairs] == [
        ("cider", "rouge_l"), ("cider", "flat"), ("rouge_l", "flat"),
    ]  # fmt: skip
    close, *flat = found.pairs
    assert (close.tau, close.interval) == kendall_tau(x, y)
    assert all(pair.tau is None and pair.interval is None for pair in flat)
    assert found.sentences == []
    summary = json_value(found)
    assert summary["images"] == 60
    assert summary["pairs"][0]["metrics"] == ("cider", "rouge_l")
    assert summary["pairs"][0]["interval"] == (close.interval or ())


def test_images_are_matched_by_id_and_not_by_place() -> None:
    first = Scores("a", 0, {"x": 1.0, "y": 2.0, "z": 3.0}, {})
    second = Scores("b", 0, {"z": 30.0, "x": 10.0, "y": 20.0}, {})
    assert agreement({"a": first, "b": second}).pairs[0].tau == pytest.approx(1.0)
    with pytest.raises(ValueError, match="each of the 3 images"):
        agreement({"a": first, "b": Scores("b", 0, {"x": 1.0}, {})})


@pytest.mark.parametrize(
    ("sign", "noise", "words"),
    [(1, 0.0, None), (1, 6.0, "differently: Kendall's tau 0."), (-1, 0.5, "against each other")],
)
def test_a_user_is_told_of_metrics_that_disagree(
    sign: int, noise: float, words: str | None
) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=200)
    y = sign * x + noise * random.normal(size=200)
    found = agreement({
        "cider": scores("cider", x, "CIDEr-D"), "clipscore": scores("clipscore", y, "CLIPScore"),
    })  # fmt: skip
    if words is None:
        assert found.sentences == []
    else:
        (sentence,) = found.sentences
        assert sentence.startswith("CIDEr-D and CLIPScore order these images ")
        assert words in sentence
        assert "95 % [" in sentence


def test_the_order_of_a_few_images_is_no_disagreement() -> None:
    x = np.arange(9.0)
    found = agreement({"a": scores("a", x), "b": scores("b", -x)})
    assert found.pairs[0].tau == pytest.approx(-1)
    assert found.sentences == []


def test_nothing_is_compared_with_less_than_two_metrics() -> None:
    assert agreement({}).pairs == []
    assert agreement({"a": scores("a", [1, 2])}).pairs == []


def test_smoothing_and_rounding_make_no_order() -> None:
    # two captions without a 4-gram of their references: both are 0 by definition
    assert comparable("bleu_4", np.array([1.9e-4, 2.3e-4, 0.2])).tolist() == [0, 0, 0.2]
    assert comparable("cider", np.array([1.9e-4, 0.1 + 0.2, 0.3])).tolist() == [1.9e-4, 0.3, 0.3]
