"""The frozen parts of a tune: image encoder and its grids, language model, CLIPScore's model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from captune.captioning.bridge import GridShape
from captune.captioning.checkpoint import ImageIdentity
from captune.captioning.data import CaptionedPhotos, Grids
from captune.captioning.training import precision_of
from captune.features.grids import open_grids
from captune.images import Photo, Skipped
from captune.models.decoders import Decoder, load_decoder
from captune.models.devices import resolve_device
from captune.models.image_text import ImageTextModel, describe_model
from captune.models.load import load_image_text_model, load_model
from captune.models.vocabulary import narrowed
from captune.options import TuneOptions

if TYPE_CHECKING:
    from captune.embedding import Bar
    from captune.features import FeatureCache

_ENCODED = 32  # photos at once


@dataclass(frozen=True)
class FrozenParts:
    """grids: of every readable photo. skipped: photos that could not be decoded.

    clip: the model of CLIPScore, or None. models: what run.json names.
    """

    identity: ImageIdentity
    shape: GridShape
    grids: Grids
    decoder: Decoder
    clip: ImageTextModel | None = None
    skipped: list[Skipped] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)

    def described(self) -> list[dict[str, Any]]:
        """For run.json."""
        decoder = {
            "spec": self.decoder.spec,
            "weights_id": self.decoder.weights_id,
            "decoder_id": self.decoder.decoder_id,
            "licence": self.decoder.licence,
        }
        return [*self.models, decoder]


def load_frozen(
    options: TuneOptions,
    parts: Sequence[CaptionedPhotos],
    *,
    stack: ExitStack,
    cache: FeatureCache | None,
    bar: Bar,
) -> FrozenParts:
    """Load what is frozen and encode every photo once.

    parts: the photos to encode, those to train on first. stack: closes the grids.
    Raises UserError for an encoder without a patch grid, and whatever its
    loaders raise.
    """
    encoder = load_model(options.encoder, device=options.device)
    patches = encoder.image.require_patches()
    clip = None
    if options.score_model == encoder.spec and encoder.text is not None:
        clip = encoder
    elif options.score_model != "none":
        clip = load_image_text_model(options.score_model, device=options.device)
    # frozen weights may be as coarse as the forward pass; what is trained stays float32
    precision = precision_of(options, resolve_device(options.device))
    decoder = load_decoder(
        options.decoder, device=options.device, dtype=precision, blocks=options.decoder_blocks
    )
    if options.vocabulary == "captions":
        captions = [caption.strip() for own in parts[0].captions for caption in own]
        decoder = narrowed(decoder, {id for row in decoder.encode(captions) for id in row})
    if cache is not None:
        cache.remember_model(encoder.spec, encoder.ids)
    photos = _unique(parts)
    skipped: list[Skipped] = []
    # the other processes find in the cache what the first one has put there
    with PartialState().main_process_first(), bar("encoding photos", len(photos)) as advance:
        grids = stack.enter_context(
            open_grids(
                photos,
                encoder.image,
                cache=cache,
                batch_size=_ENCODED,
                workers=options.workers,
                on_skip=skipped.append,
                on_progress=advance,
            )
        )
    models = [describe_model(encoder)]
    if clip is not None and clip is not encoder:
        models.append(describe_model(clip))
    return FrozenParts(
        ImageIdentity(encoder.spec, patches.weights_id, patches.preprocessing_id),
        patches.shape,
        grids,
        decoder,
        clip,
        skipped,
        models,
    )


def _unique(parts: Sequence[CaptionedPhotos]) -> list[Photo]:
    """The photos of all parts, each path once; a name stands for one place on the disk.

    Names of train and validation are relative to roots of their own, and may be the same.
    """
    found: dict[Path, Photo] = {}
    for part in parts:
        for photo in part.photos:
            found.setdefault(photo.path, photo)
    names = [photo.name for photo in found.values()]
    if len(set(names)) == len(names):
        return list(found.values())
    return [dataclasses.replace(photo, name=str(path)) for path, photo in found.items()]
