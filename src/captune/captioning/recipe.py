"""What a captioner is made of, as its config.json says it: plain values, nothing loaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import captune
from captune.captioning.bridge import GridShape
from captune.errors import UserError
from captune.files import json_kind, printable, quoted
from captune.text import shorten

SCHEMA = 1
_MOST_BLOCKS = 1024
_MOST_WORDS = 10_000
_LARGEST_TOKENS = 8 * 2**20  # characters


@dataclass(frozen=True)
class ImageIdentity:
    """Which frozen image encoder a captioner sees through, and which of its outputs.

    spec: how it was named. preprocessing_id: of the transform from image to pixels.
    """

    spec: str
    weights_id: str
    preprocessing_id: str


@dataclass(frozen=True)
class KnownWords:
    """Which words a captioner reads of an image before its caption: those that a classifier chose.

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
    known_words: KnownWords | None = None

    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        known = self.known_words
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
            **({} if known is None else {"known_words": dataclasses.asdict(known)}),
        }


def recipe_of_json(content: Any, where: str) -> Recipe:
    """What `as_json` made of a recipe. where: the file, for sentences.

    Raises UserError for a field that is missing, of another kind or beyond what a captioner can be;
    the settings of bridge and method are looked at where these are known.
    """
    about = _Fields(content, where)
    if (schema := about.content.get("schema")) != SCHEMA or type(schema) is not int:
        raise UserError(
            f"{where}: was written with schema {_shown(schema)}, this captune reads {SCHEMA}"
        )
    decoder, bridge, method = (about.object(name) for name in ("decoder", "bridge", "method"))
    grid = about.object("grid")
    sizes = {field.name: grid.count(field.name, 0) for field in dataclasses.fields(GridShape)}
    grid.has_only(*sizes)
    shape = GridShape(**sizes)
    if shape.channels < 1 or shape.tokens != shape.leading + shape.rows * shape.columns:
        raise UserError(f"{where}: grid is none: tokens are leading + rows * columns")
    known = about.content.get("known_words")
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
        None if known is None else _known_words_of(about.object("known_words")),
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


def _known_words_of(about: _Fields) -> KnownWords:
    labels = about.texts("labels")
    prompts = about.content.get("prompts")
    if prompts is not None:
        about.list("prompts", len(labels))
        prompts = tuple(_Fields({"prompts": own}, about.where).texts("prompts") for own in prompts)
    return KnownWords(
        labels, prompts, about.count("top", 1, _MOST_WORDS), _identity_of(about.object("model"))
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
            raise UserError(f"{self.where}: {quoted(name)} is no field that captune knows")

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
