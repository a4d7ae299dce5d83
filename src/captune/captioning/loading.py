"""A captioner as a command names it: its folder, the models it is made of, how a run names them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from captune.captioning.checkpoint import checkpoint_folder, digest_of_checkpoint, from_pretrained
from captune.captioning.generation import check_length, load_encoder
from captune.captioning.known_words import load_words_model
from captune.captioning.model import Captioner
from captune.captioning.precision import resolve_precision
from captune.captioning.recipe import Recipe
from captune.captioning.shipped import lite_captioner
from captune.errors import UserError
from captune.features import FeatureCache
from captune.features.grids import grids_bytes
from captune.files import home_path, printable
from captune.models.decoders import Decoder
from captune.models.devices import resolve_device
from captune.models.encoders import ImageTextModel
from captune.models.load import require_possible
from captune.options import CaptionerOptions

LITE = "lite"


def captioner_folder(model: str) -> Path:
    """`lite`, or a folder -> where the captioner's files are; of several methods the best one's.

    Raises UserError where there is none.
    """
    if model == LITE:
        return lite_captioner()
    folder = home_path(model)
    require_possible(folder, model)
    if not folder.is_dir():
        raise UserError(
            f"--model {printable(model)}: is no folder; name the --out of a captune tune, or lite"
        )
    return checkpoint_folder(folder)


def load_captioner(
    options: CaptionerOptions, place: Path, recipe: Recipe
) -> tuple[Captioner, ImageTextModel]:
    """The captioner in `place` and the image encoder that it sees through, ready to write."""
    encoder = load_encoder(
        recipe, place, spec=options.encoder, device=options.device, dtype=options.dtype
    )
    words_model = load_words_model(
        recipe,
        encoder,
        place,
        spec=options.known_words_model,
        device=options.device,
        dtype=options.dtype,
    )
    captioner, _ = from_pretrained(
        place, decoder=options.decoder, device=options.device, dtype=writing_precision(options)
    )
    captioner.recipe, captioner.image_model = recipe, encoder
    captioner.words_model = words_model
    check_length(captioner.decoder, options.max_tokens)
    return captioner, encoder


def writing_precision(options: CaptionerOptions) -> str:
    """Of the decoder; auto is what it stands for while tuning, but float32 on every CPU.

    One image's caption must not depend on the processor, nor on the images beside it.
    """
    device = resolve_device(options.device)
    if options.dtype == "auto" and device.type == "cpu":
        return "float32"
    return resolve_precision(options.dtype, device)


def describe_captioner(options: CaptionerOptions, place: Path, recipe: Recipe) -> dict[str, Any]:
    """The captioner, as the run folder and `--json` name it."""
    return {
        "spec": LITE if options.model == LITE else str(place),
        "weights_id": digest_of_checkpoint(place),
        "image_encoder": recipe.image_encoder.spec,
        "decoder": recipe.decoder_spec,
        "bridge": recipe.bridge,
        "method": recipe.method,
    }


def describe_decoder(decoder: Decoder) -> dict[str, str | None]:
    """The decoder, as the run folder names it."""
    return {
        "spec": decoder.spec,
        "weights_id": decoder.weights_id,
        "decoder_id": decoder.decoder_id,
        "licence": decoder.licence,
    }


def open_grid_cache(
    options: CaptionerOptions,
    encoder: ImageTextModel,
    images: int,
    stack: ExitStack,
    say: Callable[[str], None],
) -> FeatureCache | None:
    """The feature cache, where what these images take is no more than it keeps."""
    if options.no_cache:
        return None
    cache = stack.enter_context(FeatureCache())
    needed, limit = grids_bytes(images, encoder.image), cache.limit_bytes
    if needed > limit * 7 / 8:
        say(
            f"the patch grids of {images:,} images take {needed / 1e9:.1f} GB, more than the"
            f" feature cache keeps ({limit / 1e9:.1f} GB), so they are not kept"
        )
        return None
    cache.remember_model(encoder.spec, encoder.ids)
    return cache
