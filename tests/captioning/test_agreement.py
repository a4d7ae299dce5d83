"""Whether people agree with a caption, and the chance of it that is fitted."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captune.captioning.agreement import (
    agreed_with,
    chance_of,
    features_of,
    fit_agreement,
    read_agreement,
    require_agreement,
)
from captune.captioning.checkpoint import write_beside
from captune.captioning.settings import AGREEMENT
from captune.errors import UserError
from captune.runs.records import Candidate, CaptionWord

PEOPLE = [
    "a brown dog runs on the wet beach",
    "a dog runs along the beach",
    "the brown dog runs on the sand",
]


def test_people_agree_with_what_is_as_close_as_a_typical_person() -> None:
    captions = {
        "as a person": "a brown dog runs on the beach",
        "word for word": PEOPLE[1],
        "another thing": "two men play chess in a park",
        "nothing": "",
        "alone": "a brown dog runs on the beach",
    }
    references = {**dict.fromkeys(captions, PEOPLE), "alone": PEOPLE[:1]}
    assert agreed_with(captions, references) == {
        "as a person": True,
        "word for word": True,
        "another thing": False,
        "nothing": False,
    }


def test_where_people_have_nothing_in_common_a_caption_needs_words_of_theirs() -> None:
    apart = ["a dog runs", "two men play chess", "snow lies upon mountains"]
    assert agreed_with({"x": "red cars wait"}, {"x": apart}) == {"x": False}
    assert agreed_with({"x": "a dog runs with two men"}, {"x": apart}) == {"x": True}


def data(images: int, *, told: float = 2.0) -> tuple[dict[str, list[float]], Any, Any]:
    """Features, captions, references: people agree with a chance that the first feature decides."""
    random = np.random.default_rng(5)
    known = random.normal(size=images)
    agreed = random.random(images) < 1 / (1 + np.exp(1 - told * known))
    ids = [f"image {i}" for i in range(images)]
    return (
        {id: [1.0, x, -x / 3, 7.0] for id, x in zip(ids, known.tolist(), strict=True)},
        {id: PEOPLE[0] if good else "two men" for id, good in zip(ids, agreed, strict=True)},
        dict.fromkeys(ids, PEOPLE),
    )


def test_the_chances_hold_on_images_that_they_were_not_fitted_on() -> None:
    features, captions, references = data(600)
    found = fit_agreement(features, captions, references, beam=5)
    assert found is not None
    assert (found.beam, found.reliability.images) == (5, 600)
    assert sum(one.count for one in found.reliability.bins) == 600
    assert found.brier < 0.8 * found.brier_of_rate
    assert found.reliability.ece < 2 * found.reliability.ece_floor
    assert found.ece_interval.low < found.ece_interval.high
    fresh, written, people = data(600)
    chances = np.array([chance_of(found, row) for row in fresh.values()])
    assert ((chances >= 0) & (chances <= 1)).all()
    agreed = np.array(list(agreed_with(written, people).values()))
    assert chances[agreed].mean() > 0.2 + chances[~agreed].mean()
    assert chances.mean() == pytest.approx(agreed.mean(), abs=1e-3)


def test_few_images_and_images_of_one_kind_fit_nothing() -> None:
    assert fit_agreement(*data(99), beam=1) is None
    features, captions, references = data(200)
    assert fit_agreement(features, dict.fromkeys(captions, PEOPLE[0]), references, beam=1) is None
    assert fit_agreement(features, captions, dict.fromkeys(captions, PEOPLE[:1]), beam=1) is None


def test_features() -> None:
    words = [CaptionWord("a", -0.25), CaptionWord("dog", -2.0)]
    assert features_of(words, -0.9) == [1.0, -0.9, -2.0, 2.0]
    assert features_of([], -3.0) == [1.0, -3.0, 0.0, 0.0]
    chosen = Candidate("a dog", 0.0, -0.9, match=0.4)
    assert features_of(words, -0.9, chosen)[:5] == [1.0, -0.9, -2.0, 2.0, 0.4]
    assert np.isnan(features_of(words, -0.9, chosen)[5])


def test_what_captions_were_chosen_by_is_a_second_opinion() -> None:
    features, captions, references = data(600, told=0.0)
    agreed = agreed_with(captions, references)
    noise = np.random.default_rng(1)
    by_match = {
        id: [*own, float(agreed[id]) + 0.5 * noise.normal(), math.nan]
        for id, own in features.items()
    }
    alone = fit_agreement(features, captions, references, beam=5)
    found = fit_agreement(by_match, captions, references, beam=5)
    assert alone is not None
    assert found is not None
    assert alone.chosen is None
    assert found.chosen is not None
    assert found.weights == alone.weights
    assert found.chosen.match > 1
    assert found.chosen.neighbours == 0
    assert found.brier < 0.8 * alone.brier
    known = next(iter(by_match.values()))
    # a caption that was not chosen, and one of which `match` was not asked, are judged without it
    assert chance_of(found, known[:4]) == pytest.approx(chance_of(alone, known[:4]))
    assert chance_of(found, [*known[:4], math.nan, 0.3]) == chance_of(found, known[:4])
    assert chance_of(found, [*known[:4], 2.0, math.nan]) > chance_of(
        found, [*known[:4], -1.0, math.nan]
    )


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_agreement(tmp_path) is None
    with pytest.raises(UserError, match=r"nothing was fitted .* 100 validation images or more"):
        require_agreement(tmp_path)
    found = fit_agreement(*data(200), beam=1)
    assert found is not None
    write_beside(tmp_path / AGREEMENT, found)
    assert read_agreement(tmp_path) == require_agreement(tmp_path) == found


def test_a_file_of_another_make_is_refused(tmp_path: Path) -> None:
    found = fit_agreement(*data(200), beam=1)
    assert found is not None
    write_beside(tmp_path / AGREEMENT, found)
    path = tmp_path / AGREEMENT
    about = json.loads(path.read_text())
    for wrong, said in (
        ({"schema": 2}, r"agreement.json was written with schema 2, this captune reads 1"),
        ({"weights": {"constant": 1}}, r"agreement.json is not .* has no mean_log_probability"),
        ({"weights": {**about["weights"], "words": "x"}}, r"weights.words: expected a number"),
    ):
        path.write_text(json.dumps({**about, **wrong}))
        with pytest.raises(UserError, match=said):
            read_agreement(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=AGREEMENT):
        read_agreement(tmp_path)
