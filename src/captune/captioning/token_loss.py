"""Cross-entropy over a vocabulary, a few rows at a time.

Over 50,000 tokens torch's own writes the logits out three times in float32 and reads them back,
which takes a tenth of a training step on a CPU. Here nothing of that size is kept but the logits
and their gradient, in the precision that they have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# logits looked at together: of a CPU's cache, and enough to keep a GPU busy
_AT_ONCE_CPU, _AT_ONCE_GPU = 1 << 19, 1 << 26


def token_losses(logits: Tensor, wanted: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Logits [n, vocabulary] in any precision, token ids [n] -> losses [n] in float32.

    What `F.cross_entropy(logits.float(), wanted, reduction="none", label_smoothing=...)` gives;
    there is no id here that is ignored.
    """
    losses: Tensor = _TokenLosses.apply(logits, wanted, label_smoothing)
    return losses


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
        totals = logits.new_empty(len(logits), dtype=torch.float32)
        means = torch.zeros_like(totals)
        for rows in _chunks(logits):
            part = logits[rows].float()
            totals[rows] = part.logsumexp(dim=1)
            if smoothing:
                means[rows] = part.mean(dim=1)
        ctx.save_for_backward(logits, wanted, totals)
        ctx.smoothing = smoothing
        chosen = logits.gather(1, wanted[:, None])[:, 0].float()
        return totals - (1 - smoothing) * chosen - smoothing * means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        logits, wanted, totals = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for rows in _chunks(logits):
            weights = gradients[0][rows, None]
            part = torch.sub(logits[rows].float(), totals[rows, None]).exp_()
            if ctx.smoothing:
                part.sub_(ctx.smoothing / logits.shape[1])
            part.mul_(weights)
            part.scatter_add_(1, wanted[rows, None], (ctx.smoothing - 1) * weights)
            of_logits[rows] = part
        return of_logits, None, None


def _chunks(logits: Tensor) -> Iterator[slice]:
    at_once = _AT_ONCE_CPU if logits.device.type == "cpu" else _AT_ONCE_GPU
    step = max(1, at_once // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))
