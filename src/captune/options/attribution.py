"""Options of the jobs that explain words: explain and faithful."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    DatasetOptions,
    ImageOptions,
    RowOptions,
    caption_column_option,
    check_overwrite,
    option,
    overwrite_option,
    refuse_given,
    require_at_least,
)
from captune.options.captioning import CaptionerOptions, check_flag, flag_option
from captune.registry import MAP_METHODS

COLOURS = ("magma", "viridis", "jet")


@dataclass(kw_only=True)
class ExplainOptions(ImageOptions, CaptionerOptions, RowOptions):
    """`captune explain`."""

    method: str = option(
        "how the maps are made (auto: the method that captune faithful chose, else attention;"
        " --labels takes patch-similarity, gradient and occlusion)",
        "auto",
        metavar="M",
        names=MAP_METHODS.names,
    )
    words: str | None = option(
        "words of the caption to explain, comma-separated (default: all)", None, metavar="W,W"
    )
    caption: str | None = option(
        "caption to explain (default: the caption that the captioner generates)",
        None,
        metavar="TEXT",
    )
    against: str | None = option(
        "explain why the model prefers the words of --words to this word", None, metavar="WORD"
    )
    labels: str | None = option(
        "explain a zero-shot classifier with these labels instead of a captioner: --model is a"
        " model spec, --words are the labels to explain (default: the most probable one)",
        None,
        metavar="L",
    )
    layer: str = option("cross-attention layer: a number from 0, last or all", "auto", metavar="N")
    head: str = option(
        "attention head of the layer: a number from 0, mean or max", "auto", metavar="N"
    )
    special: bool = option("also explain the end-of-caption token", False)
    faithfulness: str = option(
        "test how faithful each map is: none; quick, with one deletion and one insertion mask per"
        " word; full, with whole deletion and insertion curves",
        "quick",
        choices=("none", "quick", "full"),
    )
    minutes: float | None = option(
        "time budget in minutes: as many words as it has time for, words with content first",
        None,
        metavar="N",
    )
    flag_below: float | None = flag_option()
    colours: str = option(
        "colour map of the figures: magma and viridis are perceptually uniform, jet is the"
        " assignment's",
        "magma",
        choices=COLOURS,
    )
    out: Path | None = option(
        "run folder to write, with figures, a page, and the maps as .npz in RUN/maps",
        None,
        metavar="RUN",
    )
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_overwrite(self)
        if self.method != "auto":
            MAP_METHODS.require(self.method)
        if self.against is not None and not self.chosen_words and self.labels is None:
            raise UserError(
                "--against: say with --words which word of the caption is held against it"
            )
        if self.labels is not None and (self.caption is not None or self.special):
            raise UserError("--labels: explains a classifier; leave out --caption and --special")
        if self.minutes is not None and not self.minutes > 0:
            raise UserError(f"minutes must be above 0, not {self.minutes}")
        if self.minutes is not None and self.labels is not None:
            raise UserError("--minutes: is for words of captions; leave it out with --labels")
        check_flag(self)
        if self.flag_below is not None and (self.labels or self.caption) is not None:
            raise UserError(
                "--flag-below: is for captions that the captioner writes; leave out --caption and"
                " --labels"
            )

    @property
    def chosen_words(self) -> list[str]:
        """The words of `words`, each once; none where all are meant."""
        found = (word.strip() for word in (self.words or "").split(","))
        return list(dict.fromkeys(word for word in found if word))


@dataclass(kw_only=True)
class FaithfulOptions(DatasetOptions, CaptionerOptions):
    """`captune faithful`."""

    model: str = option(
        "captioner: a run folder of captune tune, or of one of its methods; a folder of"
        " transformers, or hf:USER/NAME; lite is built in",
        positional=True,
        nargs=None,
        metavar="RUN|lite",
        section="model",
    )
    images: Path | None = option(
        "folder of the images that the map method is chosen on", None, metavar="DIR"
    )
    captions: Path | None = option(
        "reference captions of --images, as in captune tune", None, metavar="TRAIN"
    )
    caption_column: str | None = caption_column_option()
    boxes: Path | None = option(
        "boxes that people drew in the images of --captions: instances_*.json of COCO",
        None,
        metavar="INSTANCES.json",
    )
    val_captions: Path | None = option(
        "reference captions of the images for the final report", None, metavar="VAL"
    )
    val_images: Path | None = option(
        "folder of the images of --val-captions (default: --images)", None, metavar="DIR"
    )
    val_boxes: Path | None = option(
        "boxes that people drew in the images of --val-captions, as --boxes",
        None,
        metavar="INSTANCES.json",
    )
    hide: str = option(
        "what replaces a hidden patch token: zeros, or the mean token of the images of --images",
        "zeros",
        choices=("zeros", "mean"),
    )
    minutes: float = option(
        "time budget in minutes; slow methods are measured on fewer images", 30.0, metavar="N"
    )
    limit: int = option(
        "use a fixed random sample of N images per captions file (0: all)", 0, metavar="N"
    )
    quick: bool = option(
        "a first look: 16 images per captions file, without occlusion and without pixel methods",
        False,
    )
    seed: int = option("random seed of the sampling", 0, metavar="N")
    out: Path = option(
        "run folder to write, with leaderboard, figures, a page, and the map to use", metavar="RUN"
    )
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.check_dataset():
            self.images = self.images or Path(self.source())
            self.captions = self.captions or Path(self.source(caption=self.caption_column))
        for name in ("images", "captions"):
            if getattr(self, name) is None:
                raise UserError(f"--{name} is missing; give it, or --dataset")
        if self.minutes <= 0:
            raise UserError(f"minutes must be above 0, not {self.minutes}")
        require_at_least(self, limit=0, seed=0)
        if self.val_captions is None:
            refuse_given(self, ("val_images", "val_boxes"), "is for --val-captions; give both")
