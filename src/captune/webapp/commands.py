"""The command line that gives what the page shows: options of a job -> the words to type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


def words_of(
    command: str, options: Any, shown: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """`captune COMMAND` with every option that is not at its default.

    options: the dataclass of the command. shown: what to write instead of a field's own value, as
    the names that a person gave images.
    """
    positional: list[str] = []
    flags: list[str] = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None or value == _default(field):
            continue
        written = list((shown or {}).get(field.name) or _texts(value))
        flag = "--" + field.name.replace("_", "-")
        if field.metadata.get("positional"):
            # a file may be called -v
            positional += [f"./{word}" if word.startswith("-") else word for word in written]
        elif value is True:
            flags.append(flag)
        else:
            for word in written:
                flags += [f"{flag}={word}"] if word.startswith("-") else [flag, word]
    return ["captune", command, *positional, *flags]


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
