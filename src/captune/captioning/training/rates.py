"""Learning rates: those of the bridge's output projections beside the common one.

The common rate, its warm-up and its cosine decay are Trainer's arguments (`trainer._arguments`);
a tuning method without `--lr` has its own (`TuningMethod.rate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captune.captioning.model import Trainable, batch

_MEASURED_ON = 32  # captions, for the size of the hidden states


def learning_rate_groups(optimizer: Optimizer, model: Trainable, sizes: Sequence[float]) -> None:
    """Give the bridge's output projection in each block a learning rate of its own.

    It begins at zero, and its output has to come to the size of the hidden states that it is added
    to. These grow from block to block (of SmolLM2-135M, median 1 at the third block and 11 at the
    last), while Adam moves a weight by about the rate per step, whatever the gradient. At one rate
    for all, the last blocks hear little of the image before the training is over. So the rate is
    multiplied by the size of the block's hidden states (`stream_sizes`) and the bridge's gain.
    """
    for block, parameters in model.bridge.output_projections().items():
        for parameter in parameters:
            group = _taken(optimizer, parameter)
            if group is not None:
                rate = group["lr"] * model.bridge.gain * sizes[block]
                optimizer.add_param_group({**group, "params": [parameter], "lr": rate})


def _taken(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Any] | None:
    """Take the parameter out of its group, and return the group; None where it is in none."""
    for group in optimizer.param_groups:
        for place, known in enumerate(group["params"]):
            if known is parameter:
                del group["params"][place]
                return group
    return None


@torch.no_grad()
def stream_sizes(model: Trainable, captions: Sequence[Sequence[int]]) -> list[float]:
    """Median absolute value of the hidden states behind each block's self-attention, no image seen.

    captions: token ids. A median, for a few channels of some decoders are a thousand times larger.
    """
    decoder, sizes = model.decoder, []
    some = captions[:_MEASURED_ON]
    ids, mask, _ = batch(some, start=decoder.start_id, pad=decoder.pad_id, device=decoder.device)
    residual: list[Tensor] = []

    def remember(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residual[:] = [args[0] if args else kwargs["hidden_states"]]

    def measure(attention: nn.Module, args: Any, output: Any) -> None:
        attended = output[0] if isinstance(output, tuple) else output
        stream = (residual[0] + attended)[mask.bool()]
        sizes.append(float(stream.float().abs().median()))

    with ExitStack() as stack:
        for block, attention in zip(model.parts.blocks, model.parts.self_attentions, strict=True):
            stack.enter_context(block.register_forward_pre_hook(remember, with_kwargs=True))
            stack.enter_context(attention.register_forward_hook(measure))
        # without its head: nobody reads the logits
        decoder.module.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
    return sizes
