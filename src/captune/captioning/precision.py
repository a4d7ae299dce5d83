"""The precision of a captioner's forward pass, and the attention kernel that goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def resolve_precision(name: str, device: torch.device) -> str:
    """auto, float32, bfloat16 or float16 -> what `auto` stands for on this device."""
    if name != "auto":
        return name
    if device.type == "cpu":
        return "bfloat16" if has_bfloat16_units() else "float32"
    if device.type != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def has_bfloat16_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX), several times as fast."""
    return bool(torch.cpu._is_amx_tile_supported())


@contextmanager
def autocast(name: str, device: torch.device) -> Iterator[None]:
    """A training's precision, as `resolve_precision` takes it, for what is computed beside it."""
    precision = resolve_precision(name, device)
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, dtype=getattr(torch, precision)), attention_kernel(device):
        yield


@contextmanager
def attention_kernel(device: torch.device) -> Iterator[None]:
    """The kernel that training attends with: on a CPU the plain one.

    Over captions, which are short, the fused kernel's backward pass in bfloat16 takes a third of a
    whole step on a CPU, several times what the plain one takes.
    """
    if device.type != "cpu":
        yield
        return
    with sdpa_kernel([SDPBackend.MATH]):
        yield
