"""A tuned captioner on disk: what was trained, and the names of what was not.

    model.safetensors   the trained parameters, float32: bridge.* and tuning.*
    config.json         a `Recipe`: schema, captune's version, image encoder, decoder, grid, bridge,
                        method

The frozen parts are named by the hash of their weights: a checkpoint never works silently with
others than those it was trained with.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from msgspec import Meta, Struct, field
from safetensors.torch import save

import captune
from captune.captioning.bridge import GridShape
from captune.captioning.decoder_parts import narrowed
from captune.captioning.model import CaptionModel, Trainable, build_model
from captune.captioning.settings import CONFIG, WEIGHTS, checkpoint_folder
from captune.errors import UserError
from captune.files import sha256_of, whole_file
from captune.json_yaml import convert, read_object
from captune.models import hub
from captune.models.decoders import Decoder, load_decoder
from captune.models.mirrored import sees_alike
from captune.models.vetting import require_finite_tensor
from captune.models.weights import (
    FLOATING,
    TensorInfo,
    load_safetensors,
    safetensors_header,
    total_elements,
)
from captune.runs.records import json_value
from captune_metrics.display import printable, quoted, shorten

_SCHEMA = 1
_MOST_PLACES = 2**20
_MOST_ELEMENTS = 2**29
T = TypeVar("T")

ShortText = Annotated[str, Meta(min_length=1, max_length=1024)]
Name = Annotated[str, Meta(pattern=r"\S")]


@dataclass(frozen=True)
class ImageIdentity:
    """Which frozen image encoder a captioner sees through, and which of its outputs.

    spec: how it was named. preprocessing_id: of the transform from image to pixels.
    """

    spec: ShortText
    weights_id: ShortText
    preprocessing_id: ShortText


@dataclass(frozen=True)
class TagSettings:
    """Which tags a captioner reads beside an image: the labels that a classifier chose.

    labels: what it chose among; prompts: of each label, where they have their own. top: how many it
    chose at most, each with a probability of `least` or more. model: the classifier's.
    """

    labels: Annotated[tuple[Name, ...], Meta(min_length=1)]
    prompts: tuple[Annotated[tuple[Name, ...], Meta(min_length=1)], ...] | None
    top: Annotated[int, Meta(ge=1, le=10_000)]
    least: Annotated[float, Meta(ge=0, le=1)]
    model: ImageIdentity


@dataclass(frozen=True)
class DecoderIdentity:
    """Which frozen decoder a captioner writes with.

    spec: how it was named. blocks: how many of its first ones were kept; 0: all. tokens: ids of
    those that were kept, with spaces between them, or "all".
    """

    spec: ShortText
    blocks: Annotated[int, Meta(ge=0, le=1024)]
    decoder_id: ShortText
    tokens: Annotated[str, Meta(max_length=8 * 2**20, pattern=r"^(all|\d{1,8}( \d{1,8})*)$")]

    @property
    def kept(self) -> tuple[int, ...]:
        """The ids of the kept tokens; none where all were."""
        return () if self.tokens == "all" else tuple(map(int, self.tokens.split()))


@dataclass(frozen=True)
class Part:
    """A bridge or a tuning method by its name, with the fields of its Config."""

    name: ShortText
    config: dict[str, Any]


class _Config(Struct, frozen=True, omit_defaults=True):
    def as_json(self) -> dict[str, Any]:
        """In the order in which a person reads it."""
        return {"schema": _SCHEMA, "captune": captune.__version__, **json_value(self)}


class Recipe(_Config, frozen=True, omit_defaults=True):
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


class TunedRecipe(_Config, frozen=True, omit_defaults=True):
    """config.json of what was tuned in a captioner of transformers.

    base: that one, preprocessing_id being of its processor. train: what was trained beside the
    method. prompt: what it was asked; None for the usual one, or none.
    """

    base: ImageIdentity
    method: Part
    max_tokens: Annotated[int, Meta(ge=1, le=_MOST_PLACES)]
    train: Literal["projector"] | None = None
    prompt: ShortText | None = None


def recipe_of(
    model: CaptionModel,
    image_encoder: ImageIdentity,
    *,
    bridge: str,
    method: str,
    max_tokens: int = 60,
    tags: TagSettings | None = None,
    prompt_captions: int = 0,
) -> Recipe:
    """What has to be known to build `model` again; bridge and method by their names."""
    decoder = model.decoder
    tokens = " ".join(map(str, decoder.tokens)) or "all"
    return Recipe(
        image_encoder,
        DecoderIdentity(decoder.spec, decoder.blocks, decoder.decoder_id, tokens),
        model.grid,
        Part(bridge, dataclasses.asdict(model.bridge.config)),
        Part(method, dataclasses.asdict(model.tuning.config)),
        max_tokens,
        tags,
        prompt_captions,
    )


def save_pretrained(model: Trainable, folder: Path, recipe: Recipe | TunedRecipe) -> None:
    """Write both files, each whole, the config last: a folder without it is no checkpoint."""
    with whole_file(folder / CONFIG) as config, whole_file(folder / WEIGHTS, "wb") as weights:
        json.dump(recipe.as_json(), config, indent=1)
        config.write("\n")
        weights.write(_trained_bytes(model))
        # all is on the disk before an earlier checkpoint goes
        for file in (config, weights):
            file.flush()
            os.fsync(file.fileno())
        (folder / CONFIG).unlink(missing_ok=True)


def from_pretrained(
    folder: str | Path,
    *,
    decoder: Decoder | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> tuple[CaptionModel, Recipe]:
    """A tuned captioner, ready to write, and what it is made of.

    folder: a checkpoint, or the run of a tune; of a run of several methods the best one.
    decoder: where the frozen one lies now, or the loaded one; None looks where it was in training.
    Raises UserError for a folder that holds none, and for another decoder than the trained one.
    """
    place = checkpoint_folder(Path(folder))
    recipe = read_recipe(place)
    weights = read_trained_header(place)
    if not isinstance(decoder, Decoder):
        spec, blocks = decoder or recipe.decoder.spec, recipe.decoder.blocks
        with hub.unasked(str(place), unless=decoder):
            decoder = load_decoder(spec, device=device, dtype=dtype, blocks=blocks)
    check_decoder(recipe, decoder, place)
    if recipe.decoder.kept and not decoder.tokens:
        decoder = narrowed(decoder, recipe.decoder.kept)
    try:
        model = build_model(
            decoder,
            recipe.grid,
            bridge=recipe.bridge.name,
            method=recipe.method.name,
            bridge_settings=recipe.bridge.config,
            method_settings=recipe.method.config,
            reads_tags=recipe.tags is not None or recipe.prompt_captions > 0,
            room={part: _elements(weights, part) for part in ("bridge", "tuning")},
        )
    except UserError as error:  # of settings that somebody typed it would be the whole sentence
        raise UserError(f"{place / CONFIG}: {error}") from error
    read_trained(model, place / WEIGHTS)
    model.eval()
    return model, recipe


def read_recipe(folder: Path) -> Recipe:
    """config.json of a checkpoint. Raises UserError for one that this captune cannot read."""
    content, where = read_object(folder / CONFIG), printable(folder / CONFIG)
    if "base" in content:
        raise UserError(
            f"{where} was tuned in a captioner of transformers; captune caption, explain,"
            " faithful and push take it, this does not"
        )
    return _recipe_of(content, where)


def read_any_recipe(folder: Path) -> Recipe | TunedRecipe | None:
    """As `read_recipe`, whatever was tuned; None for a folder in the layout of save_pretrained."""
    content, where = read_object(folder / CONFIG), printable(folder / CONFIG)
    if "model_type" in content:
        return None
    is_in_vlm = "base" in content
    return _converted(content, TunedRecipe, where) if is_in_vlm else _recipe_of(content, where)


def _recipe_of(content: Mapping[str, Any], where: str) -> Recipe:
    """Raises UserError for a field that is missing, of another kind or beyond any captioner's.

    The settings of bridge and method are looked at where these are known.
    """
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


def _converted(content: Mapping[str, Any], kind: type[T], where: str) -> T:
    _require_schema(content, where)
    try:
        return convert(content, kind)
    except ValueError as error:
        raise UserError(f"{where}: {printable(error)}") from None


def _require_schema(content: Mapping[str, Any], where: str) -> None:
    schema = content.get("schema")
    if schema != _SCHEMA or type(schema) is not int:
        shown = printable(shorten(repr(schema), 84))
        raise UserError(f"{where} was written with schema {shown}, this captune reads {_SCHEMA}")


def read_beside(path: Path, kind: type[T], what: str, made_by: str) -> T | None:
    """A small file beside the config of a checkpoint as `kind`; None where there is none.

    what: the file in a sentence, and the command that writes it. Raises UserError for one that this
    captune cannot read.
    """
    if not path.exists() and not path.is_symlink():
        return None
    about, shown = read_object(path), printable(path)
    _require_schema(about, shown)
    try:
        return convert(about, kind)
    except ValueError as error:
        raise UserError(
            f"{shown} is not {what} ({error}); run {made_by} again, or remove it"
        ) from None


def text_beside(found: Any) -> str:
    """What `read_beside` reads."""
    return json.dumps({"schema": _SCHEMA, **json_value(found)}, indent=1) + "\n"


def write_beside(path: Path, found: Any) -> None:
    """Store it beside a captioner's config.json, as a whole file."""
    with whole_file(path) as file:
        file.write(text_beside(found))


def read_trained_header(folder: Path) -> dict[str, TensorInfo]:
    """Which tensors the weights of a checkpoint hold; none of them is read.

    Raises UserError for another file, for too much, and for tensors that no training leaves.
    """
    path = folder / WEIGHTS
    shown = printable(path)
    tensors = safetensors_header(path)
    if total_elements(tensors.values()) > _MOST_ELEMENTS:
        raise UserError(f"{shown} holds more than {_MOST_ELEMENTS:,} trained numbers")
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATING:
            raise UserError(
                f"{shown}: {quoted(name)} is of {tensor.dtype}; trained parameters are of"
                f" {', '.join(sorted(FLOATING))}"
            )
    return tensors


def _elements(tensors: Mapping[str, TensorInfo], part: str) -> int:
    return total_elements(t for name, t in tensors.items() if name.startswith(f"{part}."))


def check_decoder(recipe: Recipe, decoder: Decoder, where: Path) -> None:
    """Raises UserError unless it is the decoder that the captioner was trained with."""
    if decoder.decoder_id != recipe.decoder.decoder_id:
        raise UserError(
            f"{where} was trained with the decoder {recipe.decoder.spec}"
            f" ({recipe.decoder.decoder_id[:12]}), and {decoder.spec} is another one"
            f" ({decoder.decoder_id[:12]}); give the same weights and tokenizer"
        )


def check_model(wanted: ImageIdentity, found: ImageIdentity, where: Path, role: str) -> None:
    """Raises UserError unless it is the model that the captioner was trained with.

    role: what the model is to the captioner, as "image encoder". With +mirrored or without, it is
    the same model: what learnt from one of them reads the other.
    """
    for what, name, are_alike in (
        ("weights_id", "weights", operator.eq),
        ("preprocessing_id", "preprocessing", sees_alike),
    ):
        mine, theirs = getattr(wanted, what), getattr(found, what)
        if not are_alike(mine, theirs):
            raise UserError(
                f"{where} was trained with the {role} {wanted.spec} ({mine[:12]}), and"
                f" {found.spec} has other {name} ({theirs[:12]}); give the same one"
            )


def write_trained(model: Trainable, path: Path) -> None:
    """The trained parameters alone, as a whole file."""
    with whole_file(path, "wb") as file:
        file.write(_trained_bytes(model))


def _trained_bytes(model: Trainable) -> bytes:
    tensors = {
        name: parameter.detach().to("cpu", torch.float32).contiguous()
        for name, parameter in model.trained().items()
    }
    written: bytes = save(tensors, metadata={"format": "pt"})
    return written


def read_trained(model: Trainable, path: Path) -> None:
    """Put trained parameters back. Raises UserError where they are not this captioner's."""
    trained = model.trained()
    _check_names(trained, read_trained_header(path.parent), path)
    tensors = load_safetensors(path)
    with torch.no_grad():
        for name, parameter in trained.items():
            require_finite_tensor(tensors[name], name, path)
            parameter.copy_(tensors[name])


def begin_with(model: CaptionModel, folder: Path) -> None:
    """Put the weights of a tuned captioner of the same make into this one.

    Raises UserError where the decoder or a parameter is another one.
    """
    place = checkpoint_folder(folder)
    check_decoder(read_recipe(place), model.decoder, place)
    read_trained(model, place / WEIGHTS)


def digest_of_checkpoint(folder: Path) -> str:
    """sha256 of a tuned captioner's weights file."""
    place = checkpoint_folder(folder)
    read_trained_header(place)
    return sha256_of(place / WEIGHTS)


def _check_names(
    trained: Mapping[str, torch.Tensor], tensors: Mapping[str, TensorInfo], path: Path
) -> None:
    for name in sorted(trained.keys() ^ tensors.keys()):
        lacks = "lacks" if name in trained else "has, beyond what the config says,"
        raise UserError(
            f"{path}: {lacks} {printable(name[:80])}; config.json and weights are not of one"
            " checkpoint"
        )
    for name, parameter in trained.items():
        if tuple(parameter.shape) != tensors[name].shape:
            raise UserError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, the config makes it"
                f" {list(parameter.shape)}"
            )
