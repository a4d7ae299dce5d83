"""What a captioner is held against, by hand-made images and captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.caption_baselines import (
    consensus_captions,
    human_captions,
    nearest_captions,
    neighbours,
    pooled,
    tokenised,
    wording_of,
)

from captune.captioning.dataset import CaptionDataset
from captune.images import ImageFile
from captune.models.encoders import GridShape
from captune_metrics import CiderD, Corpus, DocumentFrequency


def images(captions: dict[str, list[str]]) -> CaptionDataset:
    ids = list(captions)
    found = [ImageFile(Path(f"{id}.jpg"), f"{id}.jpg") for id in ids]
    return CaptionDataset(ids, found, ids, list(captions.values()), Path())


TRAIN = images(
    {
        "a": ["A dog runs over the grass.", "A brown dog is running on grass.", "Dog!"],
        "b": ["a dog runs on the grass", "the dog plays", "an animal in a field"],
        "c": ["two men ride bicycles", "cyclists on a road", "a bicycle race"],
        "d": ["a child on a swing", "a girl swings", "the swing at the playground"],
    }
)
VAL = images({"x": ["a dog on grass", "a running dog"], "y": ["a race", "men on bicycles"]})


def test_features_are_the_means_over_places_without_the_leading_tokens() -> None:
    class Grids:
        def grids_of(self, keys: list[str]) -> torch.Tensor:
            return torch.tensor([[[99.0, 99.0], [float(key), 2.0], [3.0, 4.0]] for key in keys])

    shape = GridShape(tokens=3, channels=2, rows=1, columns=2, leading=1)
    keys = [str(n) for n in range(70)]  # more than are in memory at once
    found = pooled(Grids(), keys, shape)
    assert found.shape == (70, 2)
    assert found[5].tolist() == [4.0, 3.0]


def test_neighbours_are_those_with_the_highest_cosine_to_the_centred_features() -> None:
    train = np.array([[1, 9], [9, 1], [1, 8], [9, 2]], dtype=np.float32)
    found = neighbours(np.array([[2, 7], [7, 2]], dtype=np.float32), train, count=2)
    assert [set(row) for row in found.tolist()] == [{0, 2}, {1, 3}]
    # a part that all images share says nothing
    common = np.array([1000, 0], dtype=np.float32)
    shifted = neighbours(np.array([[1002, 7], [1007, 2]], dtype=np.float32), train + common, 2)
    assert shifted.tolist() == found.tolist()


def test_the_consensus_is_the_caption_with_the_highest_mean_against_the_others() -> None:
    near = np.array([[0, 1], [2, 3]])
    found = consensus_captions(VAL, TRAIN, near)
    score = CiderD(
        DocumentFrequency.counted(Corpus(dict.fromkeys(TRAIN.ids, ""), TRAIN.references))
    )
    for id, row in zip(VAL.ids, near.tolist(), strict=True):
        offered = [text for place in row for text in TRAIN.captions[place]]
        others = [[*offered[:i], *offered[i + 1 :]] for i in range(len(offered))]
        assert found[id] == offered[int(np.argmax(score.score(offered, others)))]
    assert nearest_captions(VAL, TRAIN, near)["y"] == "two men ride bicycles"


def test_a_human_is_held_against_the_others_only() -> None:
    own, others = human_captions(images({"x": ["one", "two", "three"], "y": ["alone"]}))
    assert own == {"x": "one"}
    assert others == {"x": ["two", "three"]}


def test_wording_counts_words_as_the_metrics_do() -> None:
    captions = {"x": "a dog runs over the grass", "y": "A dog runs over the grass .", "z": "new"}
    found = wording_of(captions, tokenised(TRAIN))
    assert found.copied == pytest.approx(2 / 3)
    assert found.distinct == pytest.approx(2 / 3)
    assert found.mean_words == pytest.approx(13 / 3)
    assert found.vocabulary == 7
