"""Many grids under one caption: the blocks before the first that looks are computed once.

A bridge of cross-attention leaves the blocks before its first looking one to the text alone, and
the text is the same in every row. So one row goes through them, and its hidden states stand for all
rows' at the first looking block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from captune.captioning.bridge.cross_attention import CrossAttention
from captune.captioning.model import Captioner


def first_looking_block(captioner: Captioner) -> int:
    """How many of the decoder's blocks read text alone; 0 where that is not known."""
    bridge = captioner.bridge
    return min(bridge.places) if isinstance(bridge, CrossAttention) else 0


@contextmanager
def shared_beginning(captioner: Captioner, one_row: Callable[[], object]) -> Iterator[None]:
    """In the block, the rows of a pass skip the blocks that one row has been through.

    one_row: a pass over one of the rows, which are all the same text. For passes without gradients
    and without a cache; others go their usual way.
    """
    count = first_looking_block(captioner)
    if count == 0 or torch.is_grad_enabled():
        yield
        return
    blocks = captioner.parts.blocks
    hidden, forms = _once(blocks[: count + 1], one_row)

    def enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (hidden.expand(len(args[0]), -1, -1), *args[1:]), kwargs
        stands = hidden.expand(len(kwargs["hidden_states"]), -1, -1)
        return args, {**kwargs, "hidden_states": stands}

    with ExitStack() as stack:
        # before the bridge's own hook, which remembers what its block is given
        handle = blocks[count].register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
        stack.callback(handle.remove)
        for block, form in zip(blocks[:count], forms, strict=True):
            stack.callback(block.__dict__.pop, "forward", None)
            block.forward = _passing(form)
        yield


class _Known(Exception):
    """All that was wanted of a pass is known; the rest of it is left out."""


def _once(
    blocks: Sequence[nn.Module], one_row: Callable[[], object]
) -> tuple[Tensor, list[type[Any]]]:
    """What the last of `blocks` is given in a pass, and what kind of thing the others return."""
    found: list[Tensor] = []
    forms: list[type[Any]] = []

    def catch(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise _Known

    def note(block: nn.Module, args: Any, output: Any) -> None:
        forms.append(type(output))

    with ExitStack() as stack:
        handle = blocks[-1].register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
        stack.callback(handle.remove)
        for block in blocks[:-1]:
            stack.callback(block.register_forward_hook(note).remove)
        with suppress(_Known):
            one_row()
    return found[0], forms


def _passing(form: type[Any]) -> Any:
    """A block's forward that gives back what it is given, in the form that the block returns."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if issubclass(form, tuple) else hidden_states

    return forward
