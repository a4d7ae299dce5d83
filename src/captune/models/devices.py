"""Where a model runs and at which precision."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from captune.errors import UserError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def resolve_device(name: str = "auto") -> torch.device:
    """auto, cpu, cuda, cuda:N or mps -> a device that is there.

    auto: CUDA if there is one, then Apple's MPS, then the CPU.
    Raises UserError for a device that this machine, or this build of PyTorch, does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdecimal()):
        raise UserError(f"device {name!r} is not known; expected auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        if not torch.cuda.is_available():
            why = "no GPU was found" if torch.version.cuda else "this PyTorch is built without CUDA"
            raise UserError(
                f"device {name!r}: {why}; use --device cpu, or auto to take what is there"
            )
        if index and int(index) >= torch.cuda.device_count():
            raise UserError(
                f"device {name!r}: this machine has {torch.cuda.device_count()} GPU, counted from 0"
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError(
            f"device {name!r} needs an Apple GPU; use --device cpu, or auto to take what is there"
        )
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto, float32, float16 or bfloat16 -> the dtype of weights and activations on `device`.

    auto: float32 on a CPU, where half precision is slower and seldom native; float16 on a GPU, the
    precision CLIP was trained and released in, with eight times bfloat16's resolution (features
    move by about 1e-3 of their length, not 1e-2). Models whose activations overflow float16 need
    bfloat16 or float32 by name.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in _DTYPES:
        raise UserError(f"dtype {name!r} is not known; expected auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


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
    """Whether this CPU multiplies bfloat16 matrices in hardware, several times as fast.

    Intel's tiles (AMX), or AVX-512's dot product (AVX512_BF16: AMD since Zen 4, some Intel Xeons).
    """
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


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


class PeakMemory:
    """The most memory that is held from now on: of a GPU, or by this process on Linux."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._is_known = device.type == "cuda"
        gc.collect()  # of a model before this one nothing is left
        if self._is_known:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        elif device.type == "cpu":
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # VmHWM is what is held now
                self._is_known = True

    @property
    def bytes(self) -> int | None:
        """None where nobody counts it."""
        if not self._is_known:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        held = Path("/proc/self/status").read_text().partition("VmHWM:")[2]
        return 1024 * int(held.split()[0])
