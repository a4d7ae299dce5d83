"""patch-similarity: near the text of the word are the patches that show it, and their likes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from tests.attribution.woken import captioned, woken
from tests.captioning.caption_job import image_model
from tests.captioning.tiny import GRID
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.faithful.leaderboard import compared_maps
from captune.attribution.methods import MAP_METHODS, LayerHead
from captune.attribution.word_scores import word_targets
from captune.captioning.model import CaptionModel
from captune.errors import UserError
from captune.models.encoders import ImageTextModel, TextEncoder

MEANT = {"w20": 0, "w31": 1, "a": 2}


class Texts:
    """A text is the direction of the word that it ends in; what is not known is all of them."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.read = list(texts)
        directions = torch.eye(3) * 5
        known = [MEANT.get(text.split()[-1]) for text in texts]
        return torch.stack([torch.ones(3) if n is None else directions[n] for n in known])


def embedding_encoder(texts: Any = None) -> ImageTextModel:
    """The embedding of a patch is its first three channels."""
    model = image_model()
    patches = dataclasses.replace(
        model.image.require_patches(), embed=lambda patches: patches[..., :3]
    )
    image = dataclasses.replace(model.image, patches=patches)
    return dataclasses.replace(model, image=image, text=cast("TextEncoder", texts))


def shown(captioner: CaptionModel, texts: Texts, **patches: int) -> CaptionedImage:
    """Each word's direction stands at one patch, nothing anywhere else."""
    one = captioned(captioner, encoder=embedding_encoder(texts))
    grid = torch.zeros_like(one.grid)
    for word, patch in patches.items():
        grid[0, GRID.leading + patch, MEANT[word]] = 2.0
    return dataclasses.replace(one, grid=grid)


def test_each_word_is_found_where_its_place_is() -> None:
    texts = Texts()
    captioner = woken()
    one = shown(captioner, texts, w20=0, w31=5)
    maps = MAP_METHODS.get("patch-similarity").maps(one, LayerHead(), [1, 3])
    assert texts.read[:2] == ["a photo of a w20", "a photo of a w31"]
    assert maps.flatten(1).argmax(dim=1).tolist() == [0, 5]
    torch.testing.assert_close(maps.mean((1, 2)), torch.zeros(2))
    # one place of cosine 1, smoothed: what is given to the neighbours is missing there
    assert 0.2 < float(maps[0, 0, 0] - maps[0, 2, 2]) < 1
    assert maps[0, 0, 1] > maps[0, 0, 2]


def test_a_word_against_another() -> None:
    captioner = woken()
    one = shown(captioner, Texts(), w20=0, w31=8)
    method = MAP_METHODS.get("patch-similarity")
    alone, other = method.maps(one, LayerHead(), [1, 3])
    (against,) = method.maps(one, LayerHead(), [1], against="w31")
    torch.testing.assert_close(against, alone - other)
    assert against[2, 2] < 0 < against[0, 0]


def test_words_are_known_by_their_tokens_too() -> None:
    captioner = woken()
    one = shown(captioner, Texts(), w20=0, w31=8)
    method = MAP_METHODS.get("patch-similarity")
    for words, against in (([1, 3], None), ([1], "w31")):
        targets = word_targets(one, words, against)
        torch.testing.assert_close(
            method.maps_of(one, LayerHead(), targets),
            method.maps(one, LayerHead(), words, against),
        )


def test_the_end_of_a_caption_is_nowhere() -> None:
    captioner = woken()
    one = shown(captioner, Texts(), w20=0)
    assert one.spans[-1].special
    maps = MAP_METHODS.get("patch-similarity").maps(one, LayerHead(), [1, len(one.words)])
    assert bool(maps[0].any())
    assert not maps[1].any()
    maps -= 1  # an ordinary tensor: its owner may change it


def test_marks_at_a_word_are_no_part_of_its_text() -> None:
    texts = Texts()
    captioner = woken()
    one = shown(captioner, texts, w20=0)
    words = [dataclasses.replace(span, word=f'"{span.word}",') for span in one.words]
    MAP_METHODS.get("patch-similarity").maps(
        dataclasses.replace(one, words=words), LayerHead(), [1]
    )
    assert texts.read[0] == "a photo of a w20"


def test_an_encoder_that_embeds_no_patches_or_texts_is_refused() -> None:
    captioner = woken()
    method = MAP_METHODS.get("patch-similarity")
    with pytest.raises(UserError, match="the image encoder is not known"):
        method.maps(captioned(captioner), LayerHead(), [0])
    for encoder, reason in (
        (None, "is not known"),
        (dataclasses.replace(embedding_encoder(Texts()), image=image_model().image), "no meaning"),
        (embedding_encoder(), "reads no text"),
    ):
        with pytest.raises(UserError, match=reason):
            method.check_encoder(encoder)
        assert "patch-similarity" not in compared_maps(captioner, encoder).methods
    assert "patch-similarity" in compared_maps(captioner, embedding_encoder(Texts())).methods
