"""Entry points of other packages, found by their group; none is loaded here."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def source_of(point: EntryPoint) -> str:
    """The package of an entry point, with its version."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


@cache
def plugins_of(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of a group, read once; none is loaded. Of one name, the first counts."""
    from importlib.metadata import entry_points  # takes longer than all of `captune --help`

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        found.setdefault(point.name, point)
    return found
