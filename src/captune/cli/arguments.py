"""An options dataclass becomes command-line arguments, and back."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

Options = TypeVar("Options")


def add_options(parser: argparse.ArgumentParser, options: type[Any]) -> None:
    """One argument a field of the dataclass `options`; `batch_size` becomes `--batch-size`."""
    hints = typing.get_type_hints(options)
    # a subclass's own fields come first in --help, the inherited ones (model, device) after
    depth = {
        field.name: level
        for level, base in enumerate(options.__mro__[:-1])
        for field in dataclasses.fields(base)
    }
    for field in sorted(dataclasses.fields(options), key=lambda field: depth[field.name]):
        _add_field(parser, field, hints[field.name])


def _add_field(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], hint: Any) -> None:
    meta = field.metadata
    required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    default = None if required else _default(field)
    text = meta["help"].replace("%", "%%")
    if default not in (None, False, []) and not meta.get("positional"):
        text += f" (default: {default})"
    keywords: dict[str, Any] = {"help": text}
    for name in ("metavar", "choices"):
        if name in meta:
            keywords[name] = meta[name]
    if meta.get("positional"):
        nargs = meta.get("nargs", "+")
        if nargs != "+":
            keywords["type"] = _parser_of(hint)
        if nargs == "?":
            keywords["default"] = default
        parser.add_argument(field.name, nargs=nargs, **keywords)
        return
    flag = "--" + field.name.replace("_", "-")
    if hint is bool:
        parser.add_argument(flag, action="store_true", help=text)
    elif meta.get("repeat"):
        parser.add_argument(flag, action="append", default=[], **keywords)
    else:
        keywords["type"] = _parser_of(hint)
        parser.add_argument(flag, default=default, required=required, **keywords)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    assert field.default_factory is not dataclasses.MISSING
    return field.default_factory()


def _parser_of(hint: Any) -> Any:
    """`Path | None` -> Path; a number says what it expected."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if hint is Path:
        return _path
    return hint if hint in (int, float, str) else str


def _path(text: str) -> Path:
    # Path("") is the working folder, which an empty variable of a script does not mean
    if not text:
        raise argparse.ArgumentTypeError("names no file or folder, it is empty")
    return Path(text)


def read_options(options: type[Options], arguments: argparse.Namespace) -> Options:
    """The dataclass filled from parsed arguments."""
    names = [field.name for field in dataclasses.fields(typing.cast("Any", options))]
    return options(**{name: getattr(arguments, name) for name in names})
