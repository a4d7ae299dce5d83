"""What comes before the first training step: options checked, data read, encoded, tokenised."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from captune.captioning.checkpoint import TagSettings
from captune.captioning.dataset import (
    CaptionDataset,
    MatchedCaptions,
    check_enough,
    leaked_ids,
    read_texts,
    tokenise,
)
from captune.captioning.datastore import Datastore
from captune.captioning.rerank import Reranker, pooled, text_vectors, unfitted, vectors_of
from captune.captioning.settings import PROMPT_TOKENS
from captune.captioning.tags import SimilarCaptions, Tagger, tag_settings
from captune.captioning.training.batches import MirroredViews, TagRows, TextGrids, mirrorable
from captune.captioning.training.budget import too_few_updates
from captune.captioning.training.checks import check_sizes, max_tag_tokens
from captune.captioning.training.frozen import PER_PASS, FrozenParts, load_frozen
from captune.captioning.training.step import (
    CrossEntropy,
    MatchReward,
    Objective,
    SelfCritical,
    TrainingData,
)
from captune.captioning.training.validation import ValidationSet, leak
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.models.encoders import Floats, ImageTextModel, normalise
from captune.models.load import load_image_text_model
from captune.options.tuning import TuneOptions
from captune.progress import Progress

Drawn = Mapping[str, Sequence[Sequence[int]]]  # sha256 of an image file -> rows, one an epoch


@dataclass(frozen=True)
class TrainingSetup:
    """What all methods of a tune share.

    sample: the validation images that are captioned after each epoch. settings: of the bridge and
    of each method, by part. leaked: ids of validation images that are trained on. tags: which tags
    the bridge reads, None where it reads none. warning: that so few updates cannot work.
    reranker: judges the candidates of --rerank, before its weights are fitted. extra: digest of
    the captions without images. datastore: what a prompt is made of or candidates are judged by.
    """

    options: TuneOptions
    train: CaptionDataset
    val: ValidationSet
    sample: ValidationSet
    data: TrainingData
    frozen: FrozenParts
    settings: dict[str, dict[str, Any]]
    leaked: list[str]
    command: Sequence[str]
    progress: Progress
    tags: TagSettings | None = None
    warning: str | None = None
    reranker: Reranker | None = None
    extra: str | None = None
    datastore: Datastore | None = None


def prepare_training(
    options: TuneOptions,
    inputs: Sequence[MatchedCaptions],
    settings: dict[str, dict[str, Any]],
    stack: ExitStack,
    cache: FeatureCache | None,
    command: Sequence[str],
    progress: Progress,
) -> TrainingSetup:
    """Read, check, encode and tokenise; `stack` closes what is opened.

    inputs: of `read_inputs`.
    """
    assert options.captions is not None
    val_captions = options.val_captions or options.captions  # of which some are held out
    to_train, to_validate = inputs
    train_set = _read(to_train, options, progress, limit=options.limit)
    check_sizes(options, len(train_set))
    extra = None if options.extra_text is None else read_texts(options.extra_text)
    warning = too_few_updates(train_set, extra, options, PartialState().num_processes)
    if warning:
        progress.message(warning)
    val_set = _read(to_validate, options, progress)
    leaked = leaked_ids(train_set, val_set)
    if leaked:
        progress.message(leak(leaked, len(val_set)).sentence)
    texts = [] if extra is None else [caption.strip() for own in extra.captions for caption in own]
    frozen = load_frozen(
        options, [train_set, val_set], texts=texts, stack=stack, cache=cache, progress=progress
    )
    train_set, val_set = (part.without(frozen.skipped) for part in (train_set, val_set))
    for part, where in ((train_set, options.captions), (val_set, val_captions)):
        if not len(part):
            raise UserError(f"{where}: none of its images could be decoded")
    check_enough(len(val_set), val_captions)
    tokens = tokenise(train_set, frozen.decoder, options.max_tokens)
    if tokens.cut:
        progress.message(
            f"{tokens.cut:,} captions are cut at {options.max_tokens} tokens (--max-tokens)"
        )
    if tokens.empty:
        progress.message(f"{len(tokens.empty):,} images are left out: their captions hold no token")
    if not any(tokens.rows):
        raise UserError(f"{options.captions}: none of its captions holds a token")
    val_tokens = tokenise(val_set, frozen.decoder, options.max_tokens)
    made = _Preparation(options, frozen, cache, progress)
    datastore = made.datastore(train_set)
    max_tokens = max_tag_tokens(options, settings)
    tags, rows, drawn = made.tags(max_tokens, [train_set, val_set], extra)
    if datastore is not None and options.similar_captions:
        rows, drawn = made.similar(datastore, train_set, val_set)
    val = ValidationSet(
        val_set, val_tokens.rows, frozen.grids, frozen.clip, cache, rows, options.max_tokens
    )
    second = None
    if frozen.mirrored is not None:
        second = MirroredViews(mirrorable(train_set), frozen.mirrored)
    grids = frozen.grids
    keys, captions, learnt = [*train_set.keys], [*train_set.captions], [*tokens.rows]
    if extra is not None:
        grids = made.text_grids(train_set, extra)
        keys += extra.keys
        captions += extra.captions
        learnt += tokenise(extra, frozen.decoder, options.max_tokens).rows
    objective = made.objective(train_set, captions, learnt)
    return TrainingSetup(
        options=options,
        train=train_set,
        val=val,
        sample=val.first(_sampled(options.val_sample, len(val_set), options.seed)),
        data=TrainingData(keys, learnt, grids, objective, drawn, second),
        frozen=frozen,
        settings=settings,
        leaked=leaked,
        command=command,
        progress=progress,
        tags=tags,
        warning=warning,
        reranker=made.reranker(datastore),
        extra=None if extra is None else extra.digest,
        datastore=datastore,
    )


@dataclass(frozen=True)
class _Preparation:
    """The steps of `prepare_training` that take what is frozen."""

    options: TuneOptions
    frozen: FrozenParts
    cache: FeatureCache | None
    progress: Progress

    def datastore(self, train_set: CaptionDataset) -> Datastore | None:
        if not (self.options.similar_captions or self.options.rerank in ("neighbours", "both")):
            return None
        means, weights_id = self.means(train_set), self.frozen.identity.weights_id
        return Datastore.made(means, train_set.captions, weights_id)

    def objective(
        self, train_set: CaptionDataset, captions: Sequence[Sequence[str]], rows: Sequence[Any]
    ) -> Objective:
        """captions, rows: of the training images, and behind them of captions without images."""
        options, match = self.options, None
        if options.objective != "cider":
            return CrossEntropy(options.label_smoothing)
        if options.reward_model is not None:
            model = self.model_of(options.reward_model)
            vectors, _ = self.seen_by(model, train_set)
            match = MatchReward(model, vectors, options.reward_share)
        return SelfCritical(
            captions,
            rows,
            samples=options.samples,
            max_tokens=options.max_tokens,
            kl=options.kl,
            match=match,
        )

    def model_of(self, spec: str) -> ImageTextModel:
        loaded = (self.frozen.clip, self.frozen.tags_model)
        return load_image_text_model(spec, device=self.options.device, loaded=loaded)

    def seen_by(self, model: ImageTextModel, data: CaptionDataset) -> tuple[Floats, Floats]:
        """Images as a model sees them, [images, d] of length one, and the means of their grids."""
        means = self.means(data)
        grids, identity = torch.from_numpy(means), self.frozen.identity
        with self.progress.bar(f"images as {model.spec} sees them", len(data)) as advance:
            return vectors_of(model, identity, data.images, grids, self.cache, advance), means

    def means(self, data: CaptionDataset) -> Floats:
        """[images, channels] of their patch grids."""
        grids, shape = self.frozen.grids, self.frozen.shape
        keys = [data.keys[i : i + PER_PASS] for i in range(0, len(data), PER_PASS)]
        return np.concatenate([pooled(grids.grids_of(some), shape).cpu().numpy() for some in keys])

    def text_grids(self, train_set: CaptionDataset, extra: CaptionDataset) -> TextGrids:
        """Stand-ins for the images of captions that have none."""
        model = self.model_of(self.options.extra_model)
        vectors, means = self.seen_by(model, train_set)
        captions = [*train_set.captions, *extra.captions]
        different = len({text for own in captions for text in own})
        with self.progress.bar(f"captions as {model.spec} reads them", different) as advance:
            read = text_vectors(model, captions, self.cache, advance)
        said = normalise(np.stack([own.mean(axis=0) for own in read]))
        known, texts = np.split(said, [len(train_set)])
        return TextGrids(
            self.frozen.grids,
            extra.keys,
            texts,
            known_keys=train_set.keys,
            known_texts=known,
            images=vectors,
            means=means,
            noise=self.options.extra_noise,
        )

    def reranker(self, datastore: Datastore | None) -> Reranker | None:
        options, matcher = self.options, None
        if options.rerank == "none":
            return None
        if options.rerank != "neighbours":
            matcher = self.model_of(options.rerank_model)
        settings = unfitted(options.rerank, options.candidates, matcher)
        store = None if options.rerank == "match" else datastore
        return Reranker(settings, self.frozen.identity, self.frozen.shape, matcher, store)

    def similar(
        self, datastore: Datastore, train: CaptionDataset, val: CaptionDataset
    ) -> tuple[TagRows, Drawn]:
        """Captions of similar training images: of validation images, and what training draws."""
        options, frozen = self.options, self.frozen
        read = SimilarCaptions(
            datastore, options.similar_captions, frozen.decoder, frozen.shape, PROMPT_TOKENS
        )
        with self.progress.bar("captions of similar images", len(train)) as advance:
            drawn = read.drawn(train.keys, options.seed, advance)
        return dict(zip(val.keys, read.rows(self.means(val)), strict=True)), drawn

    def tags(
        self, max_tokens: int, parts: Sequence[CaptionDataset], extra: CaptionDataset | None
    ) -> tuple[TagSettings | None, TagRows | None, Drawn | None]:
        """Which tags are read, those of every image, and what training draws of them; made once.

        Captions without an image have the labels that they name.
        """
        options, frozen = self.options, self.frozen
        if frozen.tags_model is None:
            return None, None, None
        is_text = options.prompt == "tags"
        settings = tag_settings(options, frozen.tags_model)
        tagger = Tagger(
            settings,
            frozen.tags_model,
            frozen.decoder,
            max_tokens,
            frozen.identity,
            frozen.shape,
            self.cache,
            is_text=is_text,
        )
        names: dict[str, list[str]] = {}
        for part in parts:
            means, bar = torch.from_numpy(self.means(part)), self.progress.bar("tags", len(part))
            with PartialState().main_process_first(), bar as advance:
                names |= zip(part.keys, tagger.names_of(part.images, means, advance), strict=True)
        if extra is not None:
            names |= zip(extra.keys, tagger.named_in(extra.captions), strict=True)
        rows = dict(zip(names, tagger.rows(list(names.values())), strict=True))
        if tagger.cut:
            more = "" if is_text else "let the bridge read more with --set bridge.words=N, or "
            self.progress.message(
                f"the tags of {tagger.cut:,} images are cut at {max_tokens} tokens; {more}take a"
                " smaller --tags-top"
            )
        drawn = tagger.drawn(names, options.seed) if is_text else {k: [r] for k, r in rows.items()}
        return settings, rows, drawn


def _read(
    matched: MatchedCaptions, options: TuneOptions, progress: Progress, limit: int = 0
) -> CaptionDataset:
    with progress.bar("reading") as advance:
        part = matched.read(limit=limit, seed=options.seed, advance=advance)
    for sentence in part.notes:
        progress.message(sentence)
    return part


def _sampled(wanted: int, available: int, seed: int) -> list[int]:
    if not 0 < wanted < available:
        return list(range(available))
    return sorted(random.Random(f"val/{seed}").sample(range(available), max(2, wanted)))  # noqa: S311
