"""Options of `captune embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.options.fields import option
from captune.options.shared import ImageOptions, ModelOptions


@dataclass(kw_only=True)
class EmbedOptions(ImageOptions, ModelOptions):
    """`captune embed`."""

    features: Path = option("FILE.npz or FILE.parquet to write", metavar="FILE")
