"""What a captioner is made of, as its config.json says it, and the model built from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import torch
from msgspec import Meta, Struct, field, to_builtins

import captune
from captune.captioning.bridge import BRIDGES, GridShape
from captune.captioning.decoder_parts import find_parts
from captune.captioning.model import CaptionModel
from captune.captioning.settings import Settings, config_of
from captune.captioning.tuning import TUNING_METHODS
from captune.errors import UserError
from captune.json_yaml import convert
from captune.models.decoders import Decoder
from captune_metrics.display import printable, quoted, shorten

SCHEMA = 1
_MOST_PLACES = 2**20
T = TypeVar("T")

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
    """config.json: what a captioner is made of.

    prompt_captions: of similar images, how many it reads before it writes its own.
    """

    image_encoder: ImageIdentity
    decoder: DecoderIdentity
    grid: GridShape
    bridge: Part
    method: Part
    max_tokens: Annotated[int, Meta(ge=1, le=_MOST_PLACES)]
    tags: TagSettings | None = field(name="known_words", default=None)
    prompt_captions: Annotated[int, Meta(ge=0, le=64)] = 0

    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        return {"schema": SCHEMA, "captune": captune.__version__, **to_builtins(self)}


class TunedRecipe(Struct, frozen=True, omit_defaults=True):
    """config.json of what was tuned in a captioner of transformers.

    base: that one, preprocessing_id being of its processor. train: what was trained beside the
    method. prompt: what it was asked; None for the usual one, or none.
    """

    base: ImageIdentity
    method: Part
    max_tokens: Annotated[int, Meta(ge=1, le=_MOST_PLACES)]
    train: Literal["projector"] | None = None
    prompt: Text | None = None

    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        return {"schema": SCHEMA, "captune": captune.__version__, **to_builtins(self)}


def recipe_of_json(content: Mapping[str, Any], where: str) -> Recipe:
    """What `as_json` made of a recipe. where: the file, for sentences.

    Raises UserError for a field that is missing, of another kind or beyond what a captioner can be;
    the settings of bridge and method are looked at where these are known.
    """
    if "base" in content:
        raise UserError(
            f"{where} was tuned in a captioner of transformers; captune caption, explain,"
            " faithful and push take it, this does not"
        )
    recipe = _converted(content, Recipe, where)
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


def tuned_recipe_of_json(content: Mapping[str, Any], where: str) -> TunedRecipe:
    """As `recipe_of_json`."""
    return _converted(content, TunedRecipe, where)


def _converted(content: Mapping[str, Any], kind: type[T], where: str) -> T:
    schema = content.get("schema")
    if schema != SCHEMA or type(schema) is not int:
        shown = printable(shorten(repr(schema), 84))
        raise UserError(f"{where} was written with schema {shown}, this captune reads {SCHEMA}")
    try:
        return convert(content, kind)
    except ValueError as error:
        raise UserError(f"{where}: {printable(error)}") from None


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
        check_room(bridge, bridge_type.count(bridge_config, grid, parts), room["bridge"])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any = bridge_type
        built = made(bridge_config, grid, parts).to(decoder.device)
        if room is not None:
            check_room(method, method_type.count(method_config, parts, built), room["tuning"])
        tuning: Any = method_type
        model = CaptionModel(decoder, built, tuning(method_config), grid, reads_tags=reads_tags)
    # on the device at once: who generates with it need not know where the decoder lies
    return model.to(decoder.device)


def check_room(name: str, needed: int, has: int) -> None:
    """Raises UserError where settings make more parameters than a file holds."""
    if needed > has:
        raise UserError(
            f"{name}: its settings make {needed:,} parameters, and the weights hold {has:,} for it;"
            " config.json and weights are not of one checkpoint"
        )
