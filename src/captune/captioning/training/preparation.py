"""What comes before the first step of a tune: read, checked, encoded, tokenised."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from captune.captioning.bridge import bridge_class
from captune.captioning.building import config_of, read_settings
from captune.captioning.known_words import Teller, known_words_of
from captune.captioning.recipe import KnownWords
from captune.captioning.training.augmentation import MirroredViews, mirrorable
from captune.captioning.training.budget import parse_count
from captune.captioning.training.data import (
    CaptionedImages,
    WordRows,
    leaking,
    read_captioned,
    tokenise,
)
from captune.captioning.training.evaluation import ValidationSet
from captune.captioning.training.examples import TrainingData
from captune.captioning.training.frozen import FrozenParts, load_frozen
from captune.captioning.training.objective import CrossEntropy, Objective, SelfCritical
from captune.captioning.training.trainer import Bar
from captune.captioning.tuning import method_class
from captune.errors import UserError
from captune.features import FeatureCache
from captune.files import holds_files
from captune.images import ImageSet, find_images
from captune.models.devices import resolve_device
from captune.options import TuneOptions
from captune.runs import check_run_folder
from captune.zeroshot.labels import read_labels

_RECOGNISED = 32  # images at once


@dataclass(frozen=True)
class Job:
    """What all methods share."""

    options: TuneOptions
    train: CaptionedImages
    val: ValidationSet
    sample: ValidationSet
    data: TrainingData
    frozen: FrozenParts
    settings: dict[str, dict[str, Any]]
    leaked: list[str]
    command: Sequence[str]
    bar: Bar
    say: Callable[[str], None]
    known_words: KnownWords | None = None


def this_process(options: TuneOptions) -> PartialState:
    """Which of how many processes this is; the first call decides where they all train."""
    return PartialState(cpu=resolve_device(options.device).type == "cpu")


def check_options(options: TuneOptions) -> dict[str, dict[str, Any]]:
    """Everything that can be refused before a file is read; the settings by part."""
    for name, flag in (
        ("images", "IMAGES, the folder of the training images"),
        ("captions", "--captions TRAIN, their captions"),
        ("val", "--val VAL, captions of images to be judged by"),
        ("out", "--out RUN, the folder to write"),
    ):
        if getattr(options, name) is None:
            raise UserError(f"{flag}: is missing; captune tune --help shows an example")
    assert options.out is not None
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out}: is a file; --out names a run folder")
    is_known = (options.out / "run.json").exists() or any(options.out.glob("*/tuning.json"))
    if is_known:
        check_run_folder(options.out, "tune", overwrite=options.overwrite, goes_on=True)
    elif options.out.is_dir() and holds_files(options.out):
        raise UserError(f"{options.out}: holds files that are not of a tune; choose a new folder")
    if not options.methods:
        raise UserError(f'--method "{options.method}": names no method; try adapter,prefix,lora')
    parse_count(options.max_trainable)
    if options.select == "clipscore" and options.score_model == "none":
        raise UserError("--select clipscore: needs a model; leave --score-model none out")
    settings = read_settings(options.set, bridge=options.bridge)
    _check_words(options, _word_places(options, settings))
    for method in options.methods:
        config_of(method_class(method).Config, settings.get(method, {}), method)
    unused = sorted(settings.keys() - {"bridge", *options.methods})
    if unused:
        raise UserError(
            f"--set {unused[0]}: is none of the methods that are trained ({options.method})"
        )
    return settings


def _word_places(options: TuneOptions, settings: dict[str, dict[str, Any]]) -> int:
    """Tokens of known words that the bridge reads, at most; 0 where it reads none."""
    bridge = bridge_class(options.bridge)
    config = config_of(bridge.Config, settings.get("bridge", {}), options.bridge)
    return bridge.word_places(config)


def _check_words(options: TuneOptions, places: int) -> None:
    if options.known_words is not None:
        if not places:
            raise UserError(
                f"--known-words: --bridge {options.bridge} reads none; take --bridge bidirectional,"
                " or leave them out"
            )
        read_labels(options.known_words)
    elif places:
        raise UserError(
            f"--bridge {options.bridge}: reads words that are known of each image; say with"
            " --known-words among which they are chosen, as captune classify --labels"
        )
    elif options.known_words_model is not None:
        raise UserError("--known-words-model: is for --known-words; give both, or neither")


def prepare(
    options: TuneOptions,
    settings: dict[str, dict[str, Any]],
    stack: ExitStack,
    cache: FeatureCache | None,
    command: Sequence[str],
    bar: Bar,
    say: Callable[[str], None],
) -> Job:
    """Read, check, encode and tokenise; `stack` closes what is opened."""
    assert options.images is not None
    assert options.captions is not None
    assert options.val is not None
    found = find_images([options.images])
    found_val = found if options.val_images is None else find_images([options.val_images])
    train_set = _read(options.captions, found, options, bar, say, limit=options.limit)
    val_set = _read(options.val, found_val, options, bar, say)
    leaked = leaking(train_set, val_set)
    frozen = load_frozen(options, [train_set, val_set], stack=stack, cache=cache, bar=bar, say=say)
    train_set, val_set = (part.without(frozen.skipped) for part in (train_set, val_set))
    for part, where in ((train_set, options.captions), (val_set, options.val)):
        if not len(part):
            raise UserError(f"{where}: none of its images could be decoded")
    if len(val_set) < 2:
        raise UserError(f"{options.val}: has one image; scores need two and more, better hundreds")
    tokens = tokenise(train_set, frozen.decoder, options.max_tokens)
    if tokens.cut:
        say(f"{tokens.cut:,} captions are cut at {options.max_tokens} tokens (--max-tokens)")
    if tokens.empty:
        say(f"{len(tokens.empty):,} images are left out: their captions hold no token")
    if not any(tokens.rows):
        raise UserError(f"{options.captions}: none of its captions holds a token")
    val_tokens = tokenise(val_set, frozen.decoder, options.max_tokens)
    places = _word_places(options, settings)
    both = [train_set, val_set]
    known, words = _known_words(options, frozen, places, both, cache, bar, say)
    val = ValidationSet(val_set, val_tokens.rows, frozen.grids, frozen.clip, cache, words)
    sample = val.first(_sampled(options.val_sample, len(val_set), options.seed))
    second = None
    if frozen.mirrored is not None:
        second = MirroredViews(mirrorable(train_set), frozen.mirrored)
    data = TrainingData(
        train_set.keys,
        tokens.rows,
        frozen.grids,
        _objective(options, train_set, tokens.rows),
        words,
        second,
    )
    return Job(
        options,
        train_set,
        val,
        sample,
        data,
        frozen,
        settings,
        leaked,
        command,
        bar,
        say,
        known,
    )


def _known_words(
    options: TuneOptions,
    frozen: FrozenParts,
    places: int,
    parts: Sequence[CaptionedImages],
    cache: FeatureCache | None,
    bar: Bar,
    say: Callable[[str], None],
) -> tuple[KnownWords | None, WordRows | None]:
    """Which words are known of images, and those of every image; made once."""
    if frozen.words_model is None:
        return None, None
    known = known_words_of(options, frozen.words_model)
    teller = Teller(
        known,
        frozen.words_model,
        frozen.decoder,
        places,
        cache=cache,
        batch_size=_RECOGNISED,
        workers=options.workers,
    )
    key_of = {
        image.path: key for part in parts for image, key in zip(part.images, part.keys, strict=True)
    }
    images = [image for part in parts for image in part.images]
    with PartialState().main_process_first(), bar("known words", len(images)) as advance:
        rows = teller.rows_of(images, advance)
    if teller.cut:
        say(
            f"the known words of {teller.cut:,} images are cut at {places} tokens; give the bridge"
            " more places with --set bridge.words=N, or take a smaller --known-words-top"
        )
    return known, {key_of[path]: row for path, row in rows.items()}


def _objective(
    options: TuneOptions, train: CaptionedImages, rows: Sequence[Sequence[object]]
) -> Objective:
    if options.objective == "cider":
        return SelfCritical(train, rows, samples=options.samples, max_tokens=options.max_tokens)
    return CrossEntropy(options.label_smoothing)


def _read(
    captions: Path,
    found: ImageSet,
    options: TuneOptions,
    bar: Bar,
    say: Callable[[str], None],
    limit: int = 0,
) -> CaptionedImages:
    with bar("reading", 0) as advance:
        part = read_captioned(captions, found, limit=limit, seed=options.seed, advance=advance)
    for sentence in part.notes:
        say(sentence)
    return part


def _sampled(wanted: int, available: int, seed: int) -> list[int]:
    if not 0 < wanted < available:
        return list(range(available))
    return sorted(random.Random(f"val/{seed}").sample(range(available), max(2, wanted)))  # noqa: S311
