"""What the machine can do at most, and how figures are shown beside it."""

from __future__ import annotations

import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Way = TypeVar("Way")


def measured(
    measure: Callable[[], dict[str, Any]], show: Callable[[dict[str, Any]], None], *, as_json: bool
) -> int:
    """What `measure` gives and the seconds it took, as one JSON object or by `show`; the status.

    What is printed meanwhile goes to standard error.
    """
    logging.disable(logging.WARNING)
    with redirect_stdout(sys.stderr):
        result, seconds = timed(measure)
    result["seconds"] = round(seconds)
    if as_json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gave, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def matmul_gflops(dtype: torch.dtype = torch.float32, size: int = 2048, repeats: int = 4) -> float:
    """The best of a few products of two square matrices: GFLOP/s."""
    left, right = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    left @ right
    return 2 * size**3 / min(timed(lambda: left @ right)[1] for _ in range(repeats)) / 1e9


def read_gbytes(megabytes: int = 512, repeats: int = 4) -> float:
    """The best of a few products of a vector and a matrix far larger than any cache: GB/s read.

    It is what a decoder does with its weights when it writes one token.
    """
    columns = 4096
    rows = megabytes * 10**6 // (4 * columns)
    matrix, vector = torch.randn(rows, columns), torch.randn(columns)
    matrix @ vector
    return 4e-9 * rows * columns / min(timed(lambda: matrix @ vector)[1] for _ in range(repeats))


def in_turn(ways: Sequence[Way], number: int) -> list[Way]:
    """The ways in the order of this round; in as many rounds as ways each comes first once."""
    turn = number % len(ways)
    return [*ways[turn:], *ways[:turn]]


def ratios(slow: Sequence[float], fast: Sequence[float]) -> list[float]:
    """By round, so that what else the machine does hits both."""
    return [a / b for a, b in zip(slow, fast, strict=True)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The middle value, and the lowest and highest."""
    middle = f"{statistics.median(values):,.{digits}f}"
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def about(machine: dict[str, Any], seconds: int) -> str:
    """One line on what the figures were measured on."""
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['torch_threads']} threads,"
        f" load {machine['load']:.1f}, Python {machine['python']}, torch {machine['torch']},"
        f" transformers {machine['transformers']}; {seconds} s in all"
    )
