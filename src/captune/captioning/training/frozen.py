"""The frozen parts of a tune: image encoder and its grids, language model, CLIPScore's model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from captune.captioning.bridge import GridShape
from captune.captioning.known_words import texts_of_labels, words_model_of
from captune.captioning.loading import describe_decoder
from captune.captioning.precision import resolve_precision
from captune.captioning.recipe import ImageIdentity
from captune.captioning.training.augmentation import check_mirroring
from captune.captioning.training.data import CaptionedImages, Grids
from captune.features.grids import GridStore, open_grids
from captune.images import ImageFile, Skipped
from captune.models.decoders import Decoder, load_decoder
from captune.models.devices import resolve_device
from captune.models.encoders import ImageEncoder, ImageTextModel, describe_model, mirrored
from captune.models.load import load_image_text_model, load_model
from captune.models.vocabulary import narrowed
from captune.options import TuneOptions
from captune.zeroshot.labels import read_labels

if TYPE_CHECKING:
    from captune.embedding import Bar
    from captune.features import FeatureCache

_ENCODED = 32  # images at once


@dataclass(frozen=True)
class FrozenParts:
    """grids: of every readable image. skipped: images that could not be decoded.

    clip: the model of CLIPScore, or None. words_model: of the classifier that tells words of each
    image, or None. mirrored: grids of the mirrored images, where those were asked for. models: what
    run.json names.
    """

    identity: ImageIdentity
    shape: GridShape
    grids: Grids
    decoder: Decoder
    clip: ImageTextModel | None = None
    skipped: list[Skipped] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    words_model: ImageTextModel | None = None
    mirrored: Grids | None = None

    def described(self) -> list[dict[str, Any]]:
        """For run.json."""
        return [*self.models, describe_decoder(self.decoder)]


def load_frozen(
    options: TuneOptions,
    parts: Sequence[CaptionedImages],
    *,
    stack: ExitStack,
    cache: FeatureCache | None,
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
) -> FrozenParts:
    """Load what is frozen and encode every image once.

    parts: the images to encode, those to train on first. stack: closes the grids. say: is told
    what a second view of the images takes. Raises UserError for an encoder without a patch grid,
    and whatever its loaders raise.
    """
    encoder = load_model(options.encoder, device=options.device)
    patches = encoder.image.require_patches()
    clip = None
    if options.score_model == encoder.spec and encoder.text is not None:
        clip = encoder
    elif options.score_model != "none":
        clip = load_image_text_model(options.score_model, device=options.device)
    words_model = None
    if options.known_words is not None:
        words_model = words_model_of(options, [encoder, clip])
    # frozen weights may be as coarse as the forward pass; what is trained stays float32
    precision = resolve_precision(options.precision, resolve_device(options.device))
    decoder = load_decoder(
        options.decoder, device=options.device, dtype=precision, blocks=options.decoder_blocks
    )
    if options.vocabulary == "captions":
        texts = [caption.strip() for own in parts[0].captions for caption in own]
        if options.known_words is not None:
            texts += texts_of_labels(read_labels(options.known_words))
        decoder = narrowed(decoder, {id for row in decoder.encode(texts) for id in row})
    if cache is not None:
        cache.remember_model(encoder.spec, encoder.ids)
    images = _unique(parts)
    skipped: list[Skipped] = []

    def encoded(some: Sequence[ImageFile], reader: ImageEncoder, what: str) -> GridStore:
        # the other processes find in the cache what the first one has put there
        with PartialState().main_process_first(), bar(what, len(some)) as advance:
            return stack.enter_context(
                open_grids(
                    some,
                    reader,
                    cache=cache,
                    batch_size=_ENCODED,
                    workers=options.workers,
                    on_skip=skipped.append,
                    on_progress=advance,
                )
            )

    views: list[int] = []
    if options.augment == "mirror":
        views = check_mirroring(parts[0], len(images), encoder.image, cache, say)
    grids = encoded(images, encoder.image, "encoding images")
    second = None
    if views:
        # the first view has told which images cannot be read
        flipped = {parts[0].images[place].path for place in views}
        some = [image for image in images if image.path in flipped and image.name in grids.keys]
        second = encoded(some, mirrored(encoder.image), "encoding mirrored images")
    models = [encoder, clip, words_model]
    return FrozenParts(
        ImageIdentity(encoder.spec, patches.weights_id, patches.preprocessing_id),
        patches.shape,
        grids,
        decoder,
        clip,
        skipped,
        [describe_model(one) for one in _different(models)],
        words_model,
        second,
    )


def _different(models: Sequence[ImageTextModel | None]) -> list[ImageTextModel]:
    """Those that there are, each once."""
    return list({id(model): model for model in models if model is not None}.values())


def _unique(parts: Sequence[CaptionedImages]) -> list[ImageFile]:
    """The images of all parts, each path once; a name stands for one place on the disk.

    Names of train and validation are relative to roots of their own, and may be the same.
    """
    found: dict[Path, ImageFile] = {}
    for part in parts:
        for image in part.images:
            found.setdefault(image.path, image)
    names = [image.name for image in found.values()]
    if len(set(names)) == len(names):
        return list(found.values())
    return [dataclasses.replace(image, name=str(path)) for path, image in found.items()]
