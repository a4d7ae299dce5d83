from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from tests.metrics.conftest import Coco
from tests.metrics.test_cider import TABLE
from tests.metrics.tiny import IMAGES, Pairs, closest, corpus_of, split

from captune_metrics.cider_d import CiderD, cider, cider_of
from captune_metrics.frequency import DocumentFrequency


@settings(deadline=None, max_examples=80)
@given(pairs=IMAGES)
def test_the_reward_is_the_score_with_the_same_table(pairs: Pairs) -> None:
    candidates, references = split(pairs)
    reward = CiderD(TABLE, tokenize=list)
    indexed = reward.index(references)
    scores = cider_of(corpus_of(pairs), TABLE)
    from_index = reward.score(list(candidates.values()), [indexed[image] for image in candidates])
    as_they_are = reward.score(list(candidates.values()), list(references.values()))
    assert closest(scores.per_image, from_index.tolist()) < 1e-9
    assert as_they_are.tolist() == from_index.tolist()
    # nothing of a caption stays behind
    again = reward.score(list(candidates.values()), [indexed[image] for image in candidates])
    assert again.tolist() == from_index.tolist()


def test_captions_are_tokenised_as_in_cider() -> None:
    table = DocumentFrequency.shipped("coco-val2017")
    candidates = {"x": "A dog isn't here.", "y": "Two CATS (asleep)."}
    references = {"x": ["A dog is not here!", "The dog isn't"], "y": ["Two cats, asleep."]}
    reward = CiderD(table)
    indexed = reward.index(references)
    rewards = reward.score(list(candidates.values()), [indexed["x"], indexed["y"]])
    scores = cider(candidates, references, df=table)
    assert closest(scores.per_image, rewards.tolist()) < 1e-9
    assert rewards.dtype == np.float64


@pytest.mark.needs("shared")
def test_coco_is_rewarded_as_it_is_scored_and_fast(coco: Coco) -> None:
    table = DocumentFrequency.shipped("coco-val2017")
    images = coco.corpus.images[:1600]
    reward = CiderD(table)
    indexed = reward.index({image: coco.references[image] for image in images})
    expected = cider_of(coco.corpus, table).per_image
    seconds = []
    for start in range(0, len(images), 32):
        batch = images[start : start + 32]
        begun = time.process_time()
        rewards = reward.score(
            [coco.candidates[image] for image in batch], [indexed[image] for image in batch]
        )
        seconds.append(time.process_time() - begun)
        assert np.abs(rewards - [expected[image] for image in batch]).max() < 1e-9
    # the aim is 5 ms on a quiet machine; this catches a slower kind of algorithm, not a busy day
    assert sorted(seconds)[len(seconds) // 4] < 0.02


def test_an_empty_batch_has_no_rewards() -> None:
    assert CiderD(TABLE).score([], []).shape == (0,)
    assert CiderD(TABLE).index({}) == {}


def test_what_does_not_fit_together_is_refused() -> None:
    reward = CiderD(TABLE)
    with pytest.raises(ValueError, match="2 candidates, 1 sets"):
        reward.score(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="without references"):
        reward.score(["a"], [[]])
