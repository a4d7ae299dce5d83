"""How fast each parameter learns: all alike, but for what is added to the decoder's stream.

An output projection of the bridge begins at zero, and what it adds has to come to the size of the
stream that it is added to. The stream of a trained language model grows from block to block (of
SmolLM2-135M, median 1 at the third block and 11 at the last), while Adam moves a weight by about
the rate a step, whatever the gradient. At one rate for all, the last blocks hear little of the
image before the training is over. So an output projection learns as many times as fast as the
stream of its block is large, times the bridge's gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captune.captioning.model import Captioner, batch

CAPTIONS = 32  # that the stream is measured on


@torch.no_grad()
def stream_sizes(captioner: Captioner, captions: Sequence[Sequence[int]]) -> list[float]:
    """Median absolute value of the hidden states behind each block's self-attention, no image seen.

    captions: token ids. A median, for a few channels of some decoders are a thousand times larger.
    """
    decoder, sizes = captioner.decoder, []
    ids, mask, _ = batch(
        captions[:CAPTIONS], start=decoder.start_id, pad=decoder.pad_id, device=decoder.device
    )
    residual: list[Tensor] = []

    def remember(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residual[:] = [args[0] if args else kwargs["hidden_states"]]

    def measure(attention: nn.Module, args: Any, output: Any) -> None:
        attended = output[0] if isinstance(output, tuple) else output
        stream = (residual[0] + attended)[mask.bool()]
        sizes.append(float(stream.float().abs().median()))

    with ExitStack() as stack:
        parts = captioner.parts
        for block, attention in zip(parts.blocks, parts.self_attentions, strict=True):
            hook = block.register_forward_pre_hook(remember, with_kwargs=True)
            stack.callback(hook.remove)
            stack.callback(attention.register_forward_hook(measure).remove)
        # without its head: nobody reads the logits
        decoder.module.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return sizes


def quicken(optimizer: Optimizer, captioner: Captioner, sizes: Sequence[float]) -> None:
    """Give what the bridge adds to the stream of a block a rate of its own."""
    for block, parameters in captioner.bridge.added_to().items():
        for parameter in parameters:
            group = _taken(optimizer, parameter)
            if group is not None:
                rate = group["lr"] * captioner.bridge.gain * sizes[block]
                optimizer.add_param_group({**group, "params": [parameter], "lr": rate})


def _taken(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """The parameter's group, of which it is no more; None where it is in none."""
    for group in optimizer.param_groups:
        for place, known in enumerate(group["params"]):
            if known is parameter:
                del group["params"][place]
                return group
    return None
