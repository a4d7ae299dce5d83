"""What a tune loads and never trains: models, and what they make of each image, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor

from captune.captioning.any_captioner import AnyCaptioner, Ready
from captune.captioning.bridge import GridShape
from captune.captioning.captioner import captioner_folder, describe_decoder, is_on_hub
from captune.captioning.checkpoint import ImageIdentity, check_decoder, read_recipe
from captune.captioning.dataset import CaptionDataset
from captune.captioning.decoder_parts import narrowed
from captune.captioning.settings import checkpoint_folder, is_vlm
from captune.captioning.tags import MARKS, choose_tags_model, texts_of_labels
from captune.captioning.training.batches import Grids, check_mirroring
from captune.captioning.training.checks import check_kind, start_of
from captune.captioning.tuned_vlm import require_projector
from captune.errors import UserError
from captune.features.cache import FeatureCache, writable
from captune.features.encode import GridStore, open_grids
from captune.features.pipeline import Encoding
from captune.images import ImageFile, Skipped
from captune.images.decode import decoding_threads
from captune.models.decoders import Decoder, load_decoder
from captune.models.devices import resolve_device, resolve_precision
from captune.models.encoders import ImageEncoder, ImageTextModel, describe_model
from captune.models.load import load_image_text_model, load_model
from captune.models.mirrored import mirrored
from captune.models.vlm_files import described_vlm, load_vlm
from captune.models.vlm_vision import Inputs
from captune.options.base import full_path
from captune.options.tuning import TuneOptions
from captune.progress import Progress
from captune.threads import processors
from captune.zeroshot.labels import read_labels
from captune_metrics.display import printable

PER_PASS = 32  # images in a forward pass of a frozen model


def this_process(options: TuneOptions) -> PartialState:
    """Which of how many processes this is; the first call decides where they all train."""
    return PartialState(cpu=resolve_device(options.device).type == "cpu")


@dataclass(frozen=True)
class FrozenParts:
    """grids: of every readable image. skipped: images that could not be decoded.

    clip: the model of CLIPScore, or None. tags_model: of the classifier that chooses the tags of an
    image, or None. mirrored: grids of the mirrored images, where those were asked for. models: what
    run.json names. captioner: of transformers, which sees and writes by itself; None elsewhere.
    """

    identity: ImageIdentity
    shape: GridShape
    grids: Grids
    decoder: Decoder
    clip: ImageTextModel | None = None
    skipped: list[Skipped] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)
    tags_model: ImageTextModel | None = None
    mirrored: Grids | None = None
    captioner: AnyCaptioner | None = None


def start_folder(options: TuneOptions, method: str) -> Path | None:
    """The folder that a method begins with; one of the hub is fetched."""
    start = start_of(options, method)
    return captioner_folder(str(start)) if is_on_hub(str(start)) else start


def load_frozen(
    options: TuneOptions,
    parts: Sequence[CaptionDataset],
    *,
    texts: Sequence[str] = (),
    stack: ExitStack,
    cache: FeatureCache | None,
    progress: Progress,
) -> FrozenParts:
    """Load what is frozen and encode every image once.

    parts: the images to encode, those to train on first. texts: captions without one. stack: closes
    the grids. Raises UserError for an encoder without a patch grid, and whatever its loaders raise.
    """
    place = _captioner_of_transformers(options)
    if place is not None:
        return _load_frozen_captioner(options, place, _unique(parts), stack, cache, progress)
    encoder = load_model(options.encoder, device=options.device)
    patches = encoder.image.require_patches()
    clip = _score_model(options, encoder)
    tags_model = None
    if options.tags is not None:
        tags_model = choose_tags_model(options, [encoder, clip])
    # frozen weights may be as coarse as the forward pass; what is trained stays float32
    precision = resolve_precision(options.dtype, resolve_device(options.device))
    decoder = load_decoder(
        options.decoder, device=options.device, dtype=precision, blocks=options.decoder_blocks
    )
    if options.vocabulary == "captions":
        texts = [*texts, *(caption.strip() for own in parts[0].captions for caption in own)]
        if options.tags is not None:
            texts += texts_of_labels(read_labels(options.tags))
        texts += MARKS if options.similar_captions else ()
        kept = {id for row in decoder.encode(texts) for id in row}
        for start in filter(None, (start_folder(options, method) for method in options.methods)):
            recipe = read_recipe(checkpoint_folder(start))
            check_decoder(recipe, decoder, start)
            kept.update(recipe.decoder.kept)  # what it can say, it is not to lose
        decoder = narrowed(decoder, kept)
    if cache is not None:
        cache.remember_model(encoder.spec, encoder.ids)
    images = _unique(parts)
    skipped: list[Skipped] = []

    def encoded(some: Sequence[ImageFile], reader: ImageEncoder, what: str) -> GridStore:
        # the other processes find in the cache what the first one has put there
        with PartialState().main_process_first(), progress.bar(what, len(some)) as advance:
            return stack.enter_context(
                open_grids(
                    some,
                    reader,
                    Encoding(cache, PER_PASS, options.workers),
                    on_skip=skipped.append,
                    on_progress=advance,
                )
            )

    views: list[int] = []
    if options.augment == "mirror":
        views = check_mirroring(parts[0], len(images), encoder.image, cache, progress.message)
    grids = encoded(images, encoder.image, "encoding images")
    second = None
    if views:
        # the first view has told which images cannot be read
        flipped = {parts[0].images[place].path for place in views}
        some = [image for image in images if image.path in flipped and image.name in grids.keys]
        second = encoded(some, mirrored(encoder.image), "encoding mirrored images")
    models = {id(model): model for model in (encoder, clip, tags_model) if model is not None}
    return FrozenParts(
        identity=ImageIdentity(encoder.spec, patches.weights_id, patches.preprocessing_id),
        shape=patches.shape,
        grids=grids,
        decoder=decoder,
        clip=clip,
        skipped=skipped,
        models=[*map(describe_model, models.values()), describe_decoder(decoder)],
        tags_model=tags_model,
        mirrored=second,
    )


def _score_model(
    options: TuneOptions, encoder: ImageTextModel | None = None
) -> ImageTextModel | None:
    """The model of CLIPScore, which may be the encoder; None where none is asked for."""
    if options.score_model == "none":
        return None
    return load_image_text_model(options.score_model, device=options.device, loaded=[encoder])


def _captioner_of_transformers(options: TuneOptions) -> Path | None:
    """The folder of --start, where it is none of captune's."""
    if options.start is None:
        return None
    named = str(options.start)
    place = captioner_folder(named) if is_on_hub(named) else options.start
    of_transformers = is_vlm(place)
    check_kind(options, of_transformers=of_transformers)
    return place if of_transformers else None


def _load_frozen_captioner(
    options: TuneOptions,
    place: Path,
    images: Sequence[ImageFile],
    stack: ExitStack,
    cache: FeatureCache | None,
    progress: Progress,
) -> FrozenParts:
    named = str(options.start)
    spec = named if is_on_hub(named) else full_path(named)
    precision = resolve_precision(options.dtype, resolve_device(options.device))
    about = described_vlm(place, spec)
    vlm = load_vlm(place, spec, device=options.device, dtype=precision)
    prompt = None if options.prompt == "none" else options.prompt
    captioner = AnyCaptioner(vlm, about, prompt=prompt)
    if cache is not None:
        cache.remember_model(spec, [about["weights_id"]])
    if options.train is not None:
        train_projector(captioner)
    if vlm.vision is None:
        progress.message(
            f"{printable(spec)}: what the vision of a {vlm.family} makes of an image"
            " cannot be kept and handed in, so it runs again for each batch"
        )
    clip = _score_model(options)
    how = Encoding(cache, PER_PASS, options.workers)
    with PartialState().main_process_first(), progress.bar("images", len(images)) as advance:
        most = options.max_tokens
        seen = SeenImages(captioner, images, how, stack, max_tokens=most, advance=advance)
    return FrozenParts(
        identity=ImageIdentity(spec, about["weights_id"], about["processor_id"]),
        shape=GridShape(1, 1, 1, 1),
        grids=seen,
        decoder=captioner.speech,
        clip=clip,
        skipped=seen.skipped,
        models=[about, *([describe_model(clip)] if clip else [])],
        captioner=captioner,
    )


def _unique(parts: Sequence[CaptionDataset]) -> list[ImageFile]:
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


def train_projector(captioner: AnyCaptioner) -> None:
    """Let its vision end before the projector, or run anew each time where that cannot be."""
    vlm = captioner.vlm
    projector = require_projector(vlm)
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    inputs = vlm.collate([vlm.inputs(Image.fromarray(noise), captioner.prompt)])
    with torch.no_grad():
        if vlm.vision is None or not vlm.vision.end_before(projector, inputs):
            vlm.vision = None


class SeenImages:
    """What a captioner of transformers reads of images, by numbers that stand for their grids.

    Of each is kept what its processor made, without the pixels; what its vision made lies in the
    cache. Where that cannot be handed in again, images are read anew for each batch. skipped: those
    that cannot be read.
    """

    def __init__(
        self,
        captioner: AnyCaptioner,
        images: Sequence[ImageFile],
        how: Encoding,
        stack: ExitStack,
        *,
        max_tokens: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Look at each image once; `stack` closes what is opened.

        max_tokens: of a caption. Raises UserError where the model has no places for as many, and
        where the cache has no room.
        """
        self._captioner = captioner
        self._kept: list[Ready] = []
        self._places: dict[str, int] = {}
        self.skipped: list[Skipped] = []
        self._threads = stack.enter_context(decoding_threads(how.workers or processors()))
        cache = writable(how.cache, stack)
        for found in captioner.batches(images, replace(how, cache=cache), lambda some, *_: some):
            for one in found:
                if isinstance(one, Skipped):
                    self.skipped.append(one)
                    continue
                if not self._kept:
                    self._begin(one, max_tokens)
                self._places.setdefault(one.content, len(self._kept))
                others = {k: v for k, v in one.inputs.items() if "pixel" not in k}
                self._kept.append(one._replace(inputs=others))
            advance(len(found))
        self._arrays: Mapping[str, Any] = {}
        if captioner.vlm.vision is not None:
            # views of the cache's files, which stay when it drops them
            self._arrays = cache.get_many(captioner.space, list(self._places), mapped=True)
            missing = len(self._places) - len(self._arrays)
            if missing:
                raise UserError(
                    f"{cache.folder} does not hold what the captioner sees in {missing:,} of"
                    f" {len(self._places):,} images; make room on its disk, raise `captune cache"
                    " --limit`, or name another folder in CAPTUNE_CACHE"
                )

    def _begin(self, one: Ready, max_tokens: int) -> None:
        """What is the same for all images: the shapes of pixels, and a prompt without an image."""
        vlm = self._captioner.vlm
        self._captioner.check_length(one.inputs, max_tokens)
        self._pixels = {k: v.shape[1:] for k, v in one.inputs.items() if "pixel" in k}
        self._begun = vlm.written(vlm.collate([one.inputs]), max_tokens=1).prompts

    def grids_of(self, keys: Sequence[str]) -> Tensor:
        """The numbers of images, by the sha256 of their files: [images]."""
        return torch.tensor([self._places[key] for key in keys])

    def of(self, numbers: Sequence[int], each: int) -> tuple[Inputs, list[Tensor] | None, Tensor]:
        """Inputs, features and prompts as `VLM.logits` takes them for `each` captions an image."""
        vlm = self._captioner.vlm
        each = 1 if vlm.goes_on else each
        some = [self._kept[number] for number in numbers]
        features = None
        if self._arrays:
            seen = (torch.from_numpy(self._arrays[one.content].copy()) for one in some)
            moved = (one.to(vlm.device, vlm.model.dtype) for one in seen)
            features = [one for one in moved for _ in range(each)]
        else:
            some = list(self._threads.map(self._again, some))
        inputs = vlm.collate([one.inputs for one in some for _ in range(each)])
        rows = len(some) * each
        if features is not None:  # of pixels nothing is looked at but how many there are
            nothing = torch.zeros((), device=vlm.device, dtype=vlm.model.dtype)
            inputs |= {name: nothing.expand(rows, *own) for name, own in self._pixels.items()}
        prompts = self._begun.expand(rows, -1) if vlm.mark is None else inputs["input_ids"]
        return inputs, features, prompts

    def _again(self, one: Ready) -> Ready:
        found = self._captioner.read(one.image)
        if isinstance(found, Skipped):
            raise UserError(f"{printable(found.path)}: {found.reason}, and could be read before")
        return found
