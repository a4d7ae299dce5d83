"""Attention weighed by its gradient: where looking made the word likelier (Chefer et al. 2021).

For a looking layer with weights A and the gradient of the word's logit by them, a map is
    mean over heads of the positive part of (gradient x A)                      (eq. 5)
at the step that predicted the word. Over all layers it is the sum: the published rules with the
decoder's own attention left out. `relevance` takes that in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captune.attribution.methods import Choice, MapMethod, looking_layers, on_patches
from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target, logits_at, score_of_logits, targets_of
from captune.captioning.attention import CrossAttentionLayer, in_rows
from captune.captioning.model import Captioner
from captune.captioning.tuning import prefix
from captune.errors import UserError


@dataclass(frozen=True)
class Explained:
    """What the rules read, of r pieces of words: one row of the pass a piece.

    cross: of each looking layer, [r, n, tokens]. own: of each block's self-attention, [r, n, n].
    Both are the mean over heads of the positive part of gradient x weights.
    behind: of each looking layer, the block behind whose self-attention it stands.
    places: [r], the step that predicted each piece. words: [r], which word it is of, from 0.
    """

    cross: dict[int, Tensor]
    own: dict[int, Tensor]
    behind: dict[int, int]
    places: Tensor
    words: Tensor

    def of_words(self, values: Tensor) -> Tensor:
        """Maps of pieces [r, tokens] -> of words [words, tokens], the mean over their pieces."""
        count = int(self.words.max()) + 1
        total = values.new_zeros(count, values.shape[1]).index_add(0, self.words, values)
        return total / torch.bincount(self.words, minlength=count)[:, None]


class GradientAttention(MapMethod):
    """See the module's text. A word of several pieces has the mean of their maps."""

    name = "gradient-attention"

    def choices(self, captioner: Captioner) -> list[Choice]:
        """The sum of all layers, then each."""
        layers = looking_layers(captioner, self.name)
        return [Choice(), *(Choice(layer) for layer in range(len(layers)))]

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`."""
        return self._maps(explained(captioner, subject, targets), choice, subject)

    def maps_of_all(
        self, captioner: Captioner, subject: Subject, words: Sequence[int]
    ) -> dict[Choice, Tensor]:
        """Every layer from one pass and its gradients."""
        found = explained(captioner, subject, targets_of(captioner, subject, words))
        return {choice: self._maps(found, choice, subject) for choice in self.choices(captioner)}

    def _maps(self, found: Explained, choice: Choice, subject: Subject) -> Tensor:
        rows = torch.arange(len(found.places), device=found.places.device)
        layers = [
            values[rows, found.places]
            for layer, values in found.cross.items()
            if choice.layer in (layer, None)
        ]
        return on_patches(found.of_words(torch.stack(layers).sum(dim=0)), subject)


def explained(
    captioner: Captioner,
    subject: Subject,
    targets: Sequence[Target],
    *,
    self_attention: bool = False,
) -> Explained:
    """One pass in which every piece of every word has a row, and the gradients of their logits."""
    pieces = [
        (number, Target((place,), (id,), target.against))
        for number, target in enumerate(targets)
        for place, id in zip(target.places, target.ids, strict=True)
    ]
    steps = [piece.places for _, piece in pieces]
    with torch.enable_grad():
        with weighed(captioner, self_attention=self_attention) as weights:
            logits = logits_at(captioner, subject, subject.grid, steps)
        pairs = zip(logits, pieces, strict=True)
        # the rows do not see each other: the gradient of the sum is that of each row's own score
        total = torch.stack([score_of_logits(own[None], piece) for own, (_, piece) in pairs]).sum()
        return Explained(
            _rule_5(total, weights.cross, weights.over_image),
            _rule_5(total, weights.own, weights.over_text),
            weights.behind,
            torch.tensor([places[0] for places in steps], device=logits.device),
            torch.tensor([number for number, _ in pieces], device=logits.device),
        )


def _rule_5(
    score: Tensor, weights: Mapping[int, Tensor], read: Callable[[Tensor], Tensor]
) -> dict[int, Tensor]:
    """Mean over heads of the positive part of gradient x weights: [r, n, t] of each."""
    if not weights:
        return {}
    # the last block's later places have no way to the score
    gradients = torch.autograd.grad(
        score, list(weights.values()), retain_graph=True, materialize_grads=True
    )
    return {
        place: read((gradient * own).detach().float()).clamp_min(0).mean(dim=1)
        for (place, own), gradient in zip(weights.items(), gradients, strict=True)
    }


METHOD = GradientAttention()


_NAME = "captune_weighed"


@dataclass
class Weights:
    """Of one pass with r rows of n places: weights as they were used, and how to read them.

    cross: number of the looking layer -> as `CrossAttentionLayer.attend` has them.
    own: number of the decoder's block -> self-attention, [r, heads, n, extra + n].
    behind: number of the looking layer -> the block behind whose self-attention it stands.
    rows, tokens: r, and tokens of an image (behind which a bridge may add some).
    """

    cross: dict[int, Tensor] = field(default_factory=dict)
    own: dict[int, Tensor] = field(default_factory=dict)
    behind: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    tokens: int = 0

    def over_image(self, values: Tensor) -> Tensor:
        """Weights of a looking layer, or their gradients -> [r, heads, n, tokens]."""
        return in_rows(values, self.rows, self.tokens)

    def over_text(self, values: Tensor) -> Tensor:
        """Weights of self-attention, or their gradients -> [r, heads, n, n]."""
        return values[..., -values.shape[-2] :]


@contextmanager
def weighed(captioner: Captioner, *, self_attention: bool = False) -> Iterator[Weights]:
    """The weights of the pass that is made in the block, at every looking layer.

    self_attention: of the decoder's own attention too, in all its blocks.
    Raises UserError for a decoder whose attention cannot be written out.
    """
    found = Weights()
    with ExitStack() as stack:
        embedding: nn.Module = captioner.decoder.module.get_input_embeddings()
        # else what stands before the first trained parameter has no gradient
        stack.callback(embedding.register_forward_hook(_as_leaf).remove)
        for place, layer in enumerate(captioner.bridge.attending):
            stack.callback(layer.register_forward_hook(_writing_out(found, place)).remove)
        if self_attention:
            stack.enter_context(_self_attention(captioner, found))
        yield found
        if self_attention and len(found.own) < len(captioner.parts.blocks):
            raise UserError(
                f"relevance: {type(captioner.decoder.module).__name__} computes its attention in"
                " its own way, so its weights are not to be had; take --method gradient-attention"
            )


def _as_leaf(embedding: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output if output.requires_grad else output.detach().requires_grad_()


def _writing_out(found: Weights, place: int) -> Any:
    def write_out(layer: CrossAttentionLayer, args: tuple[Any, ...], output: Tensor) -> Tensor:
        hidden, keys, values, mask = args
        out, found.cross[place] = layer.attend(hidden, keys, values, mask)
        found.rows, found.tokens = len(hidden), keys.shape[2]
        found.behind[place] = len(found.own) - 1  # blocks run in their order
        return out

    return write_out


@contextmanager
def _self_attention(captioner: Captioner, found: Weights) -> Iterator[None]:
    """The decoder attends as its family writes it out, and keeps the weights."""
    model: Any = captioner.decoder.module
    places = {module: place for place, module in enumerate(captioner.parts.self_attentions)}

    def keep(module: nn.Module, weights: Tensor) -> None:
        found.own[places[module]] = weights

    before = model.config._attn_implementation
    for module in places:
        object.__setattr__(module, _NAME, keep)
    try:
        model.set_attn_implementation(_register(before))
        yield
    finally:
        model.set_attn_implementation(before)
        for module in places:
            object.__delattr__(module, _NAME)


def _register(implementation: str) -> str:
    """The name, in transformers' registries, of an attention that keeps its weights."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    how = prefix.kind_of(implementation)
    attend = {"beside": prefix.beside(_keeping), "shared": _keeping_shared}.get(how, _keeping)
    name = f"{_NAME}_{how or 'plain'}"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    return name


def _keeping(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor]:
    """The attention that transformers writes out beside each model."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    out, weights = eager(module, query, key, value, attention_mask, **rest)
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
