"""The options of a tune as YAML: written into its run, and read back with `--config`."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from captune.errors import UserError
from captune.files import printable, read_text, whole_file
from captune.options import TuneOptions
from captune.text import shorten
from captune.yaml_files import parse_yaml

# where a run is written, and from what options it was read, is not part of what it is
_NOT_KEPT = ("config", "out", "overwrite")
# what may change between a kill and going on: it changes no weight
_NOT_DECIDING = (
    *(
        "config",
        "out",
        "overwrite",
        "method",
        "max_trainable",
        "device",
        "workers",
        "no_cache",
        "save_steps",
    ),
    *("images", "captions", "val", "val_images", "encoder", "decoder", "score_model", "start"),
    # these are noted by what they come to, and not at all where they are left alone
    *("augment", "known_words", "known_words_top", "known_words_model"),
)


def write_config(options: TuneOptions, path: Path) -> None:
    """Every option but where the run was written, in the order of `--help`."""
    values = {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(options).items()
        if name not in _NOT_KEPT
    }
    with whole_file(path) as file:
        file.write("# read back with: captune tune --config THIS_FILE --out RUN\n")
        yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)


def read_config(path: Path) -> dict[str, Any]:
    """Option name -> value. Raises UserError for what is no such file, option or kind of value."""
    shown = printable(str(path))
    content = parse_yaml(read_text(str(path)), shown, "give the config.yaml of a tune")
    if not isinstance(content, Mapping):
        raise UserError(f"{shown}: holds no options; expected lines such as `epochs: 10`")
    hints = typing.get_type_hints(TuneOptions)
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in hints or name in _NOT_KEPT:
            raise UserError(f'{shown}: captune tune has no option "{printable(str(key))}"')
        values[name] = _checked(value, hints[name], f"{shown}: {name}")
    return values


def with_config(options: TuneOptions, typed: Sequence[str]) -> TuneOptions:
    """`options` with what its config file says, but for the options that were typed.

    typed: names of the options on the command line.
    """
    if options.config is None:
        return options
    values = read_config(options.config)
    kept = {name: value for name, value in values.items() if name not in typed}
    return dataclasses.replace(options, **kept)


def deciding(options: TuneOptions) -> dict[str, Any]:
    """The options that a training depends on, beside its data, its frozen parts and its method."""
    values = dataclasses.asdict(options)
    return {name: value for name, value in values.items() if name not in _NOT_DECIDING}


def _checked(value: Any, hint: Any, place: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if typing.get_origin(hint) is list:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise UserError(f"{place}: is {_shown(value)}, and a list of texts was expected")
    if hint is float and type(value) is str:  # YAML reads 5e-4 as a text
        try:
            return float(value)
        except ValueError:
            pass
    if hint is float and type(value) is int:
        return float(value)
    if hint is str and type(value) is int:
        return str(value)
    if type(value) not in kinds:
        raise UserError(f"{place}: is {_shown(value)}, and a {hint.__name__} was expected")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return printable(shorten(text, 80))
