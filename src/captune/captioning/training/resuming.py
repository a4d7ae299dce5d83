"""Folders that a killed training goes on from: complete, or not there.

Trainer writes the files of a checkpoint one after the other, in place. Here they are written into a
folder of another name, flushed to the disk, marked as complete, and only then renamed. Files are
read with `weights_only=True`, by Trainer itself.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.files import printable, writing
from captune.models.checkpoint_files import read_object

_LARGEST_STATE = 64 * 2**20
_MARK = "complete.json"
_STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_STAGING = ".unfinished"
_CUT_SHORT = re.compile(r"PytorchStreamWriter failed|unexpected pos|write failed")


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
                raise OSError(errno.ENOSPC, "the disk takes no more") from error
    except UserError:
        shutil.rmtree(staging_folder(folder), ignore_errors=True)
        raise


def publish(staged: Path, target: Path) -> None:
    """Flush every file of `staged`, mark it as complete and give it its name, all or nothing."""
    for path in sorted(staged.rglob("*")):
        _flush(path)
    mark = staged / _MARK
    mark.write_text(json.dumps({"files": sorted(p.name for p in staged.iterdir())}) + "\n")
    _flush(mark)
    _flush(staged)
    if target.exists():  # the same step again, after a kill before the next one was complete
        shutil.rmtree(target)
    staged.rename(target)
    _flush(target.parent)


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
        raise UserError(f"{printable(str(path))}: is no record of a training; remove its folder")
    if not isinstance(state.get("log_history"), list):
        raise UserError(f"{printable(str(path))}: has no log_history; remove its folder")
    return state


def share_done(folder: Path, epochs: int) -> float:
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


def _flush(path: Path) -> None:
    """To the disk: a rename that survives a power cut must not name bytes that did not."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # a folder, on Windows
        return
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():
            raise
    finally:
        os.close(handle)
