"""Weights of 8 or 4 bits by bitsandbytes: made while a model is read, or as its folder holds them.

transformers does it (`BitsAndBytesConfig`): the linear layers but the head hold whole numbers with
a scale for each row (LLM.int8(), Dettmers et al. 2022), or NF4 in blocks with a scale each (QLoRA,
Dettmers et al. 2023). What is computed is in the model's dtype.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from captune.errors import MissingExtra, UserError
from captune.models.weights import TensorInfo, opened_safetensors
from captune_metrics.display import printable, quoted

_STATED = "quantization_config"
# what of a config is handed on; where weights lie and what else is run is captune's to say
_READ = (
    *("llm_int8_threshold", "llm_int8_skip_modules", "bnb_4bit_quant_type", "quant_method"),
    *("load_in_8bit", "load_in_4bit", "bnb_4bit_use_double_quant"),
)
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_STATE = ".quant_state.bitsandbytes__"


def check_stated(config: Mapping[str, Any], path: Path) -> str | None:
    """8bit or 4bit where a model's config says that its weights are so; else None.

    Raises UserError for weights of another library, MissingExtra where bitsandbytes is missing.
    """
    stated = config.get(_STATED)
    if stated is None:
        return None
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    bits = [one for one in ("8bit", "4bit") if method and stated.get(f"load_in_{one}") is True]
    if method != "bitsandbytes" or len(bits) != 1:
        raise UserError(
            f"{printable(path)}: its weights are quantised by {quoted(str(method))[:40]}, which"
            " captune does not read; take the model as it was published in float16, bfloat16 or"
            " float32, or quantised by bitsandbytes"
        )
    require_bitsandbytes(f"{printable(path.parent)}, whose weights are quantised,")
    return bits[0]


def require_bitsandbytes(what: str) -> None:
    """Import it. Raises MissingExtra where it is not installed."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtra(what, "quantised")
    with importing_bitsandbytes():
        import bitsandbytes  # noqa: F401


@contextmanager
def importing_bitsandbytes() -> Iterator[None]:
    """Within, it is imported, by peft too: without `kernels`, and without its warnings.

    By that package it would fetch compiled code from the hub, on some processors.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    modules: dict[str, Any] = sys.modules
    hidden = {"kernels": modules["kernels"]} if "kernels" in modules else {}
    modules["kernels"] = None
    try:
        yield
    finally:
        del modules["kernels"]
        modules |= hidden


def keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from packing weights anew for some processors.

    It does so at the first pass, for good: layers of a width that 32 does not divide fail, and no
    gradient can follow.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def cast_unquantised(model: nn.Module, dtype: torch.dtype) -> None:
    """What is not quantised, in `dtype`.

    Of weights that were quantised before, transformers casts biases and leaves the rest as the file
    has it, and norms refuse two precisions.
    """
    kept = {
        name
        for names in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        for name in getattr(model, names, None) or ()
    }
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def how_to_load(
    config: dict[str, Any], quantise: str | None, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """What transformers is told besides of quantised weights; nothing of others.

    config: what it will read, which is changed. quantise: 8bit or 4bit, what weights become. Raises
    UserError where they are so already.
    """
    stated = config.get(_STATED)
    if stated is None and quantise is None:
        return {}
    if stated is not None and quantise is not None:
        raise UserError(f"--quantise {quantise}: its weights are quantised already; leave it out")
    if stated is not None:
        kept = {name: stated[name] for name in _READ if name in stated}
        config[_STATED] = {**kept, "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")}
        return {"dtype": dtype, "device_map": {"": device}}
    require_bitsandbytes(f"--quantise {quantise}")
    from transformers import BitsAndBytesConfig

    made = BitsAndBytesConfig(
        **{f"load_in_{quantise}": True},
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
    return {"dtype": dtype, "device_map": {"": device}, _STATED: made}


def check_tensors(
    files: Sequence[Path], tensors: Mapping[str, TensorInfo], bits: str, where: object
) -> None:
    """Raise UserError unless scales and blocks are those of the weights that they belong to.

    bitsandbytes reads them by their addresses, without looking at their sizes.
    """
    for name, tensor in tensors.items():
        if not name.endswith("weight") or tensor.dtype not in ("I8", "U8"):
            continue
        fits = (
            _fits_rows(name, tensors)
            if bits == "8bit"
            else any(_fits_blocks(name, tensors, file) for file in files)
        )
        if not fits:
            raise UserError(
                f"{printable(f'{where}: {name}')} is quantised in a way that bitsandbytes does not"
                " write, or is damaged"
            )


def _fits_rows(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    own, scales = tensors[name], tensors.get(f"{name.removesuffix('weight')}SCB")
    rows = own.shape[:1]
    return own.dtype == "I8" and len(own.shape) == 2 and scales == TensorInfo("F32", rows)


def _fits_blocks(name: str, tensors: Mapping[str, TensorInfo], file: Path) -> bool:
    own = tensors[name]
    kind = next((one for one in ("nf4", "fp4") if f"{name}{_STATE}{one}" in tensors), None)
    with opened_safetensors(file) as read:
        if kind is None or f"{name}{_STATE}{kind}" not in read.keys():  # noqa: SIM118
            return False
        try:
            state = json.loads(bytes(read.get_tensor(f"{name}{_STATE}{kind}").tolist()))
            values, nested = math.prod(state["shape"]), "nested_blocksize" in state
            is_known = (
                state["quant_type"] == kind
                and state["dtype"] in ("float32", "float16", "bfloat16")
                and len(state["shape"]) == 2
                and all(type(side) is int and side > 0 for side in state["shape"])
                and state["blocksize"] in _BLOCKS
                and (not nested or state["nested_blocksize"] in _BLOCKS)
                and (not nested or state["nested_dtype"] == "float32")
                and (not nested or math.isfinite(state["nested_offset"]))
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            return False
    if not is_known:
        return False
    blocks = -(-values // state["blocksize"])
    wanted = {
        "": ("U8", (values + 1) // 2),
        ".absmax": ("U8" if nested else "F32", blocks),
        ".quant_map": ("F32", 16),
    }
    if nested:
        wanted[".nested_absmax"] = ("F32", -(-blocks // state["nested_blocksize"]))
        wanted[".nested_quant_map"] = ("F32", 256)
    found = {part: tensors.get(f"{name}{part}") for part in wanted}
    return own.dtype == "U8" and all(
        one is not None and (one.dtype, math.prod(one.shape)) == wanted[part]
        for part, one in found.items()
    )
