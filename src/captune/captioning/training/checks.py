"""What of a tune is refused before anything is imported or loaded: options, captions, images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from captune.captioning.dataset import (
    MatchedCaptions,
    check_enough,
    match_dataset,
    read_texts,
    without_captions,
)
from captune.captioning.settings import (
    CONFIG,
    PROMPT_TOKENS,
    Settings,
    check_settings,
    checkpoint_folder,
    config_of,
    config_type,
    is_vlm,
    parse_count,
    tag_tokens,
)
from captune.captioning.training.state import check_resumed
from captune.errors import UserError
from captune.files import holds_files
from captune.images.find import check_sources, find_images
from captune.json_yaml import read_object
from captune.models.load import parse_decoder, parse_spec
from captune.options.tuning import PROMPTS, TuneOptions
from captune.registry import BRIDGES
from captune.runs import check_run_folder
from captune.zeroshot.labels import read_labels
from captune_metrics.display import printable, quoted

# what a captioner of transformers has of its own, or takes no part in
_OWN_ONLY = (
    *("bridge", "encoder", "decoder", "decoder_blocks", "vocabulary", "tags", "tags_model"),
    *("augment", "extra_text", "objective", "rerank"),
)


def check_possible(options: TuneOptions) -> dict[str, dict[str, Any]]:
    """Refuse what options and run folder alone tell, before anything is imported or loaded.

    Returns the settings of --set, by part.
    """
    for name, flag in (
        ("images", "IMAGES (folder of the training images)"),
        ("captions", "--captions TRAIN (their captions)"),
        ("out", "--out RUN (folder to write)"),
    ):
        if getattr(options, name) is None:
            raise UserError(f"{flag} is missing; captune tune --help shows an example")
    if options.val_images is not None and options.val_captions is None:
        raise UserError("--val-captions VAL (captions of --val-images) is missing")
    assert options.out is not None
    is_known = (options.out / "run.json").exists() or any(options.out.glob("*/tuning.json"))
    if is_known or not options.out.is_dir():
        check_run_folder(options.out, "tune", overwrite=options.overwrite, goes_on=True)
    elif holds_files(options.out):
        raise UserError(f"{options.out} holds files that are not of a tune; choose a new folder")
    if not options.methods:
        raise UserError(f'--method "{options.method}" names no method; try adapter,prefix,lora')
    parse_count(options.max_trainable)
    settings = check_settings(options.set, bridge=options.bridge, methods=options.methods)
    if options.select == "clipscore" and options.score_model == "none":
        raise UserError("--select clipscore needs a model: leave out --score-model none")
    others = (options.tags_model, options.reward_model, options.extra_model, options.score_model)
    for spec in {options.encoder, *(other or "lite" for other in others)} - {"none"}:
        parse_spec(spec)
    parse_decoder(options.decoder)
    if options.start is not None and is_vlm(options.start):
        check_kind(options, of_transformers=True)
    else:
        for method in options.methods:
            _check_start(options, method)
    for tracker in options.trackers:
        if find_spec(tracker) is None:
            raise UserError(
                f"--report-to {tracker}: {tracker} is not installed; pip install {tracker}"
            )
    _check_tags(options, max_tag_tokens(options, settings))
    check_resumed(options)
    assert options.images is not None
    check_sources([options.images])
    return settings


def read_inputs(options: TuneOptions) -> tuple[MatchedCaptions, MatchedCaptions]:
    """The captions to train on and those to validate on, with their images, of which none is read.

    Raises UserError for images and captions that do not fit. Nothing is imported or loaded for it.
    """
    assert options.images is not None
    assert options.captions is not None
    found = val_found = find_images([options.images])
    train = match_dataset(options.captions, found)
    if options.val_captions is None:
        train, val = train.held_out(options.seed)
    else:
        if options.val_images:
            val_found = find_images([options.val_images])
        val = match_dataset(options.val_captions, val_found)
        check_enough(len(val.captions), options.val_captions)
    if val_found == found:
        train.notes.extend(without_captions(found, [train, val]))
    else:
        train.notes.extend(without_captions(found, [train]))
        val.notes.extend(without_captions(val_found, [val]))
    check_sizes(options, len(train.captions))
    if options.extra_text is not None:
        read_texts(options.extra_text)
    return train, val


def check_sizes(options: TuneOptions, images: int) -> None:
    """Raises UserError where --curve asks for more images than there are to train on."""
    if options.sizes and images < options.sizes[-1]:
        raise UserError(
            f"--curve {options.curve}: there are {images:,} training images; its largest number"
            " may be as large as that"
        )


def start_of(options: TuneOptions, method: str) -> Path | None:
    """The folder that a method begins with: in a run of several methods, its own."""
    if options.start is None:
        return None
    own = options.start / method
    return own if own.is_dir() else options.start


def check_kind(options: TuneOptions, *, of_transformers: bool) -> None:
    """Raises UserError for options that are not for --start of this kind of captioner."""
    shown = printable(options.start)
    if not of_transformers:
        asked = "train" if options.train else "prompt"
        if options.train or options.prompt not in PROMPTS:
            raise UserError(
                f"--{asked} {printable(getattr(options, asked))} is for a captioner of"
                f" transformers; --start {shown} is one of captune's"
            )
        return
    fields = {field.name: field for field in dataclasses.fields(TuneOptions)}
    changed = [name for name in _OWN_ONLY if getattr(options, name) != fields[name].default]
    changed += ["set"] if any(word.startswith("bridge.") for word in options.set) else []
    changed += ["prompt"] if options.prompt in PROMPTS[1:] else []
    for name in changed:
        value = "" if getattr(options, name) is None else f" {getattr(options, name)}"
        value = " bridge..." if name == "set" else value
        raise UserError(
            f"--{name.replace('_', '-')}{printable(value)} is for a captioner that captune builds"
            f" of an encoder, a bridge and a decoder; --start {shown} is one of transformers: leave"
            " it out"
        )
    if options.methods == ["none"] and options.train is None:
        raise UserError(
            f"--method none trains nothing in --start {shown}; add --train projector, or take lora"
        )


def _check_start(options: TuneOptions, method: str) -> None:
    folder = start_of(options, method)
    if folder is None or (str(folder).startswith("hf:") and not folder.is_dir()):
        return
    if not folder.is_dir():
        raise UserError(f"--start {printable(folder)} is not a folder; name a tuned captioner")
    check_kind(options, of_transformers=False)
    made = read_object(checkpoint_folder(folder) / CONFIG)
    if "base" in made:
        raise UserError(
            f"--start {printable(folder)} was tuned in a captioner of transformers; start"
            " from that one"
        )
    for part, wanted in (("bridge", options.bridge), ("method", method)):
        found = made.get(part)
        name = found.get("name") if isinstance(found, dict) else None
        if name != wanted:
            raise UserError(
                f"--start {printable(folder)} was tuned with --{part} {quoted(str(name))},"
                f" not {wanted}; take the same, or another captioner"
            )
    if made.get("known_words") and options.tags is None:
        raise UserError(
            f"--start {printable(folder)} was tuned with tags of each image; give --tags, or start"
            " from another captioner"
        )


def max_tag_tokens(options: TuneOptions, settings: Mapping[str, Settings]) -> int:
    """How many tokens the bridge reads of an image, or stand before its caption; 0 for none."""
    kind = config_type(BRIDGES, options.bridge)
    found = tag_tokens(config_of(kind, settings.get("bridge", {}), options.bridge))
    if options.prompt not in PROMPTS[1:]:
        return found
    if found:
        raise UserError(
            f"--prompt {options.prompt}: --bridge {options.bridge} reads the tags itself; leave"
            " --prompt out, or take another bridge"
        )
    return PROMPT_TOKENS


def _check_tags(options: TuneOptions, max_tokens: int) -> None:
    """Raises UserError where the tags of a tune are read by nobody, or nobody says which."""
    if options.tags is not None:
        if not max_tokens:
            raise UserError(
                f"--tags: --bridge {options.bridge} reads none; take --prompt tags or --bridge"
                " bidirectional, or leave them out"
            )
        if len(read_labels(options.tags)) == 1:
            raise UserError(
                f"--tags {printable(options.tags)} is one label, which every image would have; give"
                " several, a file of them, or everyday"
            )
        if options.similar_captions:
            raise UserError("--tags is for --prompt tags; --prompt captions reads no tags")
    elif options.prompt == "tags":
        raise UserError(
            "--prompt tags: say with --tags among which labels they are chosen, as captune classify"
            " --labels"
        )
    elif max_tokens and not options.similar_captions:
        raise UserError(
            f"--bridge {options.bridge} reads tags of each image; say with --tags among which"
            " labels they are chosen, as captune classify --labels"
        )
