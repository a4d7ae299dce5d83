"""Token activation maps with causal denoising (Li et al., ICCV 2025, eq. 1-7).

For language models that read the image as tokens of their own. What the head makes of an image's
token for the word is where the word is activated; but words that stand before it activate, too. So
    A(w)      the positive part of head[w] . hidden[image tokens]                     (eq. 1)
    I(w)      the mean of A(v) over the texts' other tokens v before w, weighted by the positive
              part of head[w] . hidden[v]                                             (eq. 2, 4)
    map       the positive part of A - s I, with the s that brings s I nearest to A   (eq. 5)
and each place of it becomes the mean of its 3 x 3 neighbours in their order of size, weighted by a
Gaussian around the median whose width is their coefficient of variation (eq. 6, 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, on_patches
from captune.attribution.vlm_image import AnyModel, ImageReader, VLMReader
from captune.attribution.word_scores import WordTarget
from captune.errors import UserError

_WINDOW = 3


class TokenActivation(MapMethod):
    """One map; a word of several pieces has the mean of theirs."""

    name = "token-activation"
    no_against = "shows one word, less what it has in common with others; take --method occlusion"

    def layer_heads(self, captioner: AnyModel) -> list[LayerHead]:
        """One, of a model of transformers."""
        if not isinstance(captioner, VLMReader):
            raise UserError(
                "token-activation: is for models of transformers that read an image as tokens, such"
                " as Qwen-VL; take --method attention"
            )
        if not isinstance(captioner, ImageReader):
            _places(captioner.probed())
        return [LayerHead()]

    @torch.no_grad()
    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`; UserError where the image is read by cross-attention."""
        reader = captioned.reader
        assert reader is not None
        places = _places(reader)
        hidden = reader.hidden(captioned.ids)
        prompt = reader.prompts[0]
        text = torch.cat([prompt, torch.tensor(captioned.ids, device=prompt.device)])
        is_text = torch.ones(len(text), dtype=torch.bool, device=text.device)
        if reader.vlm.mark is not None:
            is_text = text != reader.vlm.mark
        before = len(hidden) - len(text) if len(hidden) > len(text) else 0  # of GIT's image
        weights, bias = reader.vlm.head_rows(text)
        scores = hidden @ weights.float().T  # [places, tokens of the text]
        if bias is not None:
            scores = scores + bias.float()
        scores = scores.clamp_min(0)
        found = []
        for target in targets:
            own = [
                _without_context(scores, places, text, is_text, len(prompt) + step, before)
                for step in target.steps
            ]
            found.append(torch.stack(own).mean(dim=0))
        return ranked_gaussian(on_patches(torch.stack(found), captioned))


def _places(reader: ImageReader) -> Tensor:
    places = reader.image_places()
    if places is None:
        raise UserError(
            f"token-activation: a {reader.vlm.family} reads the image by cross-attention and not as"
            " tokens; take --method occlusion"
        )
    return places


def _without_context(
    scores: Tensor, places: Tensor, text: Tensor, is_text: Tensor, place: int, before: int
) -> Tensor:
    """[image tokens] of the text's token at `place`, less what the tokens before it explain."""
    own = scores[places, place]
    others = (is_text[:place] & (text[:place] != text[place])).nonzero()[:, 0]
    if not len(others):
        return own
    relevance = scores[before + others, place]
    shared = scores[places][:, others] @ (relevance / relevance.sum().clamp_min(1e-9))
    scale = (own @ shared / (shared @ shared).clamp_min(1e-9)).clamp_min(0)
    return (own - scale * shared).clamp_min(0)


def ranked_gaussian(maps: Tensor) -> Tensor:
    """Maps [n, rows, columns] without the outliers of their neighbourhoods."""
    half = _WINDOW // 2
    if min(maps.shape[1:]) <= half:
        return maps
    wide = F.pad(maps[:, None], (half,) * 4, mode="reflect")
    near = F.unfold(wide, _WINDOW).sort(dim=1).values  # [n, 9, places]
    mean = near.mean(dim=1, keepdim=True)
    spread = near.std(dim=1, correction=0, keepdim=True) / mean.clamp_min(1e-12)
    rank = torch.arange(_WINDOW**2, dtype=maps.dtype)[None, :, None] - _WINDOW**2 // 2
    weights = torch.exp(-(rank**2) / (2 * spread.clamp_min(1e-6) ** 2))
    found = (near * weights).sum(dim=1) / weights.sum(dim=1)
    return found.view_as(maps)


METHOD = TokenActivation()
