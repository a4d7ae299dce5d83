"""One method's folder in the run of a tune: begun, resumed, finished; and its options as YAML.

tuning.json         what was asked for; there from the first moment on
checkpoints/        from the last complete one `trainer.train` resumes; removed in the end
model.safetensors, config.json      the tuned captioner
records.jsonl, metrics.json, run.json   a run like any other, written last

A checkpoint is complete, or not there: Trainer writes its files one after the other, in place, so
here they are written into a folder of another name, flushed to the disk, marked as complete, and
only then renamed. Files are read with `weights_only=True`, by Trainer itself.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from captune.errors import UserError
from captune.files import holds_files, read_text, whole_file, writing
from captune.json_yaml import convert, parse_yaml, read_object
from captune.options.base import full_path
from captune.options.tuning import TuneOptions
from captune.runs import read_run
from captune.runs.metrics import Tuned, TuneMetrics
from captune.runs.reader import METRICS, damaged
from captune.runs.writer import remove_method
from captune.storage import rename, sync
from captune_metrics.display import printable, shorten

_ASKED = "tuning.json"
# where a run is written, and from what options it was read, is not part of what it is
_NOT_KEPT = ("config", "out", "overwrite")
# what may change between a kill and going on: it changes no weight
_NOT_DECIDING = {
    *_NOT_KEPT,
    *("method", "max_trainable", "device", "workers", "no_cache", "save_steps", "report_to"),
    *("images", "captions", "val_captions", "val_images"),
    *("encoder", "decoder", "score_model", "start"),
    *("curve", "dataset", "split", "val_split", "image_column", "caption_column"),
    # these are noted by what they come to, and not at all where they are left alone
    *("augment", "tags", "tags_top", "tags_least", "tags_model"),
    *("kl", "reward_model", "reward_share", "prompt", "prompt_captions", "stop_when_worse"),
    *("extra_text", "extra_model", "extra_noise"),
    # how captions are chosen is fitted when all else is done, and again where only that changes
    *("rerank", "candidates", "rerank_model"),
}
_LARGEST_STATE = 64 * 2**20
_MARK = "complete.json"
_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_STAGING = ".unfinished"
_CUT_SHORT = re.compile(r"PytorchStreamWriter failed|unexpected pos|write failed")


def begin(
    folder: Path,
    asked: Mapping[str, Any],
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """Note what is asked for, or check that the training in `folder` is of the same.

    overwrite: remove a training of other options or data, which `say` is told; other files stay.
    Raises UserError where the folder holds something else, or such a training that is not to be
    overwritten.
    """
    path, is_replaced = folder / _ASKED, False
    now = json.loads(json.dumps(asked, default=str))
    if overwrite and path.is_file():
        before = read_object(path)
        if other := _difference(before, now, {**before, **now}):
            say(f"--overwrite: replaces {folder}, which was started with {other}")
            remove_method(folder)
            is_replaced = True
    if not path.is_file():
        if not is_replaced and folder.is_dir() and holds_files(folder):
            raise UserError(f"{folder} holds files that are not of a tune; choose a new --out")
        with whole_file(path) as file:
            json.dump(now, file, indent=1)
        return
    before = read_object(path)
    _check_same(folder, before, now, {**before, **now})


def check_resumed(options: TuneOptions) -> None:
    """`begin`, as far as the options alone tell."""
    if options.out is None or options.overwrite:
        return
    now = _options_now(options)
    for folder in (options.out / method for method in options.methods):
        if (folder / _ASKED).is_file():
            _check_same(folder, read_object(folder / _ASKED), now, now)


def _options_now(options: TuneOptions) -> dict[str, Any]:
    now: dict[str, Any] = json.loads(json.dumps(deciding(options), default=str))
    del now["set"]  # which is noted by what it comes to
    return now


def _check_same(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]
) -> None:
    if other := _difference(before, now, names):
        raise UserError(
            f"{folder} was started with {other}. Use the same options to resume, another --out, or"
            " --overwrite to start anew"
        )


def _difference(
    before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]
) -> str | None:
    for name in names:
        if before.get(name) != now.get(name):
            was, is_now = (_shown(side.get(name)) for side in (before, now))
            return f"{name.replace('_', '-')} {was}; now it is {is_now}"
    return None


def resumed(options: TuneOptions) -> Iterator[str]:
    """A sentence for each training of an earlier call that was stopped, the smaller ones first."""
    assert options.out is not None
    now = _options_now(options)
    for place in (*options.out.glob("curve/*"), options.out):
        for folder in (place / method for method in options.methods):
            if not (folder / _ASKED).is_file() or is_finished(folder):
                continue
            if options.overwrite and _difference(read_object(folder / _ASKED), now, now):
                continue
            name = folder.relative_to(options.out)
            found = complete_checkpoints(folder / "checkpoints")
            if not found:
                yield f"{name} was stopped before its first checkpoint, and starts anew"
                continue
            last = read_state(found[max(found)])
            step, done = last["global_step"], float(last["epoch"]) / options.epochs
            of = f" of {step / done:,.0f}" if done else ""
            yield f"{name}: continues from update {step:,}{of}"


def is_finished(folder: Path) -> bool:
    """Whether its run was written, which is the last thing that happens."""
    return (folder / "run.json").is_file() and (folder / "metrics.json").is_file()


def read_finished(folder: Path) -> Tuned:
    """The figures of a finished folder. Raises UserError for a damaged one."""
    tuned = read_run(folder).typed_metrics(TuneMetrics).tuned
    if tuned is None:
        raise damaged(folder, METRICS, "it is of no method of a tune")
    return tuned


def _shown(value: Any) -> str:
    text = str(value)
    return text if " " in text else shorten(text, 16)


def write_config(options: TuneOptions, path: Path) -> None:
    """Every option but where the run was written, in the order of `--help`."""
    values = {
        name: full_path(str(value)) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(options).items()
        if name not in _NOT_KEPT
    }
    with whole_file(path) as file:
        file.write("# read back with: captune tune --config THIS_FILE --out RUN\n")
        yaml.safe_dump(values, file, sort_keys=False, allow_unicode=True)


def read_options_file(path: Path) -> dict[str, Any]:
    """Option name -> value. Raises UserError for what is no such file, option or kind of value."""
    shown = printable(path)
    content = parse_yaml(read_text(str(path)), shown, "give the config.yaml of a tune")
    if not isinstance(content, Mapping):
        raise UserError(f"{shown} holds no options; expected lines such as `epochs: 10`")
    hints = typing.get_type_hints(TuneOptions)
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in hints or name in _NOT_KEPT:
            raise UserError(f'{shown}: captune tune has no option "{printable(key)}"')
        hint = hints[name]
        try:
            # YAML reads 5e-4 as a text, and 12000 as a number
            plain = hint(value) if hint in (float, str) and type(value) in (int, str) else value
            values[name] = convert(plain, hint)
        except ValueError as error:
            raise UserError(f"{shown}: {name}: {printable(error)}") from None
    return values


def with_config(options: TuneOptions, typed: Sequence[str]) -> TuneOptions:
    """`options` with what its config file says, but for the options that were typed.

    typed: names of the options on the command line.
    """
    if options.config is None:
        return options
    values = read_options_file(options.config)
    kept = {name: value for name, value in values.items() if name not in typed}
    return dataclasses.replace(options, **kept)


def deciding(options: TuneOptions) -> dict[str, Any]:
    """The options that a training depends on, beside its data, its frozen parts and its method."""
    values = dataclasses.asdict(options)
    return {name: value for name, value in values.items() if name not in _NOT_DECIDING}


def staging_folder(folder: Path) -> Path:
    """Where the files of the next checkpoint in `folder` are gathered."""
    return folder / _STAGING


@contextmanager
def writing_checkpoint(folder: Path) -> Iterator[None]:
    """Within, a full disk is a UserError, and what is there of the next checkpoint goes.

    folder: of the checkpoints.
    """
    found = complete_checkpoints(folder)
    kept = f"the checkpoint of step {max(found):,} is kept" if found else "no step is kept yet"
    try:
        with writing(folder, kept):
            try:
                yield
            except RuntimeError as error:
                # PyTorch's writer keeps neither the number nor the words of the system
                if not _CUT_SHORT.search(str(error)):
                    raise
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    except UserError:
        shutil.rmtree(staging_folder(folder), ignore_errors=True)
        raise


def publish_checkpoint(staged: Path, target: Path) -> None:
    """Flush every file of `staged`, mark it as complete and give it its name, all or nothing."""
    # a rename that survives a power cut must not name bytes that did not
    mark = staged / _MARK
    mark.write_text(json.dumps({"files": sorted(p.name for p in staged.iterdir())}) + "\n")
    for path in (*sorted(staged.rglob("*")), staged):
        sync(path)
    if target.exists():  # the same step again, after a kill before the next one was complete
        shutil.rmtree(target)
    rename(staged, target)


def is_complete(checkpoint: Path) -> bool:
    """Whether it carries its mark and every file that the mark lists."""
    try:
        listed = read_object(checkpoint / _MARK).get("files")
    except UserError:
        return False
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        return False
    return all((checkpoint / name).exists() for name in listed)


def complete_checkpoints(folder: Path) -> dict[int, Path]:
    """By training step, in ascending order; what is not complete is passed over."""
    if not folder.is_dir():
        return {}
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and is_complete(path)
    }
    return dict(sorted(found.items()))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Trainer's own record of a checkpoint: steps, epoch, best score, log.

    Raises UserError for a file that is no such record.
    """
    path = checkpoint / _STATE
    state = read_object(path, _LARGEST_STATE)
    numbers = (int, float)
    if not isinstance(state.get("epoch"), numbers) or not isinstance(state.get("global_step"), int):
        raise UserError(f"{printable(path)} is not the record of a training; remove its folder")
    if not isinstance(state.get("log_history"), list):
        raise UserError(f"{printable(path)} has no log_history; remove its folder")
    return state


def fraction_done(folder: Path, epochs: int) -> float:
    """How much of a training of so many epochs the last complete checkpoint has behind it."""
    found = complete_checkpoints(folder)
    return float(read_state(found[max(found)])["epoch"]) / epochs if found else 0.0


def prune(folder: Path, keep: Iterable[int]) -> None:
    """Remove all checkpoints but those of the steps in `keep`, and what a kill left unfinished."""
    kept = {f"checkpoint-{step}" for step in keep}
    for path in folder.iterdir():
        ours = path.name == _STAGING or _NAME.fullmatch(path.name)
        if ours and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
