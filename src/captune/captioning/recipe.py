"""What a captioner is made of, as its config.json says it, and the model built from it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import captune
from captune.captioning.bridge import GridShape, bridge_class
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.tuning import method_class
from captune.errors import UserError
from captune.files import printable, quoted
from captune.models.decoders import Decoder
from captune.parsing import json_kind
from captune_metrics.text import shorten

SCHEMA = 1
_MOST_BLOCKS = 1024
_MOST_TAGS = 10_000
_LARGEST_TOKENS = 8 * 2**20  # characters
_LARGEST = 10**9


@dataclass(frozen=True)
class ImageIdentity:
    """Which frozen image encoder a captioner sees through, and which of its outputs.

    spec: how it was named. preprocessing_id: of the transform from image to pixels.
    """

    spec: str
    weights_id: str
    preprocessing_id: str


@dataclass(frozen=True)
class TagSettings:
    """Which tags a captioner reads beside an image: the labels that a classifier chose.

    labels: what it chose among; prompts: of each label, where they have their own. top: how many it
    chose. model: the classifier's.
    """

    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...] | None
    top: int
    model: ImageIdentity


@dataclass(frozen=True)
class Recipe:
    """config.json: what a captioner is made of."""

    image_encoder: ImageIdentity
    decoder_spec: str
    decoder_id: str
    grid: GridShape
    bridge: str
    bridge_config: dict[str, Any]
    method: str
    method_config: dict[str, Any]
    max_tokens: int = 60
    decoder_blocks: int = 0
    tokens: tuple[int, ...] = ()
    tags: TagSettings | None = None

    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        return {
            "schema": SCHEMA,
            "captune": captune.__version__,
            "image_encoder": dataclasses.asdict(self.image_encoder),
            "decoder": {
                "spec": self.decoder_spec,
                "blocks": self.decoder_blocks,
                "decoder_id": self.decoder_id,
                "tokens": " ".join(map(str, self.tokens)) or "all",
            },
            "grid": dataclasses.asdict(self.grid),
            "bridge": {"name": self.bridge, "config": self.bridge_config},
            "method": {"name": self.method, "config": self.method_config},
            "max_tokens": self.max_tokens,
            **({} if self.tags is None else {"known_words": dataclasses.asdict(self.tags)}),
        }


def recipe_of_json(content: Any, where: str) -> Recipe:
    """What `as_json` made of a recipe. where: the file, for sentences.

    Raises UserError for a field that is missing, of another kind or beyond what a captioner can be;
    the settings of bridge and method are looked at where these are known.
    """
    about = _Fields(content, where)
    if (schema := about.content.get("schema")) != SCHEMA or type(schema) is not int:
        raise UserError(
            f"{where} was written with schema {_shown(schema)}, this captune reads {SCHEMA}"
        )
    decoder, bridge, method = (about.object(name) for name in ("decoder", "bridge", "method"))
    grid = about.object("grid")
    sizes = {field.name: grid.count(field.name, 0) for field in dataclasses.fields(GridShape)}
    grid.has_only(*sizes)
    shape = GridShape(**sizes)
    if shape.channels < 1 or shape.tokens != shape.leading + shape.rows * shape.columns:
        raise UserError(f"{where}: grid is inconsistent: tokens must be leading + rows * columns")
    tags = about.content.get("known_words")
    return Recipe(
        _identity_of(about.object("image_encoder")),
        decoder.text("spec"),
        decoder.text("decoder_id"),
        shape,
        bridge.text("name"),
        bridge.object("config").content,
        method.text("name"),
        method.object("config").content,
        about.count("max_tokens", 1),
        decoder.count("blocks", 0, _MOST_BLOCKS),
        _tokens_of(decoder),
        None if tags is None else _tags_of(about.object("known_words")),
    )


def _identity_of(about: _Fields) -> ImageIdentity:
    names = [field.name for field in dataclasses.fields(ImageIdentity)]
    about.has_only(*names)
    return ImageIdentity(*map(about.text, names))


def _tokens_of(decoder: _Fields) -> tuple[int, ...]:
    text = decoder.text("tokens", _LARGEST_TOKENS)
    if text == "all":
        return ()
    words = text.split()
    if not words or not all(
        word.isascii() and word.isdecimal() and len(word) < 9 for word in words
    ):
        raise decoder.refusal("tokens", '"all", or ids of tokens with spaces between them')
    return tuple(map(int, words))


def _tags_of(about: _Fields) -> TagSettings:
    labels = about.texts("labels")
    prompts = about.content.get("prompts")
    if prompts is not None:
        about.list("prompts", len(labels))
        prompts = tuple(_Fields({"prompts": own}, about.where).texts("prompts") for own in prompts)
    return TagSettings(
        labels, prompts, about.count("top", 1, _MOST_TAGS), _identity_of(about.object("model"))
    )


class _Fields:
    """An object of a JSON file, whose fields are asked for by the kind that they must have."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, dict):
            raise UserError(f"{where} is {json_kind(content)}, and an object was expected")
        self.content: dict[str, Any] = content
        self.where = where

    def refusal(self, name: str, expected: str) -> UserError:
        """The sentence about a field."""
        if name not in self.content:
            return UserError(f"{self.where}: {name} is missing; expected {expected}")
        value = _shown(self.content[name])
        return UserError(f"{self.where}: {name} is {value}; expected {expected}")

    def has_only(self, *names: str) -> None:
        """Refuse any other field."""
        for name in self.content.keys() - set(names):
            raise UserError(f"{self.where}: {quoted(name)} is not a field that captune knows")

    def object(self, name: str) -> _Fields:
        """A field that is an object."""
        if not isinstance(self.content.get(name), dict):
            raise self.refusal(name, "an object")
        return _Fields(self.content[name], f"{self.where}: {name}")

    def text(self, name: str, longest: int = 1024) -> str:
        """A text that is not empty."""
        value = self.content.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= longest or "\0" in value:
            raise self.refusal(name, f"a text of up to {longest:,} characters")
        return value

    def count(self, name: str, least: int, most: int = 2**20) -> int:
        """A whole number."""
        value = self.content.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.refusal(name, f"a whole number from {least} to {most:,}")
        return value

    def list(self, name: str, length: int | None = None) -> list[Any]:
        """A list that is not empty."""
        value = self.content.get(name)
        if not isinstance(value, list) or not value or length not in (None, len(value)):
            raise self.refusal(name, "a list" if length is None else f"a list of {length:,}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        found = self.list(name)
        if not all(isinstance(text, str) and text.strip() for text in found):
            raise self.refusal(name, "a list of texts")
        return tuple(found)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return json_kind(value)
    text = repr(value) if not isinstance(value, str) else quoted(value)
    return printable(shorten(text, 84))


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
        model = CaptionModel(decoder, built, tuning(method_config), grid, reads_tags=reads_tags)
    # on the device at once: who generates with it need not know where the decoder lies
    return model.to(decoder.device)


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
            f"--set {word}: {text!r} is not a {'whole number' if kind is int else 'number'}"
        ) from None
