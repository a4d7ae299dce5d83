"""Options of the jobs that run a captioner: caption, explain and faithful."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.options.base import (
    LITE,
    DatasetOptions,
    ImageOptions,
    ModelOptions,
    RowOptions,
    caption_column_option,
    option,
    overwrite_option,
    refuse_given,
    require_at_least,
    require_within,
)
from captune.options.shards import ShardOptions
from captune.registry import MAP_METHODS

_MODEL = (
    "captioner: a run folder of captune tune, or of one of its methods; a folder of transformers,"
    " such as BLIP's or Qwen-VL's; hf:USER/NAME from the hub; lite is built in"
)
_MODELS = "RUN|FOLDER|hf:USER/NAME|lite"
COLOURS = ("magma", "viridis", "jet")
MOST_CANDIDATES = (0, 64)
EVIDENCE = ("none", "match", "neighbours", "both")
RERANK_HELP = (
    "choose each caption among the best of the beam search: match, by how well it fits the image;"
    " neighbours, by how like the captions of similar training images it is; or both"
)


@dataclass(kw_only=True)
class CaptionerOptions(ModelOptions):
    """What every command that runs a captioner takes."""

    model: str = option(_MODEL, LITE, metavar=_MODELS, section="model")
    prompt: str | None = option(
        "what a captioner of transformers is asked, or how its captions begin where it does not"
        " chat",
        metavar="TEXT",
        section="captioner",
    )
    quantise: str | None = option(
        "keep the weights of a captioner of transformers in 8 or 4 bits, as it is read (extra"
        " quantised)",
        choices=("8bit", "4bit"),
    )
    encoder: str | None = option(
        "image encoder of the captioner, if it has moved since training", metavar="SPEC"
    )
    decoder: str | None = option(
        "language model of the captioner, if it has moved since training", metavar="SPEC"
    )
    tags_model: str | None = option(
        "model that chooses the captioner's tags, if it has moved since training", metavar="SPEC"
    )
    beam: int = option(
        "width of the beam search (1: greedy)", 5, section="search and choice of captions"
    )
    rerank: str = option(
        f"{RERANK_HELP} (auto: as the captioner was tuned; for most, none)",
        "auto",
        choices=("auto", *EVIDENCE),
    )
    candidates: int = option(
        "captions of an image to choose among (0: as the captioner was tuned, else 5)", 0
    )
    rerank_model: str | None = option(
        "image-text model of --rerank match (default: as the captioner was tuned, else lite)",
        metavar="SPEC",
    )
    datastore: Path | None = option(
        "images and captions of --rerank neighbours (default: those beside the captioner)"
    )
    max_tokens: int = option("maximum length of a caption, in tokens", 60)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no caption can be written with."""
        super().__post_init__()
        require_at_least(self, max_tokens=1)
        # of each image and beam memory holds what was read so far
        require_within(self, beam=(1, 100), candidates=MOST_CANDIDATES)

    @property
    def decided(self) -> tuple[Any, ...]:
        """What decides which models are loaded, and how."""
        moved = self.encoder, self.decoder, self.tags_model, self.rerank_model, self.datastore
        return self.model, self.device, self.dtype, self.quantise, *moved


def _flag_option() -> Any:
    """`--flag-below` of a command that writes captions."""
    return option(
        "flag captions that people would agree with at an estimated probability below P (0 to 1)",
        metavar="P",
    )


def _check_flag(options: Any) -> None:
    """Raises UserError for a --flag-below that is no probability."""
    if options.flag_below is not None and not 0 < options.flag_below <= 1:
        raise UserError(f"flag-below must be above 0 and at most 1, not {options.flag_below}")


@dataclass(kw_only=True)
class CaptionOptions(ShardOptions, ImageOptions, CaptionerOptions, RowOptions):
    """`captune caption`. model: a text, or a list of two captioners or more, to compare."""

    model: Any = option(
        f"{_MODEL}; given several times, these are compared",
        LITE,
        repeat=True,
        metavar=_MODELS,
        section="model",
    )
    predictions: Path | None = option(
        'write the captions as JSON: {"file name without ending": "caption"}', metavar="FILE.json"
    )
    flag_below: float | None = _flag_option()
    sidecar: bool = option(
        "write name.txt beside each image", False, section="text files beside the images"
    )
    existing: str = option(
        "what --sidecar does where a .txt exists: keep it and skip the image, overwrite it, or"
        " append or prepend the caption, after a comma",
        "skip",
        choices=("skip", "overwrite", "append", "prepend"),
    )
    prefix: str = option("text before each caption of --sidecar", "", metavar="TEXT")
    suffix: str = option("text after each caption of --sidecar", "", metavar="TEXT")
    temperature: float = option(
        "draw words instead of searching, of a captioner of transformers (0: search)",
        0.0,
        metavar="T",
        section="search and choice of captions",
    )
    seed: int | None = option("of the words that --temperature draws")
    stop: list[str] = option(
        "a caption of a captioner of transformers is done where this text begins in it, and is cut"
        " there; may be given several times",
        repeat=True,
        metavar="TEXT",
    )
    cut_preamble: bool = option(
        'cut "a photo of", "an image of" or "a picture of" before a caption', False
    )
    keep_candidates: bool = option(
        "with --out, keep what each caption was chosen among in its record", False, section=None
    )
    overwrite: bool = option(
        "with --sidecar, the same as --existing overwrite; with --out, replace the run of another"
        " command that is there",
        False,
    )
    out: Path | None = option(
        "run folder to write, with the log-probability of each word and a page", metavar="RUN"
    )
    references: Path | None = option(
        "with several --model, reference captions to score them against, as in captune score",
        metavar="REFS",
        captions=True,
        section="several captioners",
    )
    metrics: str | None = option(
        "with several --model, the scores, as in captune score (default: bleu,rouge_l,cider with"
        " --references)",
        metavar="M,M",
    )

    def __post_init__(self) -> None:
        models = self.model if isinstance(self.model, list | tuple) else [self.model]
        models = [str(one) for one in models] or [LITE]
        self.model = models if len(models) > 1 else models[0]
        if self.overwrite and not self.sidecar and self.out is None:
            raise UserError("--overwrite is for --sidecar and --out; give one of them too")
        super().__post_init__()
        self._check_several()
        require_within(self, temperature=(0, 100))
        require_at_least(self, seed=0)
        if not all(self.stop):
            raise UserError("--stop names a text, and this one is empty")
        if self.keep_candidates and self.out is None:
            raise UserError("--keep-candidates is for --out; give both, or neither")
        if not self.sidecar and (self.existing != "skip" or self.prefix or self.suffix):
            raise UserError("--existing, --prefix and --suffix are for --sidecar; give it too")
        if self.sidecar and self.dataset:
            raise UserError("--sidecar writes beside image files; of --dataset use --to FILE")
        if self.overwrite and self.sidecar and self.existing in ("append", "prepend"):
            raise UserError(f"--existing {self.existing} and --overwrite: give one of them")
        _check_flag(self)

    @property
    def kind(self) -> str:
        """The kind of run that it leaves."""
        return "caption" if isinstance(self.model, str) else "captioners"

    def _check_several(self) -> None:
        if isinstance(self.model, str):
            why = "is for several --model; captions of one are scored by captune score"
            refuse_given(self, ("references", "metrics"), why)
            return
        if self.is_sharded:
            raise UserError("shards are described by one captioner; give --model once")
        here = f"has a place for one caption of an image, and there are {len(self.model)} --model"
        refuse_given(self, ("predictions",), f"{here}; --to FILE.csv has those of all")
        refuse_given(self, ("sidecar",), f"{here}; write those of the one that you choose")


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
        "words of the caption to explain, comma-separated (default: all)", metavar="W,W"
    )
    caption: str | None = option(
        "caption to explain (default: the caption that the captioner generates)", metavar="TEXT"
    )
    against: str | None = option(
        "explain why the model prefers the words of --words to this word", metavar="WORD"
    )
    labels: str | None = option(
        "explain a zero-shot classifier with these labels instead of a captioner: --model is a"
        " model spec, --words are the labels to explain (default: the most probable one)",
        metavar="LABELS",
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
        metavar="N",
    )
    flag_below: float | None = _flag_option()
    colours: str = option(
        "colour map of the figures: magma and viridis are perceptually uniform, jet is the"
        " assignment's",
        "magma",
        choices=COLOURS,
    )
    out: Path | None = option(
        "run folder to write, with figures, a page, and the maps as .npz in RUN/maps", metavar="RUN"
    )
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        super().__post_init__()
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
        _check_flag(self)
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
        ...,
        nargs=None,
        metavar="RUN|lite",
        section="model",
    )
    images: Path | None = option(
        "folder of the images that the map method is chosen on", metavar="DIR"
    )
    captions: Path | None = option(
        "reference captions of --images, as in captune tune", metavar="TRAIN"
    )
    caption_column: str | None = caption_column_option()
    boxes: Path | None = option(
        "boxes that people drew in the images of --captions: instances_*.json of COCO",
        metavar="INSTANCES.json",
    )
    val_captions: Path | None = option(
        "reference captions of the images for the final report", metavar="VAL"
    )
    val_images: Path | None = option(
        "folder of the images of --val-captions (default: --images)", metavar="DIR"
    )
    val_boxes: Path | None = option(
        "boxes that people drew in the images of --val-captions, as --boxes",
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
    limit: int = option("use a fixed random sample of N images per captions file (0: all)", 0)
    quick: bool = option(
        "a first look: 16 images per captions file, without occlusion and without pixel methods",
        False,
    )
    seed: int = option("random seed of the sampling", 0)
    out: Path = option(
        "run folder to write, with leaderboard, figures, a page, and the map to use",
        ...,
        metavar="RUN",
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
