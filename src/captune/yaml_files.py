"""YAML of the user's, or of somebody else's: plain values, as many as captune's own files need.

A reference (`*name`) stands for the whole of what it names: a few lines of them stand for billions.
"""

from __future__ import annotations

from typing import Any

import yaml

from captune.errors import UserError
from captune.files import printable

_MOST_CHARACTERS = 2**20
_MOST_VALUES = 100_000
_DEEPEST = 32  # mappings and lists in one another


def parse_yaml(text: str, shown: str, expected: str) -> Any:
    """The value of a YAML text. shown: its file, printable. expected: what a sentence asks for.

    Raises UserError for what is no YAML and for what is too large or too deep.
    """
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{shown}: is over {_MOST_CHARACTERS // 2**20} MiB; {expected}")
    try:
        return yaml.load(text, Loader=_BoundedLoader)  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date with a 13th month, a number of 5,000 digits
        reason = getattr(error, "problem", None) or "a value that nothing can hold"
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{shown}: is not valid YAML{line} ({printable(str(reason))}); {expected}"
        ) from None


class _BoundedLoader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader; a reference counts as often as what it names would, written out."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values = 0
        self._named: dict[str, int] = {}  # values below a name; none while it is still read

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class; raises ComposerError for too much."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._named:
                self._refuse("something that holds itself", event)
            self._count(self._named.get(event.anchor, 0), event)
            return super().compose_node(parent, index)
        if self._depth >= _DEEPEST:
            self._refuse(f"nested more than {_DEEPEST} deep", event)
        before = self._values
        self._count(1, event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._named[event.anchor] = self._values - before
        return node

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            self._refuse(f"more than {_MOST_VALUES:,} values", event)

    def _refuse(self, what: str, event: Any) -> None:
        raise yaml.composer.ComposerError(None, None, what, event.start_mark)
