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
from captune.captioning.budget import parse_count
from captune.captioning.building import config_of, read_settings
from captune.captioning.data import CaptionedPhotos, leaking, read_captioned, tokenise
from captune.captioning.evaluation import ValidationSet
from captune.captioning.frozen import FrozenParts, load_frozen
from captune.captioning.objective import CrossEntropy, Objective, SelfCritical
from captune.captioning.training import Bar, TrainingData
from captune.captioning.tuning import method_class
from captune.errors import UserError
from captune.features import FeatureCache
from captune.images import PhotoSet, find_photos
from captune.models.devices import resolve_device
from captune.options import TuneOptions


@dataclass(frozen=True)
class Job:
    """What all methods share."""

    options: TuneOptions
    train: CaptionedPhotos
    val: ValidationSet
    sample: ValidationSet
    data: TrainingData
    frozen: FrozenParts
    settings: dict[str, dict[str, Any]]
    leaked: list[str]
    command: Sequence[str]
    bar: Bar
    say: Callable[[str], None]


def this_process(options: TuneOptions) -> PartialState:
    """Which of how many processes this is; the first call decides where they all train."""
    return PartialState(cpu=resolve_device(options.device).type == "cpu")


def check_options(options: TuneOptions) -> dict[str, dict[str, Any]]:
    """Everything that can be refused before a file is read; the settings by part."""
    for name, flag in (
        ("photos", "PHOTOS, the folder of the training photos"),
        ("captions", "--captions TRAIN, their captions"),
        ("val", "--val VAL, captions of photos to be judged by"),
        ("out", "--out RUN, the folder to write"),
    ):
        if getattr(options, name) is None:
            raise UserError(f"{flag}: is missing; captune tune --help shows an example")
    assert options.out is not None
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"{options.out}: is a file; --out names a run folder")
    strange = options.out.is_dir() and any(
        not p.name.startswith(".") for p in options.out.iterdir()
    )
    if strange and not any(options.out.glob("*/tuning.json")):
        raise UserError(f"{options.out}: holds files that are not of a tune; choose a new folder")
    if not options.methods:
        raise UserError(f'--method "{options.method}": names no method; try adapter,prefix,lora')
    parse_count(options.max_trainable)
    if options.select == "clipscore" and options.score_model == "none":
        raise UserError("--select clipscore: needs a model; leave --score-model none out")
    settings = read_settings(options.set, bridge=options.bridge)
    config_of(bridge_class(options.bridge).Config, settings.get("bridge", {}), options.bridge)
    for method in options.methods:
        config_of(method_class(method).Config, settings.get(method, {}), method)
    if options.bridge == "bidirectional":
        raise UserError(
            "--bridge bidirectional: reads a text of each photo, which captune tune does not make"
            " yet; use cross-attention or prefix"
        )
    unused = sorted(settings.keys() - {"bridge", *options.methods})
    if unused:
        raise UserError(
            f"--set {unused[0]}: is none of the methods that are trained ({options.method})"
        )
    return settings


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
    assert options.photos is not None
    assert options.captions is not None
    assert options.val is not None
    found = find_photos([options.photos])
    found_val = found if options.val_photos is None else find_photos([options.val_photos])
    train_set = _read(options.captions, found, options, bar, say, limit=options.limit)
    val_set = _read(options.val, found_val, options, bar, say)
    leaked = leaking(train_set, val_set)
    frozen = load_frozen(options, [train_set, val_set], stack=stack, cache=cache, bar=bar)
    train_set, val_set = (part.without(frozen.skipped) for part in (train_set, val_set))
    for part, where in ((train_set, options.captions), (val_set, options.val)):
        if not len(part):
            raise UserError(f"{where}: none of its photos could be decoded")
    if len(val_set) < 2:
        raise UserError(f"{options.val}: has one photo; scores need two and more, better hundreds")
    tokens = tokenise(train_set, frozen.decoder, options.max_tokens)
    if tokens.cut:
        say(f"{tokens.cut:,} captions are cut at {options.max_tokens} tokens (--max-tokens)")
    if tokens.empty:
        say(f"{len(tokens.empty):,} images are left out: their captions hold no token")
    if not any(tokens.rows):
        raise UserError(f"{options.captions}: none of its captions holds a token")
    val_tokens = tokenise(val_set, frozen.decoder, options.max_tokens)
    val = ValidationSet(val_set, val_tokens.rows, frozen.grids, frozen.clip, cache)
    sample = val.first(_sampled(options.val_sample, len(val_set), options.seed))
    data = TrainingData(
        train_set.keys, tokens.rows, frozen.grids, _objective(options, train_set, tokens.rows)
    )
    return Job(options, train_set, val, sample, data, frozen, settings, leaked, command, bar, say)


def _objective(
    options: TuneOptions, train: CaptionedPhotos, rows: Sequence[Sequence[object]]
) -> Objective:
    if options.objective == "cider":
        return SelfCritical(train, rows, samples=options.samples, max_tokens=options.max_tokens)
    return CrossEntropy(options.label_smoothing)


def _read(
    captions: Path,
    found: PhotoSet,
    options: TuneOptions,
    bar: Bar,
    say: Callable[[str], None],
    limit: int = 0,
) -> CaptionedPhotos:
    with bar("reading", 0) as advance:
        part = read_captioned(captions, found, limit=limit, seed=options.seed, advance=advance)
    for sentence in part.notes:
        say(sentence)
    return part


def _sampled(wanted: int, available: int, seed: int) -> list[int]:
    if not 0 < wanted < available:
        return list(range(available))
    return sorted(random.Random(f"val/{seed}").sample(range(available), max(2, wanted)))  # noqa: S311
