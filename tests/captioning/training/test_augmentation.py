from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from tests.captioning.caption_job import image_model, write_images
from tests.captioning.training.test_data import LENGTHS

from captune.captioning.dataset import CaptionDataset
from captune.captioning.training.batches import (
    Batches,
    BatchItem,
    MirroredViews,
    check_mirroring,
    drawn_views,
    mirrorable,
)
from captune.captioning.training.step import CrossEntropy, TrainingData, collate
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import open_grids
from captune.features.pipeline import Encoding
from captune.images import find_images
from captune.models.mirrored import mirrored


def captioned(*captions: list[str]) -> CaptionDataset:
    names = [str(n) for n in range(len(captions))]
    return CaptionDataset(names, [], names, list(captions), Path())


def test_captions_that_name_a_side_keep_their_images() -> None:
    data = captioned(
        ["a dog runs", "the dog looks LEFT"],
        ["a man with rights eats leftovers"],
        ["the right-hand man"],
        ["the leftmost of two cats"],
        ["a bright light", "an upright piano"],
    )
    assert mirrorable(data) == [1, 4]


def test_what_it_costs_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    encoder = image_model().image
    data = captioned(["a dog"], ["a left hand"], ["a cat"])
    assert check_mirroring(data, 5, encoder, None, said.append) == [0, 2]
    assert said[0].startswith(
        "--augment mirror: 2 of 3 training images are encoded and cached twice, as they are and"
        " mirrored: 0.0 MB more; the captions of 1 name left or right"
    )
    with pytest.raises(UserError, match="each of the training images has a caption that names"):
        check_mirroring(captioned(["turn right"]), 1, encoder, None, said.append)
    with (
        FeatureCache(tmp_path, limit_bytes=1800) as cache,
        pytest.raises(UserError, match="the patch grids of 7 images take"),
    ):
        check_mirroring(data, 5, encoder, cache, said.append)


def test_the_second_view_is_that_of_the_mirrored_image(tmp_path: Path) -> None:
    """Encoded once each, under a key of its own; a batch has each image in the view drawn."""
    images = find_images([str(write_images(tmp_path / "images", 4))]).images
    flipped = tmp_path / "flipped"
    flipped.mkdir()
    for image in images:
        with Image.open(image.path) as opened:
            ImageOps.mirror(opened).save(flipped / image.name)
    encoder = image_model().image
    assert mirrored(encoder).require_patches().preprocessing_id != "whole-9"
    with FeatureCache(tmp_path / "features") as cache:
        how, told = Encoding(cache, 2, 1), {"on_skip": lambda skipped: None}
        plain = open_grids(images, encoder, how, **told)
        second = open_grids(images, mirrored(encoder), how, **told)
        expected = open_grids(find_images([str(flipped)]).images, encoder, how, **told)
        keys = [plain.keys[image.name] for image in images]
        wanted = [expected.keys[image.name] for image in images]
        assert torch.equal(second.grids_of(keys), expected.grids_of(wanted))
        assert not torch.equal(second.grids_of(keys), plain.grids_of(keys))
        for drawn in ([False, True, False, True], [True] * 4, [False] * 4, [True, False] * 2):
            found = drawn_views(plain, MirroredViews(range(4), second), keys, drawn)
            both = torch.stack([plain.grids_of(keys), second.grids_of(keys)])
            assert torch.equal(found, both[[int(one) for one in drawn], range(4)])
        data = TrainingData(
            keys,
            [[[5, 0]]] * 4,
            plain,
            CrossEntropy(),
            mirrored=MirroredViews([0, 1, 2, 3], second),
        )
        items = [BatchItem(2, (0,), mirrored=True), BatchItem(1, (0,))]
        batch = collate(data, items, start=0, pad=1)
        assert torch.equal(batch["grids"][0], second.grids_of(keys[2:3])[0])
        assert torch.equal(batch["grids"][1], plain.grids_of(keys[1:2])[0])


def test_an_epoch_draws_views_by_seed_and_number_only() -> None:
    some = range(0, 200, 2)

    def views(seed: int, epoch: int) -> dict[int, bool]:
        batches = Batches(LENGTHS, captions=32, per_image=2, mirrored=some, seed=seed)
        return {e.image: e.mirrored for batch in batches.of_epoch(epoch) for e in batch}

    assert views(1, 3) == views(1, 3)
    assert views(1, 3) != views(1, 4)
    assert views(1, 3) != views(2, 3)
    assert not any(views(1, 3)[image] for image in range(1, 200, 2))
    assert 30 < sum(views(1, 3).values()) < 70
    # which captions and which batches there are is as without
    plain = Batches(LENGTHS, captions=32, per_image=2, seed=1).of_epoch(3)
    both = Batches(LENGTHS, captions=32, per_image=2, mirrored=some, seed=1).of_epoch(3)
    assert [[(e.image, e.captions) for e in batch] for batch in plain] == [
        [(e.image, e.captions) for e in batch] for batch in both
    ]
