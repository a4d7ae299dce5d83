"""One dataclass a job: the Python API, the command line and recipes read the same definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captune.errors import UserError


def option(help: str, default: Any = ..., **extra: Any) -> Any:
    """A dataclass field that knows its `--help` text.

    extra: `positional`, `metavar`, `choices`, `repeat` (the flag may be given several times).
    """
    metadata = {"help": help, **extra}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class ModelOptions:
    """What every command that runs a model takes."""

    model: str = option(
        "model spec: lite, open_clip:NAME/TAG, hf:REPO_OR_FOLDER, timm:NAME or a local folder",
        "lite",
        metavar="SPEC",
    )
    device: str = option("where the model runs", "auto", choices=("auto", "cpu", "cuda", "mps"))
    dtype: str = option(
        "precision of the model (auto: float32 on a CPU, float16 on a GPU)",
        "auto",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    batch_size: int = option("images a forward pass", 32, metavar="N")
    workers: int = option(
        "threads that decode ahead of the model (0: chosen for you)", 0, metavar="N"
    )
    no_cache: bool = option("neither read nor write the feature cache", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no pass can be made with."""
        check_pass(self.batch_size, self.workers)


def check_pass(batch_size: int, workers: int) -> None:
    """Raises UserError for a batch size below 1 or less than no workers."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be 1 or more")
    if workers < 0:
        raise UserError(f"workers {workers}: must be 0 (chosen for you) or more")


@dataclass(kw_only=True)
class PhotoOptions:
    """Which photos a command looks at."""

    photos: list[str] = option(
        "folders (recursive), files, globs, or - for a list on standard input",
        positional=True,
        metavar="PHOTOS",
    )


@dataclass(kw_only=True)
class ClassifyOptions(PhotoOptions, ModelOptions):
    """`captune classify`."""

    labels: str = option(
        'cat,dog | names.txt | {"id": "name"}.json | {"name": ["prompt", ...]}.json', metavar="L"
    )
    prompt: list[str] = option(
        "template with {} or {object}, or a named set (openai-80, openai-7, hw3); may repeat",
        [],
        repeat=True,
        metavar="T",
    )
    ensemble: str | None = option(
        "mean: one classifier from all prompts (normalise, average, normalise)",
        None,
        choices=("mean",),
    )
    multi_label: bool = option("an independent yes or no for each label", False)
    truth: str | None = option(
        "a CSV of filename,label; from-name for <class id>_<n>.ext; from-folder", None, metavar="T"
    )
    out: Path | None = option("run folder to write", None, metavar="RUN")
    csv: Path | None = option(
        "write filename,label (class ids), one row an image", None, metavar="FILE"
    )
    all_probabilities: bool = option("keep every probability, as float16 .npy in the run", False)
    top5: list[str] = option(
        "top-5 figures in the run: a number of sampled images, or a file name; may repeat",
        [],
        repeat=True,
        metavar="N|NAME",
    )
    seed: int = option("seed of the sampling", 0, metavar="N")


@dataclass(kw_only=True)
class PromptsOptions(PhotoOptions, ModelOptions):
    """`captune prompts`."""

    labels: str = option("as in classify", metavar="L")
    prompt: list[str] = option(
        "two or more templates or named sets to compare; may repeat (default: hw3)",
        [],
        repeat=True,
        metavar="T",
    )
    truth: str | None = option(
        "a CSV of filename,label; from-name for <class id>_<n>.ext; from-folder", None, metavar="T"
    )
    out: Path | None = option("run folder to write: tables and plots", None, metavar="RUN")
    csv: Path | None = option("write the table, one row a prompt", None, metavar="FILE")


@dataclass(kw_only=True)
class EmbedOptions(PhotoOptions, ModelOptions):
    """`captune embed`."""

    features: Path = option("FILE.npz or FILE.parquet to write", metavar="FILE")
