"""Prefix tuning (Li and Liang 2021): trained keys and values that each text position looks at.

They stand in every block's self-attention and, unlike peft's, in the bridge's cross-attention too.

A prefix that shares the text's softmax takes its share from the first step on. In a trained
language model it is nearly all of it (scores of the text are far below zero in many heads, those
of a new prefix are near zero), so training would start from a destroyed model, and a gate on that
share divides by what is left of it: on SmolLM2 the probabilities were off by 0.05 in float32 and
0.93 in bfloat16. So the prefix has a softmax of its own, and its values start at zero:
    output = text part + prefix part
which is the untouched decoder at first in any precision (the parallel form of He et al. 2022).
`shared_softmax=True` is the plain prefix, as peft has it.

The same holds in the bridge: there a shared softmax gave the prefix a share of the attention that
should go to the image, and captions became worse than with no prefix at all.

Trained parameters, for L blocks with h key/value heads of size e:
    self-attention 2*m*h*e a block; cross-attention 2*m*w a layer of width w.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from captune.captioning.bridge import Bridge, ExtraKeys
from captune.captioning.decoder_parts import DecoderParts
from captune.captioning.settings import PrefixConfig
from captune.captioning.tuning import TuningMethod
from captune.errors import UserError

_NAME = "captune_prefix"


class Prefix(TuningMethod):
    """Trained keys and values in self-attention and in the bridge."""

    Config = PrefixConfig

    def __init__(self, config: PrefixConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList()
        self.cross = nn.ModuleList()
        self._attached: list[Any] = []

    def attach(self, model: nn.Module, parts: DecoderParts, bridge: Bridge) -> None:
        """Give each self-attention its prefix, and the model the attention that reads it."""
        config: Any = model.config
        name = _register(config._attn_implementation, shared=self.config.shared_softmax)
        for attention in parts.self_attentions:
            prefix = _keys(self.config, parts.key_value_heads, parts.head_dim)
            prefix.values.data *= self.config.shared_softmax
            self.blocks.append(prefix)
            # not as a submodule: the decoder stays as it was
            object.__setattr__(attention, _NAME, prefix)
        for layer in bridge.cross_attention_layers:
            # its output projection begins at zero, so the values need not: of values that are all
            # alike no key has a gradient
            extra = _keys(self.config, layer.heads, layer.width // layer.heads)
            self.cross.append(extra)
            object.__setattr__(layer, "extra", extra)
        self._attached = [model, parts, bridge, config._attn_implementation]
        model.set_attn_implementation(name)  # type: ignore[operator]
        self.to(next(model.parameters()).device)
        if not self._is_reached(model):
            self.detach()
            raise UserError(
                f"prefix: {type(model).__name__} has its own attention code, into which no"
                " prefix can be put; take adapter or lora for this decoder"
            )

    def _is_reached(self, model: nn.Module) -> bool:
        """Whether a token that passes through the model meets every prefix."""
        met: set[nn.Module] = set()
        with torch.no_grad(), ExitStack() as stack:
            for prefix in self.blocks:
                stack.enter_context(prefix.register_forward_hook(lambda p, *_: met.add(p)))
            device = next(model.parameters()).device
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device))
        return len(met) == len(self.blocks)

    def detach(self) -> None:
        """Take the prefixes out."""
        if not self._attached:
            return
        model, parts, bridge, implementation = self._attached
        self._attached = []
        for attention in parts.self_attentions:
            object.__delattr__(attention, _NAME)
        for layer in bridge.cross_attention_layers:
            object.__setattr__(layer, "extra", None)
        model.set_attn_implementation(implementation)

    @classmethod
    def count(cls, config: PrefixConfig, parts: DecoderParts, bridge: Bridge) -> int:
        """By the arithmetic of the module's text."""
        m = config.length
        block = 2 * m * parts.key_value_heads * parts.head_dim
        cross = sum(2 * m * layer.width for layer in bridge.cross_attention_layers)
        return len(parts.blocks) * block + cross


def _keys(config: PrefixConfig, heads: int, head_dim: int) -> ExtraKeys:
    shape = (heads, config.length, head_dim)
    keys, values = torch.randn(shape) * 0.02, torch.randn(shape) * 0.02
    return ExtraKeys(keys, values, shared=config.shared_softmax)


def attention_beside(attend: Any) -> Any:
    """The decoder's own attention plus the prefix's, as transformers' AttentionInterface calls it.

    query [rows, heads, n, e]; key, value [rows, key/value heads, t, e], cached ones included: the
    prefix is in no cache. It returns [rows, n, heads, e].
    """

    def attend_beside(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **rest: Any,
    ) -> tuple[Tensor, Tensor | None]:
        text, weights = attend(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
        prefix: ExtraKeys | None = getattr(module, _NAME, None)
        if prefix is None:  # cross-attention of the decoder's own
            return text, weights
        keys, values = prefix(query.shape[0], query.shape[1], query.dtype)
        own = F.scaled_dot_product_attention(query, keys, values, dropout_p=dropout, scale=scaling)
        return text + own.transpose(1, 2), weights

    return attend_beside


def attend_with(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, None]:
    """sdpa attention with one softmax over prefix and text.

    attention_mask: [rows, 1, n, t], True (or 0) where text may be looked at.
    """
    prefix: ExtraKeys | None = getattr(module, _NAME, None)
    if prefix is None:
        found: tuple[Tensor, None] = ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
        return found
    rows, heads = query.shape[:2]
    own_keys, own_values = prefix(rows, heads, key.dtype)
    groups = heads // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    text = key.shape[2]
    key, value = torch.cat([own_keys, key], dim=2), torch.cat([own_values, value], dim=2)
    if attention_mask is not None:
        seen = float(attention_mask.dtype == torch.bool)
        length = own_keys.shape[2]
        attention_mask = F.pad(attention_mask[..., :text], (length, 0), value=seen)
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return out.transpose(1, 2).contiguous(), None


def prefix_kind(implementation: str) -> str:
    """Of a decoder's attention by its name: "beside", "shared", or "" where it has no prefix."""
    kinds = ("beside", "shared")
    return next((kind for kind in kinds if implementation.startswith(f"{_NAME}_{kind}")), "")


def keys_and_values(attention: nn.Module, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The prefix of a self-attention, for each row: two of [rows, key/value heads, m, head_dim]."""
    prefix: ExtraKeys = getattr(attention, _NAME)
    found: tuple[Tensor, Tensor] = prefix(rows, len(prefix.keys), dtype)
    return found


def _register(implementation: str, *, shared: bool) -> str:
    """The name, in transformers' registries, of an attention with a prefix and of its mask."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

    if not shared:
        for kind in (implementation, "eager"):  # which is the one that tells its weights
            name = f"{_NAME}_beside_{kind}"
            AttentionInterface.register(
                name, attention_beside(ALL_ATTENTION_FUNCTIONS.get(kind, eager))
            )
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[kind])
        return f"{_NAME}_beside_{implementation}"
    if implementation != "sdpa":
        raise UserError(
            f"prefix: with shared_softmax it runs in sdpa attention only, the decoder runs"
            f" {implementation}; take shared_softmax=false"
        )

    def mask(**asked: Any) -> Any:
        # a mask that is left out says "causal from the left", which a prefix before it shifts
        return sdpa_mask(**{**asked, "allow_is_causal_skip": False})

    AttentionInterface.register(f"{_NAME}_shared", attend_with)
    AttentionMaskInterface.register(f"{_NAME}_shared", mask)
    return f"{_NAME}_shared"


def eager(module: nn.Module, *args: Any, **rest: Any) -> Any:
    """The attention that transformers writes out beside each model, and registers nowhere."""
    return sys.modules[type(module).__module__].eager_attention_forward(module, *args, **rest)


METHOD = Prefix
