"""`captune.Captioner`: model, image encoder and tag model, loaded together; captions by one call.

The captioner that ships with captune, `lite`, is in a package of its own, for its licence is not
captune's: distribution `captune-lite`, import package `captune_lite`, folder `captioner` in it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captune.captioning.agreement import chance_of, features_of, read_agreement
from captune.captioning.caption import Caption, captions_of
from captune.captioning.checkpoint import (
    ImageIdentity,
    Recipe,
    check_model,
    digest_of_checkpoint,
    from_pretrained,
    read_recipe,
)
from captune.captioning.datastore import Datastore
from captune.captioning.decoder_parts import check_length
from captune.captioning.generate import GenerationSettings, grid_batches
from captune.captioning.model import CaptionModel
from captune.captioning.rerank import (
    Reranker,
    load_reranker,
    reranking_of,
    store_beside,
    write,
)
from captune.captioning.settings import CONFIG, SHARED, WEIGHTS, checkpoint_folder
from captune.captioning.tags import SimilarCaptions, Tagger, load_tags_model, texts_of
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import Halves, grids_bytes
from captune.features.pipeline import Encoding
from captune.files import home_path
from captune.images import ImageFile, Images, Skipped, find_images
from captune.models import hub
from captune.models.decoders import Decoder
from captune.models.devices import resolve_device, resolve_precision
from captune.models.encoders import ImageTextModel, describe_model
from captune.models.hub import silence_transformers
from captune.models.lite.assets import lite_package
from captune.models.load import load_model, parse_spec, require_possible
from captune.models.preprocessing import PROCESSOR_FILES
from captune.models.vlm_files import vlm_files
from captune.options.base import LITE
from captune.options.captioning import CaptionerOptions
from captune.runs.metrics import PeopleAgreement
from captune_metrics.display import printable

FOLDER = "captioner"

logger = logging.getLogger("captune")


@dataclass(frozen=True)
class Captioner:
    """A tuned captioner with all that it needs: images in, captions out.

    encoder: the frozen image encoder that the model was trained with. recipe: what the checkpoint
    says it is made of. tags_model: the classifier that chooses its tags; None where it reads none.
    agreement: how likely people agree with a caption; None where that was not fitted. reranker:
    what chooses each caption among candidates; None where the first beam is the caption.
    datastore: whose captions it reads before it writes; None where it reads none.
    Raises UserError for a recipe with tags and no tag model.
    """

    model: CaptionModel
    encoder: ImageTextModel
    recipe: Recipe
    tags_model: ImageTextModel | None = None
    agreement: PeopleAgreement | None = None
    reranker: Reranker | None = None
    datastore: Datastore | None = None

    def __post_init__(self) -> None:
        """Check that it is complete."""
        tags = self.recipe.tags
        if tags is not None and self.tags_model is None:
            raise UserError(
                f"this captioner reads tags that {tags.model.spec} chooses for each image, and it"
                " was loaded without that model"
            )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        encoder: str | None = None,
        decoder: Decoder | str | None = None,
        tags_model: str | None = None,
        rerank: str = "auto",
        candidates: int = 0,
        rerank_model: str | None = None,
        datastore: Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> Captioner:
        """What a tune left in `folder`, or in its best method's; "lite": the one that ships.

        "hf:USER/NAME" is one that `captune push` sent to the hub.

        encoder, decoder, tags_model: where the frozen models lie now, if not where they were in
        training. rerank, candidates, rerank_model, datastore: as `captune caption` takes them.
        Raises UserError for a folder that holds no captioner, and for models other than
        those that it was trained with.
        """
        named = str(folder)
        is_folder = named != LITE and not is_on_hub(named)
        place = checkpoint_folder(Path(folder)) if is_folder else captioner_folder(named)
        options = CaptionerOptions(
            model=named,
            encoder=encoder,
            tags_model=tags_model,
            rerank=rerank,
            candidates=candidates,
            rerank_model=rerank_model,
            datastore=datastore,
            device=device,
            dtype=dtype,
        )
        return load_captioner(options, place, decoder)

    def caption(
        self,
        images: Images,
        *,
        beam: int = 5,
        max_tokens: int = 60,
        batch_size: int = 32,
        workers: int = 0,
        cache: FeatureCache | None = None,
        on_skip: Callable[[Skipped], None] | None = None,
    ) -> list[Caption]:
        """A caption of each image in folders, files and patterns, or in memory (`find_images`).

        cache: of features; None reads and writes none. on_skip: called for images that cannot be
        read; None warns of them. Raises UserError as `find_images`, and for captions longer than
        the decoder can read back.
        """
        check_length(self.speech, max_tokens)
        found = find_images(images)
        skip = on_skip or _warn
        for skipped in found.skipped:
            skip(skipped)
        captions = []
        how = GenerationSettings(beam, max_tokens, Encoding(cache, batch_size, workers))
        for outcomes in self.stream(found.images, how):
            for outcome in outcomes:
                if isinstance(outcome, Skipped):
                    skip(outcome)
                else:
                    captions.append(outcome)
        return captions

    def stream(
        self,
        images: Sequence[ImageFile],
        how: GenerationSettings = GenerationSettings(),
        *,
        done: int = 0,
    ) -> Iterator[list[Caption | Skipped]]:
        """The outcomes of images from `done` on, batch by batch, in bounded memory.

        The first batch is small; none is larger than the batch size.
        """
        tagger = self.tagger(how.encoding.cache)
        for outcomes in grid_batches(images, self.encoder.image, how.encoding, done):
            seen = {image: grid for image, grid in outcomes.items() if isinstance(grid, np.ndarray)}
            written: Iterator[Caption] = iter(())
            if seen:
                inputs = self.inputs(list(seen), np.stack(list(seen.values())), tagger)
                written = iter(self.write(list(seen), *inputs, how))
            yield [one if isinstance(one, Skipped) else next(written) for one in outcomes.values()]

    def inputs(
        self, images: Sequence[ImageFile], cached: Halves, tagger: Tagger | SimilarCaptions | None
    ) -> tuple[Tensor, Tensor | None]:
        """What the model reads of images: grids [n, tokens, channels] float32, and their tags.

        cached: what the feature cache keeps of them, [n, ...].
        """
        grids = self.encoder.image.finish_grid(torch.from_numpy(np.ascontiguousarray(cached)))
        tags = None if tagger is None else tagger.tags_of(images, grids)
        return grids.float().to(self.model.decoder.device), tags

    def write(
        self,
        images: Sequence[ImageFile],
        grids: Tensor,
        tags: Tensor | None,
        how: GenerationSettings,
    ) -> list[Caption]:
        """The captions of one batch, from what `inputs` made of it."""
        with silence_transformers():
            generated = write(
                self.model,
                images,
                grids,
                self.reranker,
                cache=how.encoding.cache,
                beams=how.beam,
                max_tokens=how.max_tokens,
                tags=tags,
            )
        captions = list(captions_of(images, generated, self.model.decoder))
        if tags is not None:
            read = texts_of(tags, self.model.decoder)
            captions = [replace(one, read=own) for one, own in zip(captions, read, strict=True)]
        agreement = self.agreement
        if agreement is None:
            return captions

        def chance(one: Caption) -> float:
            chosen = one.candidates[0] if one.candidates else None
            return chance_of(agreement, features_of(one.words, one.mean_log_probability, chosen))

        return [replace(one, agreement=chance(one)) for one in captions]

    def tagger(self, cache: FeatureCache | None = None) -> Tagger | SimilarCaptions | None:
        """What is read of images before a caption, as in training; None where nothing is."""
        if self.datastore is not None:
            return SimilarCaptions(
                self.datastore,
                self.recipe.prompt_captions,
                self.model.decoder,
                self.recipe.grid,
                self.model.max_tag_tokens,
            )
        if self.recipe.tags is None or self.tags_model is None:
            return None
        return Tagger(
            self.recipe.tags,
            self.tags_model,
            self.model.decoder,
            self.model.max_tag_tokens,
            self.recipe.image_encoder,
            self.recipe.grid,
            cache,
            is_text=self.model.tags_are_text,
        )

    @property
    def device(self) -> torch.device:
        """Where it writes."""
        return self.model.decoder.device

    @property
    def speech(self) -> Decoder:
        """Its words."""
        return self.model.decoder

    @property
    def turn(self) -> threading.RLock:
        """Held while it looks at an image: of several threads one after the other."""
        return self.model.turn

    def open_cache(
        self,
        options: CaptionerOptions,
        images: int,
        stack: ExitStack,
        message: Callable[[str], None],
    ) -> FeatureCache | None:
        """The feature cache, or None if the patch grids of these images would not fit into it."""
        if options.no_cache:
            return None
        cache = stack.enter_context(FeatureCache())
        needed, limit = grids_bytes(images, self.encoder.image), cache.limit_bytes
        if needed > limit * 7 / 8:
            message(
                f"the patch grids of {images:,} images take {needed / 1e9:.1f} GB, more than the"
                f" feature cache keeps ({limit / 1e9:.1f} GB), so they are not kept"
            )
            return None
        cache.remember_model(self.encoder.spec, self.encoder.ids)
        return cache

    def described(self) -> list[dict[str, Any]]:
        """Its frozen models, as run.json names them."""
        matcher = None if self.reranker is None else self.reranker.matcher
        more = [one for one in (self.tags_model, matcher) if one not in (None, self.encoder)]
        own = [describe_model(self.encoder), describe_decoder(self.model.decoder)]
        return own + [describe_model(one) for one in more if one is not None]


def _warn(skipped: Skipped) -> None:
    logger.warning("skipped %s: %s", printable(skipped.path), skipped.reason)


def load_captioner(
    options: CaptionerOptions, place: Path, decoder: Decoder | str | None = None
) -> Captioner:
    """The captioner in `place`, as the options ask for it; decoder: where it lies now."""
    recipe = read_recipe(place)
    reads = recipe.prompt_captions > 0
    choosing = reranking_of(place, options, reads_captions=reads)
    encoder = load_encoder(recipe, place, options)
    tags_model = load_tags_model(recipe, encoder, place, options)
    precision = writing_precision(options.device, options.dtype)
    store = store_beside(choosing, place, recipe, options.datastore)
    model, _ = from_pretrained(place, decoder=decoder, device=options.device, dtype=precision)
    reranker = None
    if choosing is not None:
        reranker = load_reranker(
            choosing,
            place,
            recipe.image_encoder,
            recipe.grid,
            options=options,
            loaded=(encoder, tags_model),
            store=store,
        )
    read = store if reads and isinstance(store, Datastore) else None
    return Captioner(model, encoder, recipe, tags_model, read_agreement(place), reranker, read)


def captioner_folder(model: str) -> Path:
    """`lite`, `hf:USER/NAME` or a folder -> where its files are; of several methods the best one's.

    Naming one of the hub fetches it when it is in no cache. Raises UserError where there is none.
    """
    if model == LITE:
        return lite_captioner()
    if is_on_hub(model):
        return hub.repository(
            hub_repository(model), captioner_files, model, fetch_option=" --captioner"
        )
    folder = home_path(model)
    require_possible(folder, model)
    if not folder.is_dir():
        raise UserError(
            f"{printable(model)} is not a folder; name the --out of a captune tune, a"
            " folder of transformers, hf:USER/NAME, or lite"
        )
    return checkpoint_folder(folder)


def is_on_hub(model: str) -> bool:
    """Whether it is the name of a captioner of the hub, and not of a folder."""
    return model.startswith("hf:") and not home_path(model).is_dir()


def hub_repository(model: str) -> str:
    """`hf:USER/NAME` -> USER/NAME. Raises UserError for what is no such name."""
    repo = parse_spec(model).repo
    if repo is None:
        raise UserError(f"{printable(model)} is a folder here; name it without hf:")
    return repo


def captioner_files(names: Sequence[str]) -> list[str]:
    """Those files of a repository that a captioner is made of: captune's, or transformers'.

    Raises UserError where it has none: the weights have to be safetensors.
    """
    if set(names) & set(PROCESSOR_FILES):
        return vlm_files(names, "the repository")
    if not {CONFIG, WEIGHTS} <= set(names):
        raise UserError(f"there is no captioner of captune push in it ({CONFIG} and {WEIGHTS})")
    return [name for name in SHARED if name in names]


def lite_captioner() -> Path:
    """The folder of the captioner that ships; its package is found, not imported.

    Raises MissingExtra where it is not installed, UserError where its files are not there.
    """
    places = lite_package("captioning without a tuned captioner of your own (--model RUN)")
    for place in places:
        folder = place / FOLDER
        if all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
            return folder
    raise UserError(
        f"{places[0] / FOLDER} lacks {CONFIG} or {WEIGHTS}, so captune-lite is not whole;"
        " install it again: pip install --force-reinstall 'captune[lite]'"
    )


def load_encoder(recipe: Recipe, where: Path, options: CaptionerOptions) -> ImageTextModel:
    """The image encoder that a captioner was trained with; options: where it lies now.

    where: the captioner, for sentences. Raises UserError for another encoder than that one.
    """
    spec = options.encoder
    with hub.unasked(str(where), unless=spec):
        encoder = load_model(
            spec or recipe.image_encoder.spec, device=options.device, dtype=options.dtype
        )
    patches = encoder.image.require_patches()
    found = ImageIdentity(encoder.spec, patches.weights_id, patches.preprocessing_id)
    check_model(recipe.image_encoder, found, where, "image encoder")
    if patches.shape != recipe.grid:
        raise UserError(
            f"{where}: its config.json states a grid of {recipe.grid.tokens} tokens of"
            f" {recipe.grid.channels}, and {encoder.spec} yields {patches.shape.tokens} of"
            f" {patches.shape.channels}"
        )
    return encoder


def writing_precision(device: str, dtype: str) -> str:
    """The decoder's dtype for generation: as in tuning, but float32 on a CPU.

    One image's caption must not depend on the processor, nor on the images beside it.
    """
    place = resolve_device(device)
    if dtype == "auto" and place.type == "cpu":
        return "float32"
    return resolve_precision(dtype, place)


def describe_captioner(options: CaptionerOptions, place: Path, recipe: Recipe) -> dict[str, Any]:
    """The captioner, as the run folder and `--json` name it."""
    return {
        "spec": options.model if options.model == LITE or is_on_hub(options.model) else str(place),
        "weights_id": digest_of_checkpoint(place),
        "image_encoder": options.encoder or recipe.image_encoder.spec,
        "decoder": recipe.decoder.spec,
        "bridge": recipe.bridge.name,
        "method": recipe.method.name,
    }


def describe_decoder(decoder: Decoder) -> dict[str, str | None]:
    """The decoder, as the run folder names it."""
    return {
        "spec": decoder.spec,
        "weights_id": decoder.weights_id,
        "decoder_id": decoder.decoder_id,
        "licence": decoder.licence,
    }
