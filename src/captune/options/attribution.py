"""Options of the jobs that explain words: explain and faithful."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    ImageOptions,
    check_overwrite,
    option,
    overwrite_option,
    require_at_least,
)
from captune.options.captioning import CaptionerOptions

COLOURS = ("magma", "viridis", "jet")


@dataclass(kw_only=True)
class ExplainOptions(ImageOptions, CaptionerOptions):
    """`captune explain`."""

    method: str = option(
        "how the maps are made: attention, gradient-attention, relevance, gradient,"
        " integrated-gradients, occlusion, pixel-occlusion, places (auto: what captune faithful"
        " found to be the truest, else attention); with --labels places, gradient, occlusion",
        "auto",
        metavar="M",
    )
    words: str | None = option(
        "explain these words of the caption only, comma-separated", None, metavar="W,W"
    )
    caption: str | None = option(
        "explain this caption instead of the one that the captioner would write",
        None,
        metavar="TEXT",
    )
    against: str | None = option(
        "why not this word? maps of the words of --words against it", None, metavar="WORD"
    )
    labels: str | None = option(
        "explain a zero-shot classifier instead: --model is a model spec, these are its labels as"
        " in classify, --words are those to explain (default: the most probable)",
        None,
        metavar="L",
    )
    layer: str = option("which looking layer: a number from 0, last, all", "auto", metavar="N")
    head: str = option("which of its heads: a number from 0, mean, max", "auto", metavar="N")
    special: bool = option("a map of the caption's end, too", False)
    faithfulness: str = option(
        "how far to believe each map: none; quick, one deletion and one insertion mask a word;"
        " full, the whole curves",
        "quick",
        choices=("none", "quick", "full"),
    )
    colours: str = option(
        "colour map of the figures: magma is perceptually uniform, jet the assignment's",
        "magma",
        choices=COLOURS,
    )
    out: Path | None = option(
        "run folder to write: figures, and maps as .npz in RUN/maps", None, metavar="RUN"
    )
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        check_overwrite(self)
        if self.against is not None and not self.chosen_words and self.labels is None:
            raise UserError(
                "--against: say with --words which word of the caption is held against it"
            )
        if self.labels is not None and (self.caption is not None or self.special):
            raise UserError("--labels: explains a classifier; leave out --caption and --special")

    @property
    def chosen_words(self) -> list[str]:
        """The words of `words`, each once; none where all are meant."""
        found = (word.strip() for word in (self.words or "").split(","))
        return list(dict.fromkeys(word for word in found if word))


@dataclass(kw_only=True)
class FaithfulOptions(CaptionerOptions):
    """`captune faithful`."""

    model: str = option(
        "run folder of a captune tune, or of one of its methods; lite: the captioner that comes"
        " with captune",
        positional=True,
        nargs=None,
        metavar="RUN|lite",
    )
    images: Path = option("folder of the images that maps are chosen on", metavar="DIR")
    captions: Path = option("their reference captions, as in tune", metavar="TRAIN")
    boxes: Path | None = option(
        "what people drew there: COCO's instances_*.json", None, metavar="INSTANCES.json"
    )
    val_captions: Path | None = option(
        "reference captions of the images that are reported on", None, metavar="VAL"
    )
    val_images: Path | None = option(
        "folder of those images (default: --images)", None, metavar="DIR"
    )
    val_boxes: Path | None = option(
        "what people drew there, as --boxes", None, metavar="INSTANCES.json"
    )
    hide: str = option(
        "what hidden patch tokens become: zeros, or the mean token of the images chosen on",
        "zeros",
        choices=("zeros", "mean"),
    )
    minutes: float = option(
        "time that there is; what is slow is measured on fewer images", 30.0, metavar="N"
    )
    limit: int = option("take a fixed sample of N images of each file (0: all)", 0, metavar="N")
    quick: bool = option(
        "a first look: 16 images of each file, no occlusion, nothing by pixels", False
    )
    seed: int = option("seed of the sampling", 0, metavar="N")
    out: Path = option("run folder to write: leaderboard, plots, the default map", metavar="RUN")
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        if self.minutes <= 0:
            raise UserError(f"minutes {self.minutes}: must be above 0")
        require_at_least(self, limit=0, seed=0)
        for name in ("val_images", "val_boxes"):
            if getattr(self, name) is not None and self.val_captions is None:
                raise UserError(f"--{name.replace('_', '-')}: is for --val-captions; give both")
