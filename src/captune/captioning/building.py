"""A captioner from plain values: names of bridge and method, their settings, a seed."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from captune.captioning.bridge import GridShape, bridge_class
from captune.captioning.model import Captioner
from captune.captioning.structure import find_parts
from captune.captioning.tuning import method_class
from captune.errors import UserError
from captune.files import json_kind, quoted
from captune.models.decoders import Decoder

Settings = Mapping[str, Any]
_LARGEST = 10**9


def build_captioner(
    decoder: Decoder,
    grid: GridShape,
    *,
    bridge: str,
    method: str,
    bridge_settings: Settings | None = None,
    method_settings: Settings | None = None,
    seed: int = 0,
    kind: type[Captioner] = Captioner,
    room: Mapping[str, int] | None = None,
) -> Captioner:
    """A captioner that is not trained yet; the same seed gives the same first weights.

    Settings are fields of the Config of bridge and method; what is left out keeps its default.
    kind: the class that is made. room: how many parameters there are for "bridge" and "tuning",
    where those of a file will be put in; nothing is built that needs more.
    The decoder is wrapped: `captioner.detach()` gives it back.
    Raises UserError for an unknown name or setting.
    """
    bridge_type, method_type = bridge_class(bridge), method_class(method)
    bridge_config = config_of(bridge_type.Config, bridge_settings or {}, bridge)
    method_config = config_of(method_type.Config, method_settings or {}, method)
    parts = find_parts(decoder.module)
    if room is not None:
        _check_room(bridge, bridge_type.count(bridge_config, grid, parts), room["bridge"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = bridge_type
        built = made(bridge_config, grid, parts).to(decoder.device)
        if room is not None:
            _check_room(method, method_type.count(method_config, parts, built), room["tuning"])
        tuning: Any = method_type
        captioner = kind(decoder, built, tuning(method_config), grid)
    # on the device at once: who writes with it need not know where the decoder lies
    return captioner.to(decoder.device)


def config_of(kind: type[Any], settings: Settings, name: str) -> Any:
    """The Config `kind` with some fields set. Raises UserError for a field that it lacks."""
    hints = typing.get_type_hints(kind)
    unknown = [key for key in settings if key not in hints]
    if unknown:
        known = ", ".join(hints) or "nothing to set"
        raise UserError(f"{name}: has no setting {quoted(unknown[0])}; it has {known}")
    for field in dataclasses.fields(kind):
        if field.name in settings:
            _check_kind(settings[field.name], field.default, f"{name}: {field.name}")
    return kind(**settings)


def _check_kind(value: Any, default: Any, where: str) -> None:
    """Raise UserError for a value of another kind than the default, and for absurd numbers."""
    shown = repr(value)[:40] if isinstance(value, str | bool | float) else json_kind(value)
    if isinstance(default, bool) or not isinstance(default, int | float):
        if isinstance(default, bool | str) and type(value) is not type(default):
            expected = "a text" if isinstance(default, str) else "true or false"
            raise UserError(f"{where} is {shown}; expected {expected}")
        return
    is_number = type(value) is int or (isinstance(default, float) and type(value) is float)
    if not is_number or not -_LARGEST <= value <= _LARGEST:
        number = "a number" if isinstance(default, float) else "a whole number"
        raise UserError(f"{where} is {shown}; expected {number} of at most {_LARGEST:,}")


def _check_room(name: str, needed: int, has: int) -> None:
    if needed > has:
        raise UserError(
            f"{name}: its settings make {needed:,} parameters, and the weights hold {has:,} for it;"
            " config.json and weights are not of one checkpoint"
        )


def read_settings(words: Sequence[str], *, bridge: str) -> dict[str, dict[str, Any]]:
    """`lora.rank=8`, `bridge.width=256` -> {part: {setting: value}}; `bridge` is the chosen one.

    Raises UserError for what is not PART.SETTING=VALUE, a part or setting that does not exist, and
    a value of another kind than the setting's default.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        path, equals, text = word.partition("=")
        part, dot, name = path.partition(".")
        if not equals or not dot:
            raise UserError(f"--set {word}: write PART.SETTING=VALUE, as in lora.rank=8")
        kind = bridge_class(bridge).Config if part == "bridge" else method_class(part).Config
        fields = {f.name: f for f in dataclasses.fields(kind)}
        if name not in fields:
            known = ", ".join(fields) or "nothing to set"
            raise UserError(f'--set {word}: {part} has no setting "{name}"; it has {known}')
        found.setdefault(part, {})[name] = _value(text, fields[name].default, word)
    return found


def _value(text: str, default: Any, word: str) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"--set {word}: must be true or false")
        return text.lower() == "true"
    kind = type(default)
    try:
        return kind(text)
    except ValueError:
        raise UserError(
            f"--set {word}: {text!r} is no {'whole number' if kind is int else 'number'}"
        ) from None
