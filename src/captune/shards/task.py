"""What is asked of a process that computes shards, and what it answers; no model library here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from captune.shards.places import Place

STATS, MODELS = "_stats.json", "_models.json"
DONE, THERE, CLAIMED, FAILED = "done", "there", "claimed", "failed"


@dataclass(frozen=True)
class Work:
    """What is done with each shard; it travels to other machines.

    command: classify, caption or embed, with its options. sample: images of a shard that the page
    of the run may show. threads: that decode.
    """

    command: str
    options: Any
    out: Place
    sample: int = 4
    threads: int = 0


@dataclass
class Report:
    """What came of a shard. status: DONE, THERE, CLAIMED or FAILED; sentence: why it failed."""

    stem: str
    status: str
    rows: int = 0
    errors: int = 0
    seconds: float = 0.0
    sentence: str = ""


def is_done(out: Place, stem: str) -> bool:
    """Whether a shard is whole."""
    return out.has(f"{stem}{STATS}") and out.has(f"{stem}.parquet")
