"""Decoders of every family with a few thousand random weights, and a tokenizer of letters."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from captune.captioning.bridge import GridShape
from captune.models.decoders import Decoder

WORDS = ["<end>", "<pad>", *"abcdefghijklmnopqrstuvwxyz", *(f"w{n}" for n in range(71))]
END, PAD = 0, 1
GRID = GridShape(tokens=10, channels=12, rows=3, columns=3, leading=1)

_ENDS = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
_CONFIGS: dict[str, Any] = {
    "gpt2": lambda: GPT2Config(
        n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=len(WORDS), **_ENDS
    ),
    "llama": lambda: LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=len(WORDS),
        tie_word_embeddings=True,
        **_ENDS,
    ),
    "qwen3": lambda: Qwen3Config(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        vocab_size=len(WORDS),
        **_ENDS,
    ),
    "opt": lambda: OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
        vocab_size=len(WORDS),
        **_ENDS,
    ),
}
FAMILIES = tuple(_CONFIGS)


def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def tiny_decoder(family: str, seed: int = 0) -> Decoder:
    """A frozen decoder of `family` with random weights, large enough to differ between tokens."""
    torch.manual_seed(seed)
    module = AutoModelForCausalLM.from_config(_CONFIGS[family]())
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    module.eval().requires_grad_(False)
    return Decoder(
        spec=f"tiny-{family}",
        module=module,
        tokenizer=tokenizer(),
        weights_id=f"{family}-{seed}",
        decoder_id=f"{family}-{seed}",
        start_id=END,
        end_id=END,
        pad_id=PAD,
        licence=None,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def grids(images: int, seed: int = 1) -> torch.Tensor:
    """[images, tokens, channels] of noise."""
    return torch.randn(images, GRID.tokens, GRID.channels, generator=torch.manual_seed(seed))
