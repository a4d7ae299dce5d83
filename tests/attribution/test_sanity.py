from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from tests.attribution.planted import bright_subject, planted_captioner
from tests.captioning.caption_job import image_model

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.faithful.sanity import (
    SanityChecks,
    Stage,
    bridge_parts,
    cascading_randomization,
    correlations,
    entropies,
    shifted,
)
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.images import ImageFile


def test_correlations_are_spearman_s() -> None:
    chance = torch.Generator().manual_seed(0)
    first = torch.rand(4, 5, 6, generator=chance).round(decimals=1)  # with ties
    second = torch.rand(4, 5, 6, generator=chance).round(decimals=1)
    pairs = zip(first, second, strict=True)
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]
    np.testing.assert_allclose(correlations(first, second), expected)
    np.testing.assert_allclose(correlations(first, first**3), 1)
    np.testing.assert_allclose(correlations(first, -first), -1)
    np.testing.assert_array_equal(correlations(first, torch.ones(4, 5, 6)), 0)


def test_entropy_is_one_for_the_uniform_and_nothing_for_a_point() -> None:
    maps = torch.zeros(4, 3, 3)
    maps[0] = 0.2
    maps[1, 1, 1] = 3
    maps[2, 0, :2] = 1
    np.testing.assert_allclose(entropies(maps), [1, 0, np.log(2) / np.log(9), 1])
    signed = maps[2:3].clone()
    signed[0, 2, 2] = -5
    np.testing.assert_allclose(entropies(signed), entropies(maps[2:3]))


def test_a_planted_model_passes_and_its_weights_come_back() -> None:
    captioner = planted_captioner()
    images = [bright_subject(captioner, *place) for place in ((0, 0), (2, 4), (5, 1))]
    method = MAP_METHODS.get("attention")

    def maps_of(captioned: CaptionedImage) -> torch.Tensor:
        return method.maps(captioned, LayerHead(0, "mean"), range(3))

    before = {name: value.clone() for name, value in captioner.bridge.state_dict().items()}
    true = [maps_of(captioned) for captioned in images]
    stages = cascading_randomization(captioner, images, maps_of)
    assert [stage.randomised for stage in stages] == ["layer 0"]
    assert abs(stages[-1].correlation) < 0.5
    after = captioner.bridge.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(torch.equal(maps_of(s), m) for s, m in zip(images, true, strict=True))
    assert float(np.concatenate([entropies(m) for m in true]).max()) < 0.1


def test_a_map_of_the_image_alone_is_found_out() -> None:
    captioner = planted_captioner()
    images = [bright_subject(captioner, 1, 1)]

    def brightness(captioned: CaptionedImage) -> torch.Tensor:
        return captioned.grid[0, :, 1].view(1, 6, 6)

    stages = cascading_randomization(captioner, images, brightness)
    assert stages[-1].correlation == pytest.approx(1)
    said = SanityChecks(stages, 0.99, 0.3).sentences
    assert "hardly depends" in said[0]
    assert "almost the same everywhere" in said[1]
    assert "does not stay the same" in said[2]
    good = SanityChecks([Stage("layer 0", 0.1)], 0.5, 0.95).sentences
    assert good[2].startswith("the map stays the same")
    assert "depends on what the bridge learnt" in good[0]


def test_weights_come_back_after_an_error() -> None:
    captioner = planted_captioner()
    captioned = bright_subject(captioner, 1, 1)
    before = {name: value.clone() for name, value in captioner.bridge.state_dict().items()}
    calls = []

    def broken(captioned: CaptionedImage) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("oh")
        return torch.rand(1, 2, 2)

    with pytest.raises(RuntimeError, match="oh"):
        cascading_randomization(captioner, [captioned], broken)
    after = captioner.bridge.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_parts_of_the_bridge_are_each_parameter_once() -> None:
    captioner = planted_captioner()
    parts = bridge_parts(captioner.bridge)
    counted = [id(parameter) for _, parameters in parts for parameter in parameters]
    assert sorted(counted) == sorted(map(id, captioner.bridge.parameters()))


def test_a_image_moves_by_one_pixel(tmp_path: Path) -> None:
    captioner = planted_captioner()
    captioned = bright_subject(captioner, 1, 1)
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(noise).save(path)
    file = ImageFile(path, path.name)
    image = dataclasses.replace(captioned, image=file, encoder=image_model())
    still = shifted(image, 0)
    moved = shifted(image, 3)  # a whole place of its 3 x 3 grid
    assert still.words == captioned.words
    places = still.grid[0, 1:].view(3, 3, -1)
    torch.testing.assert_close(moved.grid[0, 1:].view(3, 3, -1)[1:, 1:], places[:-1, :-1])
