"""What a captioner is made of, as its config.json says it, and the model built from it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from msgspec import Meta, Struct, field, to_builtins

import captune
from captune.captioning.bridge import BRIDGES, GridShape
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.tuning import TUNING_METHODS
from captune.errors import UserError
from captune.json_yaml import json_kind
from captune.models.decoders import Decoder
from captune.runs.kinds import convert
from captune_metrics.text import printable, quoted, shorten

SCHEMA = 1
_LARGEST = 10**9
_MOST_PLACES = 2**20

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
Name = Annotated[str, Meta(pattern=r"\S")]


@dataclass(frozen=True)
class ImageIdentity:
    """Which frozen image encoder a captioner sees through, and which of its outputs.

    spec: how it was named. preprocessing_id: of the transform from image to pixels.
    """

    spec: Text
    weights_id: Text
    preprocessing_id: Text


@dataclass(frozen=True)
class TagSettings:
    """Which tags a captioner reads beside an image: the labels that a classifier chose.

    labels: what it chose among; prompts: of each label, where they have their own. top: how many it
    chose. model: the classifier's.
    """

    labels: Annotated[tuple[Name, ...], Meta(min_length=1)]
    prompts: tuple[Annotated[tuple[Name, ...], Meta(min_length=1)], ...] | None
    top: Annotated[int, Meta(ge=1, le=10_000)]
    model: ImageIdentity


@dataclass(frozen=True)
class DecoderIdentity:
    """Which frozen decoder a captioner writes with.

    spec: how it was named. blocks: how many of its first ones were kept; 0: all. tokens: ids of
    those that were kept, with spaces between them, or "all".
    """

    spec: Text
    blocks: Annotated[int, Meta(ge=0, le=1024)]
    decoder_id: Text
    tokens: Annotated[str, Meta(max_length=8 * 2**20, pattern=r"^(all|\d{1,8}( \d{1,8})*)$")]

    @property
    def kept(self) -> tuple[int, ...]:
        """The ids of the kept tokens; none where all were."""
        return () if self.tokens == "all" else tuple(map(int, self.tokens.split()))


@dataclass(frozen=True)
class Part:
    """A bridge or a tuning method by its name, with the fields of its Config."""

    name: Text
    config: dict[str, Any]


class Recipe(Struct, frozen=True, omit_defaults=True):
    """config.json: what a captioner is made of."""

    image_encoder: ImageIdentity
    decoder: DecoderIdentity
    grid: GridShape
    bridge: Part
    method: Part
    max_tokens: Annotated[int, Meta(ge=1, le=_MOST_PLACES)]
    tags: TagSettings | None = field(name="known_words", default=None)

    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        return {"schema": SCHEMA, "captune": captune.__version__, **to_builtins(self)}


def recipe_of_json(content: Mapping[str, Any], where: str) -> Recipe:
    """What `as_json` made of a recipe. where: the file, for sentences.

    Raises UserError for a field that is missing, of another kind or beyond what a captioner can be;
    the settings of bridge and method are looked at where these are known.
    """
    schema = content.get("schema")
    if schema != SCHEMA or type(schema) is not int:
        shown = printable(shorten(repr(schema), 84))
        raise UserError(f"{where} was written with schema {shown}, this captune reads {SCHEMA}")
    try:
        recipe = convert(content, Recipe)
    except ValueError as error:
        raise UserError(f"{where}: {printable(str(error))}") from None
    known = recipe.as_json()
    for part in ("image_encoder", "grid"):
        for name in content[part].keys() - known[part].keys():
            raise UserError(f"{where}: {part}: {quoted(name)} is not a field that captune knows")
    grid = recipe.grid
    if (
        not all(0 <= size <= _MOST_PLACES for size in dataclasses.astuple(grid))
        or grid.channels < 1
        or grid.tokens != grid.leading + grid.rows * grid.columns
    ):
        raise UserError(f"{where}: grid is inconsistent: tokens must be leading + rows * columns")
    if recipe.tags and len(recipe.tags.prompts or recipe.tags.labels) != len(recipe.tags.labels):
        raise UserError(f"{where}: known_words: prompts must be as many lists as there are labels")
    return recipe


Settings = Mapping[str, Any]


def build_model(
    decoder: Decoder,
    grid: GridShape,
    *,
    bridge: str,
    method: str,
    bridge_settings: Settings | None = None,
    method_settings: Settings | None = None,
    reads_tags: bool = False,
    seed: int = 0,
    room: Mapping[str, int] | None = None,
) -> CaptionModel:
    """A model that is not trained yet; the same seed gives the same first weights.

    Settings are fields of the Config of bridge and method; what is left out keeps its default.
    room: how many parameters there are for "bridge" and "tuning", where those of a file will be put
    in; nothing is built that needs more.
    The decoder is wrapped: `model.detach()` gives it back.
    Raises UserError for an unknown name or setting.
    """
    bridge_type, method_type = BRIDGES.get(bridge), TUNING_METHODS.get(method)
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
        model = CaptionModel(decoder, built, tuning(method_config), grid, reads_tags=reads_tags)
    # on the device at once: who generates with it need not know where the decoder lies
    return model.to(decoder.device)


def config_of(kind: type[Any], settings: Settings, name: str) -> Any:
    """The Config `kind` with some fields set. Raises UserError for a field that it lacks."""
    hints = typing.get_type_hints(kind)
    unknown = [key for key in settings if key not in hints]
    if unknown:
        has = ", ".join(hints) or "nothing to set"
        raise UserError(f"{name}: has no setting {quoted(unknown[0])}; it has {has}")
    for known in dataclasses.fields(kind):
        if known.name in settings:
            _check_kind(settings[known.name], known.default, f"{name}: {known.name}")
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
        kind = BRIDGES.get(bridge).Config if part == "bridge" else TUNING_METHODS.get(part).Config
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
            f"--set {word}: {text!r} is not a {'whole number' if kind is int else 'number'}"
        ) from None
