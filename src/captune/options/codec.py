"""Options in their other forms: command-line arguments, the words of a command, Python keywords."""

from __future__ import annotations

import argparse
import dataclasses
import numbers
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from captune.errors import UserError
from captune.options.base import CaptionsInMemory
from captune_metrics.display import quoted

T = TypeVar("T")
# numpy's are numbers, too
_NUMBERS = {int: (numbers.Integral, "a whole number"), float: (numbers.Real, "a number")}
_METAVARS = {int: "N", float: "X", Path: "FILE"}
# texts that may be the path of a file or a folder, too
_PATHS = re.compile(r"\b(FILE|FOLDER|RUN|OUT|SPEC|LABELS|TRUTH|STUDY|DF)\b")


def add_options(parser: argparse.ArgumentParser, options: type[Any]) -> None:
    """Add one argument per field of the dataclass `options`; `batch_size` is `--batch-size`.

    A field with a `section` begins a part of `--help`, which ends with the class that it is of.
    """
    hints = typing.get_type_hints(options)
    # a subclass's own fields come first in --help, the inherited ones (model, device) after
    depth = {
        field.name: level
        for level, base in enumerate(options.__mro__[:-1])
        for field in dataclasses.fields(base)
    }
    groups: dict[str | None, argparse._ActionsContainer] = {None: parser}
    level, section = 0, None
    for field in sorted(dataclasses.fields(options), key=lambda field: depth[field.name]):
        if depth[field.name] != level:
            level, section = depth[field.name], None
        section = field.metadata.get("section", section)
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        group = groups[None if _is_place(field) else section]
        _add_field(group, field, hints[field.name])


def names_a_path(action: argparse.Action) -> bool:
    """Whether an argument that `add_options` added takes files or folders."""
    is_list = not action.option_strings and action.nargs in ("+", "*")
    is_named = _PATHS.search(str(action.metavar)) is not None
    return action.choices is None and (action.type is _path or is_list or is_named)


def read_options(options: type[T], arguments: argparse.Namespace) -> T:
    """The dataclass filled from parsed arguments."""
    return options(**{field.name: getattr(arguments, field.name) for field in _fields(options)})


def typed_options(
    options: type[Any], arguments: argparse.Namespace, words: Sequence[str]
) -> list[str]:
    """Names of the options that were typed, and so do not stand at their default by chance.

    words: the command line that `arguments` were parsed from.
    """
    flags = {field.name: _flag(field) for field in _fields(options)}
    typed = [word.partition("=")[0] for word in words if word.startswith("--")]
    return [
        field.name
        for field in _fields(options)
        if (
            getattr(arguments, field.name) != _default(field)
            if _is_place(field)
            # argparse takes --cap for --captions, and a whole flag before a longer one
            else any(
                word == flags[field.name]
                or (word not in flags.values() and flags[field.name].startswith(word))
                for word in typed
            )
        )
    ]


def words_of(
    command: str, options: Any, shown: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """`captune COMMAND` with every option that is not at its default.

    options: the dataclass of the command. shown: what to write instead of a field's own value, as
    the names that a person gave images.
    """
    positional: list[str] = []
    flags: list[str] = []
    for field in _fields(options):
        value = getattr(options, field.name)
        if value is None or value == _default(field):
            continue
        texts = value if isinstance(value, list | tuple) else [value]
        written = [*map(str, (shown or {}).get(field.name) or texts)]
        if _is_place(field):
            # a file may be called -v
            positional += [f"./{word}" if word.startswith("-") else word for word in written]
        elif value is True:
            flags.append(_flag(field))
        else:
            for word in written:
                flag = _flag(field)
                flags += [f"{flag}={word}"] if word.startswith("-") else [flag, word]
    return ["captune", command, *positional, *flags]


def from_python(options: type[T], **keywords: Any) -> T:
    """The dataclass filled from the keywords of a call.

    Where an option is a path, a string does as well; where it is a list of texts, so does a single
    one, and a list where it is texts or numbers with commas between. Images may be in memory
    (`images.find_images`). Raises UserError where something else stands for a path, a text or a
    number, and TypeError for a keyword that is no option and for an option that is missing.
    """
    hints = typing.get_type_hints(options)
    listed = {f.name for f in _fields(options) if "," in (f.metadata.get("metavar") or "")}
    for name in listed & keywords.keys():
        if isinstance(keywords[name], list | tuple):
            keywords[name] = _with_commas(name, keywords[name])
    kept = {field.name for field in _fields(options) if field.metadata.get("captions")}
    for name in kept & keywords.keys():
        if isinstance(keywords[name], dict | list):
            keywords[name] = CaptionsInMemory.of(name, keywords[name])
    images = {field.name for field in _fields(options) if field.metadata.get("images")}
    made = {
        name: _of_python(name, value, hints.get(name))
        for name, value in keywords.items()
        if name not in images
    }
    for name in images & keywords.keys():
        from captune.images.find import image_sources  # the command line needs no imaging here

        made[name] = image_sources(keywords[name])
    return options(**made)


def _with_commas(name: str, value: Sequence[Any]) -> str:
    texts = [str(one) for one in value]
    for text in texts:
        if "," in text:
            raise UserError(f"{name}: {quoted(text)} has a comma, which divides one from the next")
    return ",".join(texts)


def _fields(options: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(options)


def _is_place(field: dataclasses.Field[Any]) -> bool:
    """Whether it is a positional argument, and no flag."""
    return "nargs" in field.metadata


def _flag(field: dataclasses.Field[Any]) -> str:
    return "--" + field.name.rstrip("_").replace("_", "-")  # from_ is --from


def _default(field: dataclasses.Field[Any]) -> Any:
    """The default value; MISSING for an option that has to be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _add_field(
    parser: argparse._ActionsContainer, field: dataclasses.Field[Any], hint: Any
) -> None:
    meta = field.metadata
    default = _default(field)
    required = default is dataclasses.MISSING
    default = None if required else default
    text = meta["help"].replace("%", "%%")
    if "names" in meta:
        text += ": " + ", ".join(meta["names"]())
    if default not in (None, False, [], "") and not _is_place(field):
        text += f" (default: {default})"
    keywords: dict[str, Any] = {"help": text}
    if "choices" in meta:
        keywords["choices"] = meta["choices"]
    if "metavar" in meta or "choices" not in meta:
        keywords["metavar"] = meta.get("metavar", _METAVARS.get(_kind(hint)))
    if _is_place(field):
        nargs = meta["nargs"]
        if nargs != "+":
            keywords["type"] = _parser_of(hint)
        if nargs == "?":
            keywords["default"] = default
        parser.add_argument(field.name, nargs=nargs, **keywords)
    elif hint is bool:
        parser.add_argument(_flag(field), action="store_true", help=text)
    elif meta.get("repeat"):
        parser.add_argument(_flag(field), action="append", default=[], **keywords)
    else:
        keywords["type"] = _parser_of(hint)
        place = {"dest": field.name, "default": default, "required": required}
        parser.add_argument(_flag(field), **place, **keywords)


def _parser_of(hint: Any) -> Any:
    """What reads a word; a number says what it expected."""
    return {Path: _path, int: int, float: float}.get(_kind(hint), str)


def _kind(hint: Any) -> Any:
    """`Path | None` -> Path."""
    return next(kind for kind in _kinds(hint) if kind is not type(None))


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _path(text: str) -> Path:
    # Path("") is the working folder, which an empty variable of a script does not mean
    if not text:
        raise argparse.ArgumentTypeError("names no file or folder, it is empty")
    return Path(text)


def _of_python(name: str, value: Any, hint: Any) -> Any:
    kinds = _kinds(hint)
    is_path = isinstance(value, str | os.PathLike)
    if {*kinds} <= {Path, types.NoneType} and Path in kinds and value is not None and not is_path:
        raise UserError(f"{name}: expected a path, not {type(value).__name__}")
    if Path in kinds and is_path:
        return value if isinstance(value, CaptionsInMemory) else Path(value)
    if str in kinds and is_path:
        return os.fspath(value)
    number = _NUMBERS.get(_kind(hint))
    if number is not None and not isinstance(value, (*kinds, number[0])):
        raise UserError(f"{name}: expected {number[1]}, not {type(value).__name__}")
    if list[str] in kinds and (value is not None or types.NoneType not in kinds):
        is_one = is_path or isinstance(value, bytes) or not isinstance(value, Iterable)
        several = [value] if is_one else list(value)
        for one in several:
            if not isinstance(one, str | os.PathLike | int | float):
                raise UserError(f"{name}: expected texts or paths, not {type(one).__name__}")
        return [str(one) for one in several]
    return value
