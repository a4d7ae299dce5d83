"""transformers' own captioner of toy size, and captune's with the same weights."""

from __future__ import annotations

from typing import Any

import torch
from tests.captioning.tiny import tiny_decoder
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from captune.captioning.bridge import GridShape
from captune.captioning.bridge.cross_attention import CrossAttention
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.settings import CrossAttentionConfig, NoneConfig
from captune.captioning.tuning.none import NoTuning

SHAPE = GridShape(tokens=17, channels=32, rows=4, columns=4, leading=1)


def both_captioners(attention: str = "sdpa") -> tuple[Any, CaptionModel]:
    """(transformers', captune's): GPT-2 that looks at a ViT's tokens in both of its blocks.

    attention: which implementation transformers' runs.
    """
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 99}
    vit = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=40,
        image_size=32,
        patch_size=8,
    )
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, GPT2Config(**sizes))
    theirs: Any = VisionEncoderDecoderModel(pair).eval()
    theirs.set_attn_implementation(attention)
    for name, parameter in theirs.named_parameters():
        if "cross" in name:
            nn.init.normal_(parameter, mean=1.0 * ("ln_cross_attn.weight" in name), std=0.2)

    plain = GPT2LMHeadModel(GPT2Config(**sizes)).eval()
    own = {k: v for k, v in theirs.decoder.state_dict().items() if "cross" not in k}
    plain.load_state_dict(own)
    parts = find_parts(plain)
    config = CrossAttentionConfig(width=32, heads=4, every=1, entry=False, bias=True)
    bridge = CrossAttention(config, SHAPE, parts)
    with torch.no_grad():
        for layer, block in zip(
            bridge.cross_attention_layers, theirs.decoder.transformer.h, strict=True
        ):
            cross = block.crossattention
            layer.norm.load_state_dict(block.ln_cross_attn.state_dict())
            layer.query.weight.copy_(cross.q_attn.weight.T)
            layer.query.bias.copy_(cross.q_attn.bias)
            for place, linear in enumerate((layer.key, layer.value)):
                columns = slice(32 * place, 32 * (place + 1))
                linear.weight.copy_(cross.c_attn.weight[:, columns].T)
                linear.bias.copy_(cross.c_attn.bias[columns])
            layer.out.weight.copy_(cross.c_proj.weight.T)
            layer.out.bias.copy_(cross.c_proj.bias)
    decoder = tiny_decoder("gpt2")
    object.__setattr__(decoder, "module", plain)
    return theirs, CaptionModel(decoder, bridge, NoTuning(NoneConfig()), SHAPE)
