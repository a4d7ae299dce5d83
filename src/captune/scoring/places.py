"""Where results go must not be where something is read from, or where another result goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from captune.errors import UserError
from captune.files import printable
from captune.images.find import ENDINGS
from captune.metrics.frequency import is_file
from captune.options import MetricOptions

# what captune reads in a folder: runs, image folders, sidecars
_READ_NAMES = ("run.json", "records.jsonl", "metrics.json", "metadata.csv", "metadata.jsonl")
_READ_ENDINGS = ("txt", *ENDINGS)


def read_places(options: MetricOptions, captions: Mapping[str, Path]) -> dict[str, Path]:
    """What a score reads besides `captions`, by what it is called in a sentence."""
    places = {**captions, "references": options.references, "images": options.images}
    if is_file(options.df):
        places["--df"] = Path(options.df)
    return {what: _file_of(path) for what, path in places.items() if path is not None}


def _file_of(path: Path) -> Path:
    """`dataset.json` of `dataset.json#split=test`."""
    name, mark, _ = str(path).rpartition("#split=")
    return Path(name) if mark and not path.exists() else path


def check_outputs(
    inputs: Mapping[str, Path], files: Mapping[str, Path | None], run: Path | None
) -> None:
    """Refuse to write what would destroy something, before any work is done.

    inputs: what is read, by its name in a sentence; files: what is written, by its option; run: the
    run folder of --out. Raises UserError.
    """
    outputs = {option: path for option, path in files.items() if path is not None}
    taken: dict[str, Path] = {}
    for option, path in outputs.items():
        for what, read in inputs.items():
            if _same(path, read) or _is_read_in(path, read):
                raise _refusal(option, path, f"would replace what is read ({what})")
        for other, written in taken.items():
            if _same(path, written):
                raise _refusal(option, path, f"is the file of {other} too")
        taken[option] = path
        if run is not None and _within(path, run):
            raise _refusal(option, path, "lies in the run folder that --out writes")
    if run is not None:
        for what, read in inputs.items():
            if _within(read, run):
                raise _refusal("--out", run, f"holds what is read ({what})")
        for other, written in taken.items():
            if _within(run, written):
                raise _refusal("--out", run, f"lies below the file of {other}")


def _refusal(option: str, path: Path, why: str) -> UserError:
    return UserError(f"{option} {printable(str(path))}: {why}; choose another place")


def _same(one: Path, other: Path) -> bool:
    try:
        if one.exists() and not one.is_file() and not one.is_dir():
            return False  # a terminal or a pipe: nothing in it is lost
        both = one.exists() and other.exists()
        return one.resolve() == other.resolve() or (both and one.samefile(other))
    except (OSError, ValueError):  # no path at all, which is said where it is opened
        return False


def _within(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve()) or _same(path, folder)
    except (OSError, ValueError):
        return False


def _is_read_in(path: Path, folder: Path) -> bool:
    """Whether `path` is one of the files that are read in an input folder."""
    is_read = path.name in _READ_NAMES or path.suffix[1:].lower() in _READ_ENDINGS
    return is_read and folder.is_dir() and _within(path, folder)
