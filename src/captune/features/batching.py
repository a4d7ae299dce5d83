"""Batches that are halved where memory does not suffice for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from captune.errors import UserError

logger = logging.getLogger("captune")
Item = TypeVar("Item")
T = TypeVar("T")


class AdaptiveBatches:
    """Works through sequences in batches of at most `size`, which only ever becomes smaller.

    and_so: ends the message that it has become smaller.
    """

    def __init__(self, size: int, and_so: str = "") -> None:
        self.size = max(1, size)
        self._and_so = and_so

    def each(self, items: Sequence[Item], work: Callable[[Sequence[Item]], T]) -> list[T]:
        """`work` of all items, in as many pieces as memory asks for.

        Raises UserError if not even one item fits.
        """
        parts: list[T] = []
        done = 0
        while done < len(items):
            part = items[done : done + self.size]
            try:
                parts.append(work(part))
                done += len(part)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise UserError(
                        "not enough memory for a batch of one; take a smaller model, "
                        "--dtype float16, or --device cpu"
                    ) from error
                self.size = len(part) // 2
                logger.warning(
                    "out of memory: going on with batches of %d%s", self.size, self._and_so
                )
            # after the except block, where the failed pass no longer holds its tensors
            if self.size < len(part) and torch.cuda.is_available():
                torch.cuda.empty_cache()
        return parts


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what went wrong."""
    # CUDA has a class for it; Apple's GPUs and the CPU say it in words.
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error).lower()
    return "out of memory" in message or "can't allocate memory" in message
