from __future__ import annotations

import numpy as np
import pytest

from captune.attribution.faithful.measure import (
    CENTRE,
    DELETION,
    INSERTION,
    POINTING,
    RANDOM,
    MapId,
    MeasuredWord,
    Measurements,
)
from captune.attribution.methods import LayerHead
from captune_metrics.resampling import bootstrap

MAP = MapId("attention", LayerHead(3, 1))


def measurements_of(images: int = 20, seed: int = 0) -> Measurements:
    """Two seen words an image and one that is not; the map is better than random by 0.3 of gain."""
    chance = np.random.default_rng(seed)
    measurements = Measurements()
    for image in range(images):
        for part, gain in (("nouns", 4.0), ("verbs", 1.0), ("nouns", 0.01)):
            word = measurements.add_word(MeasuredWord(image, part, part, None, gain))
            noise = chance.normal(0, 0.05)
            for name, fraction in ((MAP, 0.8), (RANDOM, 0.5)):
                measurements.put(name, INSERTION, word, gain * (fraction + noise))
                measurements.put(name, DELETION, word, gain * (1 - fraction + noise))
            measurements.put(MAP, POINTING, word, float(image % 2))
            measurements.put(CENTRE, POINTING, word, 0.0)
    return measurements


def test_figures_are_shares_of_the_gain_of_seen_words() -> None:
    measurements = measurements_of()
    found = measurements.estimate(MAP, INSERTION)
    assert found is not None
    assert (found.images, found.words) == (20, 40)
    assert found.value == pytest.approx(0.8, abs=0.05)
    assert found.interval.low < found.value < found.interval.high
    total = sum(
        measurements.value(MAP, INSERTION, n) or 0
        for n, w in enumerate(measurements.words)
        if w.has_gain
    )
    assert found.value == pytest.approx(total / 100)


def test_pointing_counts_unseen_words_too_and_is_a_mean() -> None:
    found = measurements_of().estimate(MAP, POINTING)
    assert found is not None
    assert found.words == 60
    assert found.value == pytest.approx(0.5)
    alone = bootstrap([[float(image % 2)] for image in range(20)], resamples=10_000)
    assert found.interval == pytest.approx(alone, abs=0.02)


def test_differences_say_better_whichever_way_is_better() -> None:
    measurements = measurements_of()
    for measure in (INSERTION, DELETION):
        found = measurements.difference(MAP, RANDOM, measure)
        assert found is not None
        assert found.difference == pytest.approx(0.3)
        assert found.verdict == "better"
        back = measurements.difference(RANDOM, MAP, measure)
        assert back is not None
        assert back.verdict == "worse"
        assert back.difference == pytest.approx(-0.3)
    same = measurements.difference(MAP, MAP, INSERTION)
    assert same is not None
    assert same.verdict == "not told apart"


def test_only_some_words() -> None:
    measurements = measurements_of()
    verbs = measurements.estimate(MAP, INSERTION, lambda word: word.part == "verbs")
    assert verbs is not None
    assert verbs.words == 20
    assert measurements.estimate(MAP, INSERTION, lambda word: word.part == "none") is None


def test_of_a_few_images_nothing_is_said() -> None:
    assert measurements_of(4).estimate(MAP, INSERTION) is None
    assert measurements_of(4).difference(MAP, RANDOM, INSERTION) is None


def test_maps_on_fewer_images_are_compared_on_those() -> None:
    measurements = measurements_of()
    other = MapId("occlusion")
    for number, word in enumerate(measurements.words):
        if word.image < 8:
            measurements.put(other, INSERTION, number, word.gain)
    found = measurements.difference(other, RANDOM, INSERTION)
    assert found is not None
    figure = measurements.estimate(RANDOM, INSERTION, beside=other)
    assert figure is not None
    assert figure.images == 8
    assert found.difference == pytest.approx(1 - figure.value)


def test_mean_curves_are_of_all_words_by_their_gain() -> None:
    measurements = Measurements()
    measurements.add_curve(MAP, INSERTION, [0, 0.5, 1], [0.0, 1.0, 4.0], 4.0)
    measurements.add_curve(MAP, INSERTION, [0, 0.5, 1], [0.0, 1.0, 1.0], 1.0)
    assert measurements.curve(MAP, INSERTION) == ([0, 0.5, 1], [0, 0.4, 1])
    assert measurements.curve(MAP, DELETION) is None
    assert measurements.curve(RANDOM, INSERTION) is None


def test_names() -> None:
    assert str(MAP) == "attention, layer 3, head 1"
    assert str(RANDOM) == "random"
    assert str(MapId("gradient-attention", LayerHead(None, "mean"))) == (
        "gradient-attention, all layers, mean"
    )
    assert measurements_of().names() == [MAP, RANDOM, CENTRE]
    assert measurements_of().measures(MAP) == [INSERTION, DELETION, POINTING]
