"""A scripted image-text model for unit tests: it sees mean colours and reads colour words.

Its encoders count their calls, so a test can say what was computed and what came from a cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from captune.models.encoders import ImageEncoder, ImageTextModel, SimilarityScale, TextEncoder

COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "white": (1.0, 1.0, 1.0),
}


class _MeanColour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        return pixels.mean((2, 3))


class _ColourWords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.texts = 0

    def forward(self, colours: Tensor) -> Tensor:
        self.texts += len(colours)
        return colours


def _read(texts: Sequence[str]) -> dict[str, Tensor]:
    rows = []
    for text in texts:
        found = [vector for word, vector in COLOURS.items() if word in text]
        # a text without a colour is grey, and a little of every text is, as with real models
        rows.append(np.sum([*found, (0.1, 0.1, 0.1)], axis=0))
    return {"colours": torch.tensor(np.array(rows), dtype=torch.float32)}


def _pixels(image: Image.Image) -> Tensor:
    array = np.asarray(image.resize((8, 8)), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)


def colour_model(activation: str = "softmax") -> ImageTextModel:
    """A model that tells colours; `activation` as in SimilarityScale."""
    cpu, dtype = torch.device("cpu"), torch.float32
    bias = -5.0 if activation == "sigmoid" else 0.0
    return ImageTextModel(
        spec="colours",
        weights_id="c0" * 32,
        licence="Apache-2.0",
        image=ImageEncoder(_MeanColour(), _pixels, "resize-8", "c0" * 32, 3, cpu, dtype),
        text=TextEncoder(_ColourWords(), _read, "c0" * 32 + "+words", 3, cpu, dtype),
        scoring=SimilarityScale(10.0, bias, activation),  # type: ignore[arg-type]
    )


def use_colour_model(monkeypatch: pytest.MonkeyPatch) -> ImageTextModel:
    """Let every command load it."""
    import captune.jobs.embed
    import captune.jobs.prompts
    import captune.models.load
    import captune.zeroshot.classifier

    model = colour_model()
    for module, name in (
        (captune.zeroshot.classifier, "load_image_text_model"),
        (captune.jobs.prompts, "load_image_text_model"),
        (captune.jobs.embed, "load_model"),
        (captune.models.load, "load_image_text_model"),
    ):
        monkeypatch.setattr(module, name, lambda spec, **where: model)
    return model
