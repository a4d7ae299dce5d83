"""Ways to caption with one GPT-2: captune's, transformers' VisionEncoderDecoderModel, uncached.

All of them get the same encoder features, and read the same weights wherever they have the same
architecture; then they must write the same tokens.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from captune.captioning.bridge import GridShape
from captune.captioning.model import CaptionModel, build_model
from captune.models.decoders import Decoder

END = 50256
WIDTH, HEADS = 768, 12
GRID = GridShape(tokens=257, channels=WIDTH, rows=16, columns=16, leading=1)


def gpt2(dtype: torch.dtype = torch.float32) -> Decoder:
    """GPT-2 of 124 M parameters, random and frozen."""
    torch.manual_seed(0)
    return decoder_of(GPT2LMHeadModel(GPT2Config()).to(dtype), "gpt2")


def decoder_of(module: Any, name: str) -> Decoder:
    """A frozen module of GPT-2's vocabulary as captune holds one; there are no words to speak of.

    A dropout in GPT-2's config does nothing: the module stays in eval mode.
    """
    return Decoder(
        spec=name,
        module=module.eval().requires_grad_(False),
        tokenizer=None,
        weights_id=name,
        decoder_id=name,
        start_id=END,
        end_id=END,
        pad_id=END,
        licence=None,
        device=torch.device("cpu"),
        dtype=module.dtype,
    )


class Contenders:
    """One GPT-2 with one full-width cross-attention, and captune's default bridge beside it."""

    def __init__(self, tokens: int, beams: int) -> None:
        self.tokens, self.beams = tokens, beams
        self.theirs = vision_encoder_decoder()
        plain = GPT2LMHeadModel(GPT2Config())
        shared = self.theirs.decoder.state_dict()
        plain.load_state_dict({name: t for name, t in shared.items() if "cross" not in name})
        decoder = decoder_of(plain, "gpt2")
        self.full = build_model(
            decoder,
            GRID,
            bridge="cross-attention",
            method="none",
            bridge_settings={
                "width": WIDTH,
                "heads": HEADS,
                "every": 1,
                "entry": False,
                "bias": True,
            },
        )
        copy_cross_attention(self.theirs, self.full)
        self.default = self._default(decoder, "none")
        self.lora = self._default(decoder, "lora")
        # each of them writes exactly `tokens` tokens, so that all do the same work
        for captioner in (self.full, self.default, self.lora):
            captioner.eval()
            captioner.decoder.module.generation_config.min_new_tokens = tokens

    def _default(self, decoder: Decoder, method: str) -> CaptionModel:
        """Its own copy of the decoder: hooks of one captioner would cost the other time."""
        own = GPT2LMHeadModel(GPT2Config())
        own.load_state_dict(decoder.module.state_dict())
        copy = replace(decoder, module=own.eval().requires_grad_(False))
        captioner = build_model(copy, GRID, bridge="cross-attention", method=method)
        with torch.no_grad():
            for name, parameter in captioner.trained().items():
                if name.endswith("out.weight") or "lora_B" in name:
                    nn.init.normal_(parameter, std=0.02)
        return captioner

    def captune(self, captioner: CaptionModel, grids: Tensor) -> list[list[int]]:
        """Features [images, tokens, channels] -> tokens of each image."""
        return captioner.generate(grids, beams=self.beams, max_tokens=self.tokens).ids

    @torch.inference_mode()
    def generate(self, grids: Tensor) -> list[list[int]]:
        """transformers' own captioner, its own cache."""
        written = self.theirs.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=grids),
            decoder_start_token_id=END,
            bos_token_id=END,
            eos_token_id=END,
            pad_token_id=END,
            num_beams=self.beams,
            do_sample=False,
            min_new_tokens=self.tokens,
            max_new_tokens=self.tokens,
        )
        found: list[list[int]] = written[:, 1:].tolist()
        return found

    @torch.inference_mode()
    def uncached(self, grids: Tensor) -> list[list[int]]:
        """As with the assignment's decoder.py, image by image.

        It has no cache: each step runs all tokens of all beams through all blocks, projects the
        image's keys and values again for every beam in every block, and yields the logits of every
        place. (Its blocks are transformers' here, whose attention is faster than the assignment's.)
        """
        return [self._beam_search(grid[None]) for grid in grids]

    def _beam_search(self, grid: Tensor) -> list[int]:
        rows = torch.full((1, 1), END)
        scores = torch.zeros(1)
        for _ in range(self.tokens):
            logits = self.theirs.decoder(
                input_ids=rows,
                encoder_hidden_states=grid.repeat(len(rows), 1, 1),
                use_cache=False,
            ).logits
            chances = logits[:, -1].log_softmax(dim=-1)
            chances[:, END] = float("-inf")
            scores, best = (scores[:, None] + chances).flatten().topk(self.beams)
            beams, words = best // chances.shape[1], best % chances.shape[1]
            rows = torch.cat([rows[beams], words[:, None]], dim=1)
        found: list[int] = rows[scores.argmax(), 1:].tolist()
        return found


def vision_encoder_decoder() -> Any:
    """GPT-2 of 124 M parameters that attends in every block; its image encoder is never run."""
    torch.manual_seed(0)
    vit = ViTConfig(hidden_size=WIDTH, num_hidden_layers=1)
    pair = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, GPT2Config())
    model = VisionEncoderDecoderModel(pair).eval().requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        if name.endswith("wpe.weight"):
            nn.init.normal_(parameter, std=0.5)  # else random weights say one word again and again
        elif "crossattention" in name and parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.05)
    return model


def copy_cross_attention(theirs: Any, captioner: CaptionModel) -> None:
    """The weights of transformers' cross-attention into captune's bridge, block by block."""
    layers = captioner.bridge.cross_attention_layers
    with torch.no_grad():
        for layer, block in zip(layers, theirs.decoder.transformer.h, strict=True):
            cross = block.crossattention
            layer.norm.load_state_dict(block.ln_cross_attn.state_dict())
            layer.query.weight.copy_(cross.q_attn.weight.T)
            layer.query.bias.copy_(cross.q_attn.bias)
            for place, linear in enumerate((layer.key, layer.value)):
                columns = slice(WIDTH * place, WIDTH * (place + 1))
                linear.weight.copy_(cross.c_attn.weight[:, columns].T)
                linear.bias.copy_(cross.c_attn.bias[columns])
            layer.out.weight.copy_(cross.c_proj.weight.T)
            layer.out.bias.copy_(cross.c_proj.bias)
