"""`captune cache`: what the feature cache holds, how much it may hold, and making it smaller."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captune.cli.console import print_json, print_tables
from captune.errors import UserError
from captune.escaping import console
from captune.text import file_size
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.features.cache import SpaceUsage
    from captune.tables import Table


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def run(arguments: argparse.Namespace) -> int:
    """Change what is asked for, then show what is there."""
    from captune.features.cache import FeatureCache

    limit = None if arguments.limit is None else parse_size(arguments.limit)
    with FeatureCache() as cache:
        if limit is not None:
            cache.set_limit(limit)
        freed = None
        if arguments.action == "prune":
            freed = cache.prune()
        elif arguments.action == "clear":
            freed = cache.clear()
        if (limit is not None or freed is not None) and not cache.is_writable:
            raise UserError(
                f"{printable(cache.folder)} cannot be written to; make room, or name another"
                " folder in CAPTUNE_CACHE"
            )
        found = cache.statistics()
    spaces = [
        {
            "what": usage.space.what,
            "model": usage.spec,
            **usage.space._asdict(),
            "entries": usage.entries,
            "size_bytes": usage.size_bytes,
        }
        for usage in found.spaces
    ]
    if arguments.json:
        print_json(
            "cache",
            images=sum(u.entries for u in found.spaces if u.space.what == "pooled"),
            action=arguments.action,
            folder=str(found.folder),
            size_bytes=found.size_bytes,
            limit_bytes=found.limit_bytes,
            freed_bytes=freed,
            models=spaces,
        )
        return 0
    if arguments.table is not None:
        print_tables([_table(found.spaces)], arguments.table)
        return 0
    out = console()
    if freed is not None:
        out.print(f"{file_size(freed)} freed", soft_wrap=True)
    out.print(
        f"{found.folder}: {file_size(found.size_bytes)} of at most {file_size(found.limit_bytes)}",
        soft_wrap=True,
    )
    if spaces:
        print_tables([_table(found.spaces)], None)
    return 0


def _table(spaces: Sequence[SpaceUsage]) -> Table:
    from captune.tables import Column, Number, Table, numbers

    rows = [
        [
            usage.spec or f"weights {usage.space.weights_id[:12]}",
            {"pooled": "images", "texts": "prompts"}.get(usage.space.what, usage.space.what),
            Number(usage.entries, f"{usage.entries:,}"),
            Number(usage.size_bytes, file_size(usage.size_bytes)),
            f"{usage.space.dtype}, {usage.space.backend.removeprefix('torch-')}",
        ]
        for usage in spaces
    ]
    columns = [Column("model", wide=True), Column("what"), *numbers("entries", "size")]
    columns.append(Column("computed in"))
    return Table("cache", "", columns, rows)


def parse_size(text: str) -> int:
    """`20GB`, `1.5 T`, `500m` or a number of bytes -> bytes; units are powers of 1000."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UserError(f"--limit {text}: not a size; write it as 500MB or 20GB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
