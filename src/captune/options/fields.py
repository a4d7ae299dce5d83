"""Fields of a dataclass that the command line can read."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from captune.errors import UserError


def option(help: str, default: Any = ..., **extra: Any) -> Any:
    """A dataclass field that knows its `--help` text.

    extra: `metavar`, `choices`, `repeat` (the flag may be given several times), `positional` (with
    `nargs` as argparse has it: "+" one or more, the default; "?" one or none; None exactly one).
    """
    metadata = {"help": help, **extra}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def overwrite_option() -> Any:
    """`--overwrite` of a command that writes a run folder."""
    return option("let --out replace the run of another command", False)


def check_overwrite(options: Any) -> None:
    """Raises UserError where there is nothing to overwrite."""
    if options.overwrite and options.out is None:
        raise UserError("--overwrite: is for --out; give both, or neither")


def require_at_least(options: Any, **least: int) -> None:
    """Raises UserError for the first of these fields of `options` that is below its least value."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value < smallest:
            raise UserError(f"{name.replace('_', '-')} {value}: must be {smallest} or more")
