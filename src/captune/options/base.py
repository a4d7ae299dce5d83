"""What the options of every job are made of: fields that know their help, shared groups, checks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from captune.errors import UserError


def option(help: str, default: Any = ..., **extra: Any) -> Any:
    """A dataclass field that knows its `--help` text.

    extra: `metavar`, `choices`, `repeat` (the flag may be given several times), `positional` (with
    `nargs` as argparse has it: "+" one or more, the default; "?" one or none; None exactly one),
    `negatable` (a flag that --no-FLAG takes back), `names` (a function that lists what the option
    takes, for `--help`).
    """
    metadata = {"help": help, **extra}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def same_option(options: type[Any], name: str) -> Any:
    """The option `name` of another dataclass, for one that takes a few of its options."""
    (known,) = (one for one in fields(options) if one.name == name)
    return field(default=known.default, metadata=known.metadata)


def overwrite_option() -> Any:
    """`--overwrite` of a command that writes a run folder."""
    return option("let --out replace a run of another command", False)


def check_overwrite(options: Any) -> None:
    """Raises UserError where there is nothing to overwrite."""
    if options.overwrite and options.out is None:
        raise UserError("--overwrite is for --out; give both, or neither")


def require_at_least(options: Any, **least: int) -> None:
    """Raises UserError for the first of these fields of `options` that is below its least value."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value < smallest:
            raise UserError(f"{name.replace('_', '-')} {value}: must be {smallest} or more")


@dataclass(kw_only=True)
class ModelOptions:
    """What every command that runs a model takes."""

    model: str = option(
        "model spec: lite, open_clip:NAME/TAG, hf:REPO_OR_FOLDER, timm:NAME or a local folder",
        "lite",
        metavar="SPEC",
    )
    device: str = option(
        "device that the model runs on", "auto", choices=("auto", "cpu", "cuda", "mps")
    )
    dtype: str = option(
        "precision of the model (auto: float32 on a CPU, float16 on a GPU)",
        "auto",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    batch_size: int = option("images per forward pass", 32, metavar="N")
    workers: int = option(
        "threads that decode images ahead of the model (0: chosen automatically)", 0, metavar="N"
    )
    no_cache: bool = option("do not use the feature cache", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no pass can be made with."""
        check_pass(self.batch_size, self.workers)


def check_pass(batch_size: int, workers: int) -> None:
    """Raises UserError for a batch size below 1 or less than no workers."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be 1 or more")
    if workers < 0:
        raise UserError(f"workers {workers}: must be 0 (chosen automatically) or more")


@dataclass(kw_only=True)
class CsvOptions:
    """What every command takes that writes words of others into a CSV file."""

    raw_csv: bool = option(
        "write CSV cells unchanged, even those that a spreadsheet would run as formulas (= + - @)",
        False,
    )


@dataclass(kw_only=True)
class RowOptions(CsvOptions):
    """What every command takes that has an answer per image, or a row per prompt."""

    to: list[str] = option(
        "write the results for other programs, with the model and its weights id, in the form of"
        " the ending: .csv, .jsonl, .json or .parquet; may be given several times",
        [],
        repeat=True,
        metavar="FILE",
    )


@dataclass(kw_only=True)
class ImageOptions:
    """Which images a command looks at."""

    images: list[str] = option(
        "folders (searched recursively), files, globs, or - for a list of paths on standard input",
        positional=True,
        metavar="IMAGES",
    )
