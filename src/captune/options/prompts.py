"""Options of `captune prompts`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.options.fields import check_overwrite, option, overwrite_option
from captune.options.shared import CsvOptions, ImageOptions, ModelOptions


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
