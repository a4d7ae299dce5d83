"""Attention times its gradient: where it made the word more probable (Chefer et al. 2021).

For a cross-attention layer with weights A and the gradient of the word's logit by them, a map is
    mean over heads of the positive part of (gradient x A)                      (eq. 5)
at the step that predicted the word. Over all layers it is the sum: the published rules with the
decoder's own attention left out. `relevance` takes that in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.methods import LayerHead, MapMethod, cross_attention_layers, on_patches
from captune.attribution.vlm_image import AnyModel
from captune.attribution.word_scores import WordTarget, logits_at, score_of_logits, word_targets
from captune.captioning.bridge import CrossAttentionLayer, in_rows
from captune.captioning.model import CaptionModel
from captune.captioning.tuning import prefix
from captune.errors import UserError


@dataclass(frozen=True)
class AttentionGradients:
    """What the rules read, of r pieces of words: one row of the pass a piece.

    cross: of each cross-attention layer, [r, n, tokens]. own: of each block's self-attention,
    [r, n, n]. Both are the mean over heads of the positive part of gradient x weights.
    behind: of each cross-attention layer, the block behind whose self-attention it stands.
    steps: [r], the one that predicted each piece. words: [r], which word it is of, from 0.
    """

    cross: dict[int, Tensor]
    own: dict[int, Tensor]
    behind: dict[int, int]
    steps: Tensor
    words: Tensor

    def of_words(self, values: Tensor) -> Tensor:
        """Maps of pieces [r, tokens] -> of words [words, tokens], the mean over their pieces."""
        count = int(self.words.max()) + 1
        total = values.new_zeros(count, values.shape[1]).index_add(0, self.words, values)
        return total / torch.bincount(self.words, minlength=count)[:, None]


class GradientAttention(MapMethod):
    """A word of several pieces has the mean of their maps."""

    name = "gradient-attention"

    def layer_heads(self, captioner: AnyModel) -> list[LayerHead]:
        """The sum of all layers, then each."""
        layers = cross_attention_layers(captioner, self.name)
        return [LayerHead(), *(LayerHead(layer) for layer in range(len(layers)))]

    def maps_of(
        self, captioned: CaptionedImage, layer_head: LayerHead, targets: Sequence[WordTarget]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        return _map(captioned, attention_gradients(captioned, targets), layer_head)

    def maps_of_each(
        self, captioned: CaptionedImage, layer_heads: Sequence[LayerHead], words: Sequence[int]
    ) -> dict[LayerHead, Tensor]:
        """Every layer from one pass and its gradients."""
        found = attention_gradients(captioned, word_targets(captioned, words))
        return {one: _map(captioned, found, one) for one in layer_heads}


def _map(captioned: CaptionedImage, found: AttentionGradients, layer_head: LayerHead) -> Tensor:
    rows = torch.arange(len(found.steps), device=found.steps.device)
    layers = [
        values[rows, found.steps]
        for layer, values in found.cross.items()
        if layer_head.layer in (layer, None)
    ]
    return on_patches(found.of_words(torch.stack(layers).sum(dim=0)), captioned)


def attention_gradients(
    captioned: CaptionedImage, targets: Sequence[WordTarget], *, self_attention: bool = False
) -> AttentionGradients:
    """One pass in which every piece of every word has a row, and the gradients of their logits."""
    pieces = [
        (number, WordTarget((step,), (id,), target.against))
        for number, target in enumerate(targets)
        for step, id in zip(target.steps, target.ids, strict=True)
    ]
    steps, model = [piece.steps for _, piece in pieces], captioned.model
    assert isinstance(model, CaptionModel)  # others have no `layer_heads`
    with torch.enable_grad():
        with capture_attention(model, self_attention=self_attention) as weights:
            logits = logits_at(captioned, captioned.grid, steps)
        pairs = zip(logits, pieces, strict=True)
        # the rows do not see each other: the gradient of the sum is that of each row's own score
        total = torch.stack([score_of_logits(own[None], piece) for own, (_, piece) in pairs]).sum()
        return AttentionGradients(
            _rule_5(total, weights.cross, weights.over_image),
            _rule_5(total, weights.own, weights.over_text),
            weights.behind,
            torch.tensor([captioned.before + step for (step,) in steps], device=logits.device),
            torch.tensor([number for number, _ in pieces], device=logits.device),
        )


def _rule_5(
    score: Tensor, weights: Mapping[int, Tensor], read: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Mean over heads of the positive part of gradient x weights: [r, n, t] of each."""
    if not weights:
        return {}
    # the last block's later positions have no way to the score
    gradients = torch.autograd.grad(
        score, list(weights.values()), retain_graph=True, materialize_grads=True
    )
    return {
        number: read((gradient * own).detach().float()).clamp_min(0).mean(dim=1)
        for (number, own), gradient in zip(weights.items(), gradients, strict=True)
    }


_NAME = "captune_captured"  # attribute of attention modules, and of attentions in registries


@dataclass
class CapturedAttention:
    """Of one pass with r rows of n positions: weights as they were used, and how to read them.

    cross: number of the cross-attention layer -> as `CrossAttentionLayer.attend` has them.
    own: number of the decoder's block -> self-attention, [r, heads, n, extra + n].
    behind: number of the cross-attention layer -> the block behind whose self-attention it stands.
    rows, tokens: r, and tokens of an image (behind which a bridge may add some).
    """

    cross: dict[int, Tensor] = field(default_factory=dict)
    own: dict[int, Tensor] = field(default_factory=dict)
    behind: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    tokens: int = 0

    def over_image(self, values: Tensor) -> Tensor:
        """Weights of a cross-attention layer, or their gradients -> [r, heads, n, tokens]."""
        return in_rows(values, self.rows, self.tokens)

    def over_text(self, values: Tensor) -> Tensor:
        """Weights of self-attention, or their gradients -> [r, heads, n, n]."""
        return values[..., -values.shape[-2] :]


@contextmanager
def capture_attention(
    captioner: CaptionModel, *, self_attention: bool = False
) -> Iterator[CapturedAttention]:
    """The weights of the pass that is made in the block, at every cross-attention layer.

    self_attention: of the decoder's own attention too, in all its blocks.
    Raises UserError for a decoder whose attention cannot be written out.
    """
    found = CapturedAttention()
    with ExitStack() as stack:
        embedding: nn.Module = captioner.decoder.module.get_input_embeddings()
        # else what stands before the first trained parameter has no gradient
        stack.enter_context(embedding.register_forward_hook(_as_leaf))
        for number, layer in enumerate(captioner.bridge.cross_attention_layers):
            # before the hooks of a tuning method, which change what the layer gives
            write_out = _writing_out(found, number)
            stack.enter_context(layer.register_forward_hook(write_out, prepend=True))
        if self_attention:
            stack.enter_context(_self_attention(captioner, found))
        yield found
        if self_attention and len(found.own) < len(captioner.parts.blocks):
            raise UserError(
                f"relevance: {type(captioner.decoder.module).__name__} has its own attention"
                " code, whose weights cannot be read; take --method gradient-attention"
            )


def _as_leaf(embedding: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output if output.requires_grad else output.detach().requires_grad_()


def _writing_out(found: CapturedAttention, number: int) -> Any:
    def write_out(layer: CrossAttentionLayer, args: tuple[Any, ...], output: Tensor) -> Tensor:
        hidden, keys, values, mask = args
        out, found.cross[number] = layer.attend(hidden, keys, values, mask)
        found.rows, found.tokens = len(hidden), keys.shape[2]
        found.behind[number] = len(found.own) - 1  # blocks run in their order
        return out

    return write_out


@contextmanager
def _self_attention(captioner: CaptionModel, found: CapturedAttention) -> Iterator[None]:
    """The decoder attends as its family writes it out, and keeps the weights."""
    model: Any = captioner.decoder.module
    blocks = {module: block for block, module in enumerate(captioner.parts.self_attentions)}

    def keep(module: nn.Module, weights: Tensor) -> None:
        found.own[blocks[module]] = weights

    before = model.config._attn_implementation
    for module in blocks:
        object.__setattr__(module, _NAME, keep)
    try:
        model.set_attn_implementation(_register(before))
        yield
    finally:
        model.set_attn_implementation(before)
        for module in blocks:
            object.__delattr__(module, _NAME)


def _register(implementation: str) -> str:
    """The name, in transformers' registries, of an attention that keeps its weights."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    how = prefix.prefix_kind(implementation)
    attend = {"beside": prefix.attention_beside(_keeping), "shared": _keeping_shared}.get(
        how, _keeping
    )
    name = f"{_NAME}_{how or 'plain'}"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    return name


def _keeping(module: nn.Module, *given: Any, **rest: Any) -> tuple[Tensor, Tensor]:
    """The attention that transformers writes out beside each model."""
    out, weights = prefix.eager(module, *given, **rest)
    getattr(module, _NAME)(module, weights)
    return out, weights


def _keeping_shared(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    """The same with one softmax over a trained prefix and the text."""
    own_keys, own_values = prefix.keys_and_values(module, len(query), key.dtype)
    if attention_mask is not None:
        attention_mask = F.pad(attention_mask, (own_keys.shape[2], 0), value=0.0)
    key, value = torch.cat([own_keys, key], dim=2), torch.cat([own_values, value], dim=2)
    return _keeping(module, query, key, value, attention_mask, **rest)


METHOD = GradientAttention()
