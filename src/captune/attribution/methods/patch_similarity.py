"""Where the image encoder sees what a word means, whatever the captioner made of it.

For captioners whose encoder shares a space with texts, and whose single patches have a meaning
there, as those of lite: each patch is embedded as if it were an image of its own, smoothed, and
compared with the text of the word (class activation maps, Zhou et al. 2016, with text for a
classifier). A convolution's patch has seen its neighbours; the blur takes out what single patches
say by accident. No gradient, no pass of the language model. It shows where the thing is, not what
the captioner used: people's boxes judge the first, deletion and insertion the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.classes import patch_similarities, require_embed
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.word_scores import WordTarget
from captune.errors import UserError
from captune.models.encoders import ImageEncoder, ImageTextModel, PatchGrid, TextEncoder
from captune.zeroshot.prompts import DEFAULT_TEMPLATE

_MARKS = ".,;:!?\"'()"


class PatchSimilarity(MapMethod):
    """One map: it knows neither layers nor heads."""

    name = "patch-similarity"
    signed = True

    def check_encoder(self, encoder: ImageTextModel | None) -> None:
        """As `MapMethod.check_encoder`."""
        _require(encoder)

    def maps(
        self,
        captioned: CaptionedImage,
        layer_head: LayerHead,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """As `MapMethod.maps`; against: less how near the patches are to that word."""
        self.check(captioned.model, layer_head)
        spans = [captioned.spans[word] for word in words]
        names = ["" if span.special else span.word for span in spans]
        return _similarities(captioned, names, [against or ""] * len(names))

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`; of the other word a target knows one token only."""
        others = [[] if target.against is None else [target.against] for target in targets]
        decode = captioned.model.decoder.decode
        words = decode([list(target.ids) for target in targets])
        return _similarities(captioned, words, decode(others))


def _similarities(captioned: CaptionedImage, words: Sequence[str], others: Sequence[str]) -> Tensor:
    """Of each word less its other one; an empty word, as the caption's end is, is near nothing."""
    encoder, patch_grid, text = _require(captioned.encoder)
    bare = [word.strip().strip(_MARKS) for word in (*words, *others)]
    texts = F.normalize(text.encode([DEFAULT_TEMPLATE.format(word) for word in bare]), dim=-1)
    texts = texts * torch.tensor([bool(word) for word in bare])[:, None]

    def cosines(vectors: Tensor) -> Tensor:
        near = F.normalize(vectors.float(), dim=-1) @ texts.to(vectors.device).T
        return near[:, : len(words)] - near[:, len(words) :]

    return patch_similarities(patch_grid, captioned.grid[0].to(encoder.device), cosines)


def _require(model: ImageTextModel | None) -> tuple[ImageEncoder, PatchGrid, TextEncoder]:
    """What the method takes of an encoder. Raises UserError where it is not there."""
    if model is None:
        raise UserError(
            "patch-similarity: compares patches with words, and the image encoder is not known;"
            " give the captioned image its encoder, or take occlusion"
        )
    if model.text is None:
        raise UserError(
            "patch-similarity: this captioner's image encoder reads no text; take --method"
            " occlusion"
        )
    return model.image, require_embed(model.image), model.text


METHOD = PatchSimilarity()
