"""Models whose truth is known: what the measures are tested on before they judge.

`Planted`: a scorer whose words depend on some patches and on nothing else.
`planted_captioner`: a captioner that looks at the bright patches only, and says a word because of
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tests.captioning.tiny import END, WORDS, tiny_decoder
from torch import Tensor

from captune.attribution.captioned_image import CaptionedImage, captioned_image
from captune.captioning.bridge.cross_attention import CrossAttention
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.settings import CrossAttentionConfig, NoneConfig
from captune.captioning.tuning.none import NoTuning
from captune.images import ImageFile
from captune.models.encoders import GridShape

SHAPE = GridShape(tokens=36, channels=4, rows=6, columns=6)
SAID = "w20"  # the word that the planted captioner says of what is bright
_FLOOR, _GAIN = -6.0, 5.0


@dataclass
class Planted:
    """A word's log-probability rises with the fraction of its own patches that are shown.

    own: [words, rows, columns], true for them. A word without patches is blind.
    """

    own: Tensor
    name: str = "planted"
    passes: int = 0

    @property
    def patches(self) -> int:
        return self.own[0].numel()

    @property
    def words(self) -> int:
        return len(self.own)

    def every(self, shown: Tensor) -> Tensor:
        self.passes += 1
        own = self.own.flatten(1).float()
        return _FLOOR + _GAIN * (shown.float() @ own.T) / own.sum(dim=1).clamp_min(1)

    def each(self, shown: Tensor, words: Tensor) -> Tensor:
        return self.every(shown).gather(1, words[:, None])[:, 0]


def squares(*corners: tuple[int, int], side: int = 2, rows: int = 9, columns: int = 9) -> Tensor:
    """[words, rows, columns]: a square of patches for each word."""
    own = torch.zeros(len(corners), rows, columns, dtype=torch.bool)
    for word, (top, left) in enumerate(corners):
        own[word, top : top + side, left : left + side] = True
    return own


def planted_captioner(family: str = "llama") -> CaptionModel:
    """Its queries are one constant, its keys are brightness, its values say SAID."""
    decoder = tiny_decoder(family)
    parts = find_parts(decoder.module)
    config = CrossAttentionConfig(width=8, heads=1, every=3, entry=False, bias=True)
    bridge = CrossAttention(config, SHAPE, parts)
    captioner = CaptionModel(decoder, bridge, NoTuning(NoneConfig()), SHAPE)
    said = decoder.module.get_output_embeddings().weight[WORDS.index(SAID)]
    with torch.no_grad():
        for layer in bridge.cross_attention_layers:
            for parameter in layer.parameters():
                parameter.zero_()
            layer.query.bias[0] = 1.0
            layer.key.weight[0, 0] = 60.0
            layer.value.weight[0, 0] = 1.0
            layer.out.weight[:, 0] = 10 * said / said.norm()
    return captioner


def bright_subject(
    captioner: CaptionModel, row: int, column: int, words: int = 3, side: int = 1
) -> CaptionedImage:
    """A dark image but for a square whose upper left patch is given; SAID `words` times."""
    grid = torch.zeros(1, SHAPE.tokens, SHAPE.channels)
    bright = torch.zeros(SHAPE.rows, SHAPE.columns)
    bright[row : row + side, column : column + side] = 1.0
    grid[0, :, 0] = bright.flatten()
    grid[0, :, 1:] = torch.randn(36, 3, generator=torch.Generator().manual_seed(row))
    ids = [WORDS.index(SAID)] * words + [END]
    return captioned_image(captioner, ImageFile(Path("bright.png"), "bright.png"), grid, ids)
