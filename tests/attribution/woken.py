"""Captioners of toy size whose bridge says something, and images of theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tests.captioning.caption_job import BRIDGES
from tests.captioning.tiny import END, GRID, WORDS, grids, tiny_decoder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from captune.attribution.captioned_image import CaptionedImage, captioned_image
from captune.attribution.word_scores import scores_of, word_targets
from captune.captioning.model import CaptionModel, build_model
from captune.images import ImageFile
from captune.models.decoders import Decoder
from captune.models.encoders import ImageTextModel

IMAGE = ImageFile(Path("image.png"), "image.png")
SAID = ["a", "w20", "on", "w31", "w7"]
KNOWN = [WORDS.index(word) if word in WORDS else WORDS.index("o") for word in SAID]


def woken(
    family: str = "llama",
    *,
    bridge: str = "cross-attention",
    method: str = "none",
    decoder: Decoder | None = None,
    seed: int = 0,
    **settings: Any,
) -> CaptionModel:
    """A captioner with random trained weights, in eval mode. settings: of the method."""
    captioner = build_model(
        decoder or tiny_decoder(family),
        GRID,
        bridge=bridge,
        method=method,
        bridge_settings=BRIDGES.get(bridge, BRIDGES["cross-attention"]),
        method_settings=settings,
    )
    with torch.no_grad():
        chance = torch.Generator().manual_seed(seed)
        for parameter in captioner.trained().values():
            parameter.add_(torch.randn(parameter.shape, generator=chance) * 0.3)
    return captioner.eval()


def captioned(
    captioner: CaptionModel,
    ids: list[int] | None = None,
    *,
    seed: int = 1,
    encoder: ImageTextModel | None = None,
) -> CaptionedImage:
    """An image of noise with a caption of five words and its end."""
    grid = grids(1, seed)
    if captioner.grid != GRID:
        shape = (1, captioner.grid.tokens, captioner.grid.channels)
        grid = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    ids = [*KNOWN, END] if ids is None else ids
    return captioned_image(captioner, IMAGE, grid, ids, encoder=encoder)


def word_log_probabilities(
    one: CaptionedImage,
    grids: torch.Tensor,
    words: Sequence[int] | None = None,
    against: str | None = None,
) -> torch.Tensor:
    """Of each word, or of each against another: [n, words]."""
    return scores_of(one, grids, word_targets(one, words, against))


def steps_of(one: CaptionedImage) -> list[tuple[int, ...]]:
    """Of every word, and the end: the steps at which its pieces were predicted."""
    return [span.steps for span in one.spans]


def spelling_decoder(family: str = "llama") -> Decoder:
    """A decoder that spells: byte-level pieces of a letter or two, the space before a word too."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=20, special_tokens=["<end>", "<pad>"], show_progress=False
    )
    words.train_from_iterator(["a dog on a red doorstep, a doodle and a cat"] * 9, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
    return dataclasses.replace(tiny_decoder(family), tokenizer=fast)
