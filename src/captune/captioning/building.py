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
from captune.models.decoders import Decoder

Settings = Mapping[str, Any]


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
) -> Captioner:
    """A captioner that is not trained yet; the same seed gives the same first weights.

    Settings are fields of the Config of bridge and method; what is left out keeps its default.
    kind: the class that is made.
    The decoder is wrapped: `captioner.detach()` gives it back.
    Raises UserError for an unknown name or setting.
    """
    bridge_type, method_type = bridge_class(bridge), method_class(method)
    bridge_config = config_of(bridge_type.Config, bridge_settings or {}, bridge)
    method_config = config_of(method_type.Config, method_settings or {}, method)
    parts = find_parts(decoder.module)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = bridge_type
        built = made(bridge_config, grid, parts).to(decoder.device)
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
        raise UserError(f'{name}: has no setting "{unknown[0]}"; it has {known}')
    return kind(**settings)


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
