"""Options of `captune caption`, and of what else runs a captioner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.fields import option, require_at_least
from captune.options.shared import ImageOptions, ModelOptions


@dataclass(kw_only=True)
class CaptionerOptions(ModelOptions):
    """What every command that runs a captioner takes."""

    model: str = option(
        "run folder of a captune tune, or of one of its methods; lite: the captioner that comes"
        " with captune",
        "lite",
        metavar="RUN|lite",
    )
    encoder: str | None = option(
        "where the captioner's image encoder lies now, if not where it was in training",
        None,
        metavar="SPEC",
    )
    decoder: str | None = option(
        "where its language model lies now, if not where it was in training", None, metavar="SPEC"
    )
    known_words_model: str | None = option(
        "where the model of its known words lies now, if it reads any", None, metavar="SPEC"
    )
    beam: int = option("width of the beam search; 1 takes the likeliest token", 5, metavar="N")
    max_tokens: int = option("longest caption, in tokens", 60, metavar="N")

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no caption can be written with."""
        super().__post_init__()
        require_at_least(self, beam=1, max_tokens=1)


@dataclass(kw_only=True)
class CaptionOptions(ImageOptions, CaptionerOptions):
    """`captune caption`."""

    predictions: Path | None = option(
        'write {"stem": "caption"}, the form of the assignment', None, metavar="FILE.json"
    )
    sidecar: bool = option("write name.txt beside each image; what stands there stays", False)
    overwrite: bool = option(
        "let --sidecar replace what stands there, and --out the run of another command", False
    )
    out: Path | None = option(
        "run folder to write: captions with the log-probability of each word", None, metavar="RUN"
    )

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        if self.overwrite and not self.sidecar and self.out is None:
            raise UserError("--overwrite: is for --sidecar and --out; give one of them too")
