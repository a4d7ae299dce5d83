"""Options of the jobs that compare images with texts: classify, prompts and embed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.options.base import (
    CsvOptions,
    ImageOptions,
    ModelOptions,
    check_overwrite,
    option,
    overwrite_option,
)


@dataclass(kw_only=True)
class ClassifyOptions(ImageOptions, ModelOptions, CsvOptions):
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
    overwrite: bool = overwrite_option()
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

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        check_overwrite(self)


@dataclass(kw_only=True)
class PromptsOptions(ImageOptions, ModelOptions, CsvOptions):
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
    overwrite: bool = overwrite_option()
    csv: Path | None = option("write the table, one row a prompt", None, metavar="FILE")

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        check_overwrite(self)


@dataclass(kw_only=True)
class EmbedOptions(ImageOptions, ModelOptions):
    """`captune embed`."""

    features: Path = option("FILE.npz or FILE.parquet to write", metavar="FILE")
