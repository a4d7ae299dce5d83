"""Options of the jobs that take shards: which inputs are shards, and who computes them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.options.base import (
    check_overwrite,
    option,
    overwrite_option,
    refuse_given,
    require_at_least,
)
from captune_metrics.display import printable

SHARD_FILES = (".tar", ".parquet", ".arrow")  # a shard each
WEBDATASET = "webdataset"
PLAN = "_captune.json"  # beside the shards of answers
SHARD_SIZE = 1000
# pathlib leaves one slash of s3://; a letter alone is a drive
_ADDRESS = re.compile(r"(?!file:)([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")
_PART = re.compile(r"(\d{1,6})/(\d{1,6})")


def is_address(text: str) -> bool:
    """Whether it names something in a store, such as s3://bucket/00000.tar."""
    return _ADDRESS.match(text) is not None


def spelled(text: str) -> str:
    """An address as it was typed, whatever pathlib made of its slashes."""
    return _ADDRESS.sub(r"\1://", text, count=1)


def names_shards(word: str) -> bool:
    """Whether a word of IMAGES stands for shards and not for image files."""
    if is_address(word) or word.lower().endswith(SHARD_FILES):
        return True
    try:
        return os.path.isdir(word) and holds_shards(os.listdir(word))  # noqa: PTH208, PTH112
    except OSError:  # a folder that may not be read, which is said where images are found
        return False


def holds_shards(names: list[str]) -> bool:
    """Whether files of these names are shards: tars, Parquet alone, or what img2dataset wrote so.

    Its Parquet beside folders of images has their addresses and no images.
    """
    if any(name.endswith(".tar") for name in names):
        return True
    seen = [name for name in names if not name.startswith((".", "_")) and name != "README.md"]
    if seen and all(name.endswith(".parquet") for name in seen):
        return True
    stats = [name.removesuffix("_stats.json") for name in names if name.endswith("_stats.json")]
    return any(f"{stem}.parquet" in names and stem not in names for stem in stats)


@dataclass(kw_only=True)
class ShardOptions:
    """What every command takes that works on shards."""

    engine: str | None = option(
        "who computes shards: processes of this machine, or a Ray cluster (default: local)",
        choices=("local", "ray"),
        section="shards",
    )
    jobs: int = option("shards computed at the same time (0: one per GPU, or per four cores)", 0)
    address: str | None = option(
        "with --engine ray, the cluster, such as auto or ray://head:10001 (default: one of this"
        " machine)",
        metavar="A",
    )
    gpus_per_job: float | None = option(
        "with --engine ray, GPUs of a job, also a part of one, such as 0.5 (default: 1 where the"
        " cluster has any)"
    )
    cpus_per_job: float | None = option("with --engine ray, processors of a job (default: 1)")
    part: str | None = option(
        "do the I-th of N equal parts of the shards alone, such as 3/16, for Slurm and cron",
        metavar="I/N",
    )
    shard_size: int = option(
        f"cut a folder or a dataset into shards of N images (default: {SHARD_SIZE} with an option"
        " of shards)",
        0,
    )
    retry_errors: bool = option("compute again the images of finished shards that failed", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be done with."""
        parent: Any = super()
        parent.__post_init__()
        require_at_least(self, jobs=0, shard_size=0)
        if self.part is not None:
            self.numbers_of_part()
        if self.engine != "ray":
            names = ("address", "gpus_per_job", "cpus_per_job")
            refuse_given(self, names, "is for --engine ray; give both")
        if self.is_sharded:
            _check_sharded(self)

    @cached_property
    def is_sharded(self) -> bool:
        """Whether the job works on shards: so its inputs, or its options, say."""
        asked: Any = self
        if any(getattr(self, one.name) not in (None, 0, False) for one in fields(ShardOptions)):
            return True
        out, to = asked.out, asked.to
        return (
            WEBDATASET in to
            or (out is not None and is_address(str(out)))
            or any(names_shards(word) for word in asked.images if isinstance(word, str))
        )

    def numbers_of_part(self) -> tuple[int, int]:
        """(I, N) of --part; (1, 1) without. Raises UserError."""
        found = _PART.fullmatch(self.part or "1/1")
        numbers = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= numbers[0] <= numbers[1]:
            raise UserError(f"--part must be I/N, such as 3/16, not {printable(self.part)}")
        return numbers


# what is written of one folder of images, and has no place in shards
_ELSEWHERE = (
    *("csv", "all_probabilities", "top5", "truth", "label_column", "predictions", "sidecar"),
    *("keep_candidates", "texts", "overwrite", "limit"),
)


def _check_sharded(options: Any) -> None:
    if options.out is None:
        what = next(filter(names_shards, options.images), "what is given")
        raise UserError(
            f"{printable(what)} is read in shards: name the folder, or the address, of the answers"
            " with --out"
        )
    refuse_given(options, _ELSEWHERE, "is not for shards; leave it out")
    other = [name for name in options.to if name != WEBDATASET]
    if other:
        raise UserError(
            f"--to {printable(other[0])}: shards are written as Parquet into --out, and with --to"
            " webdataset as tars besides"
        )
    for word in options.images:
        if word == "-":
            raise UserError("a list on standard input is not cut into shards; name the folder")
    out = str(options.out)
    if not is_address(out) and os.path.lexists(out) and not os.path.isdir(out):  # noqa: PTH112
        raise UserError(f"--out {printable(out)} is not a folder; name one")


@dataclass(kw_only=True)
class ShardsOptions:
    """`captune shards`."""

    action: str = option(
        "status: how much of a job is done, as OUT alone says; merge: a run folder of what is done",
        ...,
        nargs=None,
        choices=("status", "merge"),
    )
    place: str = option(
        "where the shards of answers are, a folder or an address: the --out of the job",
        ...,
        nargs=None,
        metavar="OUT",
    )
    out: Path | None = option(
        "with merge, the run folder to write (default: OUT itself)", metavar="RUN"
    )
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        if self.action == "status" and self.out is not None:
            raise UserError("--out is for captune shards merge; leave it out")
        if self.action == "merge" and self.out is None:
            if is_address(self.place):
                raise UserError(f"--out RUN is missing: a run folder of {printable(self.place)}")
            self.out = Path(self.place)
        check_overwrite(self)
