"""Options of the jobs that compare images with texts: classify, prompts and embed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    ImageOptions,
    LabelledOptions,
    ModelOptions,
    RowOptions,
    option,
    overwrite_option,
    refuse_given,
)
from captune.options.shards import ShardOptions


@dataclass(kw_only=True)
class ClassifyOptions(ShardOptions, LabelledOptions, ModelOptions, RowOptions):
    """`captune classify`."""

    prompt: list[str] = option(
        "prompt template with {} or {object} for the label, or a named set (openai-80, openai-7,"
        " hw3); may be given several times",
        repeat=True,
        metavar="T",
    )
    ensemble: str | None = option(
        "mean: combine all prompts into one classifier (mean of their normalised text features)",
        choices=("mean",),
    )
    multi_label: bool = option(
        "classify each label independently; an image may have several", False
    )
    out: Path | None = option("run folder to write, with a page of the results", metavar="RUN")
    overwrite: bool = overwrite_option()
    csv: Path | None = option("write filename,label (class ids), one row per image")
    all_probabilities: bool = option(
        "write all probabilities into the run, as a float16 .npy file", False
    )
    top5: list[str] = option(
        "draw figures of the five most probable labels into the run: of N random images, or of the"
        " image called NAME; may be given several times",
        repeat=True,
        metavar="N|NAME",
    )
    seed: int = option("random seed of the images that --top5 N draws", 0)


@dataclass(kw_only=True)
class PromptsOptions(LabelledOptions, ModelOptions, RowOptions):
    """`captune prompts`."""

    prompt: list[str] = option(
        "template or named set to compare, two templates at least; may be given several times"
        " (default: hw3)",
        repeat=True,
        metavar="T",
    )
    out: Path | None = option("run folder to write, with tables, figures and a page", metavar="RUN")
    overwrite: bool = overwrite_option()
    csv: Path | None = option("write the table, one row per prompt")


@dataclass(kw_only=True)
class EmbedOptions(ShardOptions, ImageOptions, ModelOptions):
    """`captune embed`."""

    texts: Path | None = option(
        "embed the sentences of a text file, one per line, in place of images"
    )
    to: list[str] = option(
        "file to write, .npz, .parquet or .safetensors, with the model in its metadata; may be"
        " given several times",
        repeat=True,
        metavar="FILE",
    )
    out: Path | None = option(
        "folder or address where the shards of features go, one Parquet file each", metavar="OUT"
    )
    normalise: bool = option(
        "scale each vector to length one (default: as the model gives it)", False
    )

    def __post_init__(self) -> None:
        """Raises UserError unless images or texts are given."""
        if bool(self.images or self.dataset) == (self.texts is not None):
            raise UserError("embed: give either images, or sentences with --texts FILE")
        if self.texts is not None:
            refuse_given(self, ("limit",), "is for images; leave it out with --texts")
        super().__post_init__()
        if self.is_sharded:
            return
        if not self.to:
            raise UserError("--to FILE (the file to write) is missing")
        if self.out is not None:
            raise UserError("--out is for shards; of a folder write --to FILE, or --shard-size N")
