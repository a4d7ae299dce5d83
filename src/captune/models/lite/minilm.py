"""all-MiniLM-L6-v2 in plain PyTorch: tokens -> one vector a text, by a mean over its tokens.

Equal to transformers' `BertModel` with sentence-transformers' pooling up to rounding (tests compare
them); written out here because importing those takes longer than encoding a thousand labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DIMENSION = 384
MAX_TOKENS = 256  # sentence_bert_config.json of the checkpoint

_VOCABULARY = 30522
_POSITIONS = 512
_LAYERS = 6
_HEADS = 12
_HIDDEN = 1536
_EPSILON = 1e-12
_PADDING = "[PAD]"


class _Layer(nn.Module):
    """One BERT layer: self-attention, then a feed-forward; each added and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(DIMENSION, 3 * DIMENSION)
        self.output = nn.Linear(DIMENSION, DIMENSION)
        self.attention_norm = nn.LayerNorm(DIMENSION, _EPSILON)
        self.expand = nn.Linear(DIMENSION, _HIDDEN)
        self.project = nn.Linear(_HIDDEN, DIMENSION)
        self.feed_forward_norm = nn.LayerNorm(DIMENSION, _EPSILON)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        # [n, tokens, 3 * 384] -> query, key, value, each [n, heads, tokens, 32]
        projected = self.query_key_value(x).view(n, tokens, 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        mixed = mixed.transpose(1, 2).reshape(n, tokens, DIMENSION)
        x = self.attention_norm(x + self.output(mixed))
        hidden = self.project(functional.gelu(self.expand(x)))
        normed: Tensor = self.feed_forward_norm(x + hidden)
        return normed


class MiniLM(nn.Module):
    """input_ids and attention_mask [n, tokens] (1 = a token, 0 = padding) -> [n, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = _embedding(_VOCABULARY)
        self.positions = _embedding(_POSITIONS)
        self.segments = _embedding(2)
        self.norm = nn.LayerNorm(DIMENSION, _EPSILON)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode, then average over the tokens that are not padding."""
        tokens = input_ids.shape[1]
        x = self.words(input_ids) + self.segments.weight[0] + self.positions.weight[:tokens]
        x = self.norm(x)
        visible = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, visible)
        weights = attention_mask.to(x.dtype)[:, :, None]
        pooled: Tensor = (x * weights).sum(1) / weights.sum(1)
        return pooled


def _embedding(rows: int) -> nn.Embedding:
    # Left empty: filling it at random on the meta device imports half of PyTorch's compiler (2 s).
    weight = torch.empty(rows, DIMENSION)
    embedding: nn.Embedding = nn.Embedding.from_pretrained(weight)  # type: ignore[no-untyped-call]
    return embedding


def rename_published(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict as the state dict of MiniLM (query, key, value in one matrix).

    Raises KeyError where a tensor is missing.
    """
    names = {
        "embeddings.word_embeddings.weight": "words.weight",
        "embeddings.position_embeddings.weight": "positions.weight",
        "embeddings.token_type_embeddings.weight": "segments.weight",
        "embeddings.LayerNorm.weight": "norm.weight",
        "embeddings.LayerNorm.bias": "norm.bias",
    }
    renamed = {}
    for layer in range(_LAYERS):
        theirs, ours = f"encoder.layer.{layer}", f"layers.{layer}"
        for kind in ("weight", "bias"):
            renamed[f"{ours}.query_key_value.{kind}"] = torch.cat(
                [
                    published[f"{theirs}.attention.self.{part}.{kind}"]
                    for part in ("query", "key", "value")
                ]
            )
            names |= {
                f"{theirs}.attention.output.dense.{kind}": f"{ours}.output.{kind}",
                f"{theirs}.attention.output.LayerNorm.{kind}": f"{ours}.attention_norm.{kind}",
                f"{theirs}.intermediate.dense.{kind}": f"{ours}.expand.{kind}",
                f"{theirs}.output.dense.{kind}": f"{ours}.project.{kind}",
                f"{theirs}.output.LayerNorm.{kind}": f"{ours}.feed_forward_norm.{kind}",
            }
    renamed |= {ours: published[theirs] for theirs, ours in names.items()}
    return {name: tensor.float().contiguous() for name, tensor in renamed.items()}


def load_tokenizer(file: Path) -> Callable[[Sequence[str]], Mapping[str, Tensor]]:
    """The checkpoint's tokenizer.json: strings -> input_ids and attention_mask [n, longest].

    Padded to the longest text of the call and cut at 256 tokens, as sentence-transformers does.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(_PADDING), pad_token=_PADDING)

    def tokenize(texts: Sequence[str]) -> Mapping[str, Tensor]:
        encodings = tokenizer.encode_batch(list(texts))
        return {
            "input_ids": torch.tensor([encoding.ids for encoding in encodings]),
            "attention_mask": torch.tensor([encoding.attention_mask for encoding in encodings]),
        }

    return tokenize


def load_token_counter(file: Path) -> Callable[[Sequence[str]], list[int]]:
    """The checkpoint's tokenizer.json: strings -> their tokens before any cut, [CLS] and [SEP] too.

    The file is read when first asked: few jobs want to know.
    """

    @cache
    def uncut() -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoding.ids) for encoding in uncut().encode_batch(list(texts))]

    return count
