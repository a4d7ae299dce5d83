from __future__ import annotations

import numpy as np
import pytest

from captune.attribution.measure import (
    CENTRE,
    DELETION,
    INSERTION,
    POINTING,
    RANDOM,
    MapName,
    Tally,
    Word,
)
from captune.attribution.methods import Choice
from captune.statistics import bootstrap_mean

MAP = MapName("attention", Choice(3, 1))


def tally_of(images: int = 20, seed: int = 0) -> Tally:
    """Two seen words an image and one that is not; the map is better than random by 0.3 of gain."""
    chance = np.random.default_rng(seed)
    tally = Tally()
    for image in range(images):
        for part, gain in (("nouns", 4.0), ("verbs", 1.0), ("nouns", 0.01)):
            word = tally.add_word(Word(image, part, part, None, gain))
            noise = chance.normal(0, 0.05)
            for name, share in ((MAP, 0.8), (RANDOM, 0.5)):
                tally.put(name, INSERTION, word, gain * (share + noise))
                tally.put(name, DELETION, word, gain * (1 - share + noise))
            tally.put(MAP, POINTING, word, float(image % 2))
            tally.put(CENTRE, POINTING, word, 0.0)
    return tally


def test_figures_are_shares_of_the_gain_of_seen_words() -> None:
    tally = tally_of()
    found = tally.figure(MAP, INSERTION)
    assert found is not None
    assert (found.images, found.words) == (20, 40)
    assert found.value == pytest.approx(0.8, abs=0.05)
    assert found.interval.low < found.value < found.interval.high
    total = sum(tally.value(MAP, INSERTION, n) or 0 for n, w in enumerate(tally.words) if w.seen)
    assert found.value == pytest.approx(total / 100)


def test_pointing_counts_unseen_words_too_and_is_a_mean() -> None:
    found = tally_of().figure(MAP, POINTING)
    assert found is not None
    assert found.words == 60
    assert found.value == pytest.approx(0.5)
    alone = bootstrap_mean([float(image % 2) for image in range(20)], resamples=10_000)
    assert found.interval == pytest.approx(alone, abs=0.02)


def test_differences_say_better_whichever_way_is_better() -> None:
    tally = tally_of()
    for measure in (INSERTION, DELETION):
        found = tally.difference(MAP, RANDOM, measure)
        assert found is not None
        assert found.value == pytest.approx(0.3)
        assert found.verdict == "better"
        back = tally.difference(RANDOM, MAP, measure)
        assert back is not None
        assert back.verdict == "worse"
        assert back.value == pytest.approx(-0.3)
    same = tally.difference(MAP, MAP, INSERTION)
    assert same is not None
    assert same.verdict == "not told apart"


def test_only_some_words() -> None:
    tally = tally_of()
    verbs = tally.figure(MAP, INSERTION, lambda word: word.part == "verbs")
    assert verbs is not None
    assert verbs.words == 20
    assert tally.figure(MAP, INSERTION, lambda word: word.part == "none") is None


def test_of_a_few_images_nothing_is_said() -> None:
    assert tally_of(4).figure(MAP, INSERTION) is None
    assert tally_of(4).difference(MAP, RANDOM, INSERTION) is None


def test_maps_on_fewer_images_are_compared_on_those() -> None:
    tally = tally_of()
    other = MapName("occlusion")
    for number, word in enumerate(tally.words):
        if word.image < 8:
            tally.put(other, INSERTION, number, word.gain)
    found = tally.difference(other, RANDOM, INSERTION)
    assert found is not None
    figure = tally.figure_beside(RANDOM, other, INSERTION)
    assert figure is not None
    assert figure.images == 8
    assert found.value == pytest.approx(1 - figure.value)


def test_mean_curves_are_of_all_words_by_their_gain() -> None:
    tally = Tally()
    tally.add_curve(MAP, INSERTION, [0, 0.5, 1], [0.0, 1.0, 4.0], 4.0)
    tally.add_curve(MAP, INSERTION, [0, 0.5, 1], [0.0, 1.0, 1.0], 1.0)
    assert tally.curve(MAP, INSERTION) == ([0, 0.5, 1], [0, 0.4, 1])
    assert tally.curve(MAP, DELETION) is None
    assert tally.curve(RANDOM, INSERTION) is None


def test_names() -> None:
    assert str(MAP) == "attention, layer 3, head 1"
    assert str(RANDOM) == "random"
    assert str(MapName("gradient-attention", Choice(None, "mean"))) == (
        "gradient-attention, all layers, mean"
    )
    assert tally_of().names(POINTING) == [MAP, CENTRE]
    assert tally_of().measures(MAP) == [INSERTION, DELETION, POINTING]
