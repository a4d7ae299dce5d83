from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from captune.captioning import model
from captune.captioning.model import token_losses


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1, 150, 1 << 20])
def test_it_is_torch_s(
    smoothing: float, dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row at a time, a few and all: losses in float32, gradients in the logits' precision."""
    monkeypatch.setattr(model, "_AT_ONCE_CPU", at_once)
    torch.manual_seed(0)
    logits, wanted = (torch.randn(9, 50) * 4).to(dtype), torch.randint(0, 50, (9,))
    weights = torch.randn(9)

    def expected(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), wanted, reduction="none", label_smoothing=smoothing)

    def found(logits: Tensor) -> Tensor:
        return token_losses(logits, wanted, smoothing)

    both = []
    for way in (expected, found):
        given = logits.clone().requires_grad_()
        losses = way(given)
        assert losses.dtype == torch.float32
        (losses * weights).sum().backward()
        assert given.grad is not None
        assert given.grad.dtype == dtype
        assert torch.equal(given.detach(), logits), "the logits are still what they were"
        both.append((losses, given.grad))
    torch.testing.assert_close(both[1][0], both[0][0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both[1][1], both[0][1])


def test_the_gradient_is_that_of_differences() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([0, 4, 2])
    # losses are float32 whatever the logits are, so the step is a large one
    assert torch.autograd.gradcheck(
        lambda x: token_losses(x, wanted, 0.2), (logits,), eps=1e-2, atol=1e-2
    )


def test_far_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = token_losses(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0]]
