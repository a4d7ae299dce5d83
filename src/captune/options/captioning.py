"""Options of what runs a captioner, and of caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.options.base import (
    ImageOptions,
    ModelOptions,
    RowOptions,
    option,
    refuse_given,
    require_at_least,
)
from captune.options.shards import ShardOptions

_MODEL = (
    "captioner: a run folder of captune tune, or of one of its methods; a folder of transformers,"
    " such as BLIP's or Qwen-VL's; hf:USER/NAME from the hub; lite is built in"
)
_MODELS = "RUN|FOLDER|hf:USER/NAME|lite"
EVIDENCE = ("none", "match", "neighbours", "both")
RERANK_HELP = (
    "choose each caption among the best of the beam search: match, by how well it fits the image;"
    " neighbours, by how like the captions of similar training images it is; or both"
)


@dataclass(kw_only=True)
class CaptionerOptions(ModelOptions):
    """What every command that runs a captioner takes."""

    model: str = option(_MODEL, "lite", metavar=_MODELS, section="model")
    prompt: str | None = option(
        "what a captioner of transformers is asked, or how its captions begin where it does not"
        " chat",
        None,
        metavar="TEXT",
        section="captioner",
    )
    quantise: str | None = option(
        "keep the weights of a captioner of transformers in 8 or 4 bits, as it is read (extra"
        " quantised)",
        None,
        choices=("8bit", "4bit"),
    )
    encoder: str | None = option(
        "image encoder of the captioner, if it has moved since training",
        None,
        metavar="SPEC",
    )
    decoder: str | None = option(
        "language model of the captioner, if it has moved since training",
        None,
        metavar="SPEC",
    )
    tags_model: str | None = option(
        "model that chooses the captioner's tags, if it has moved since training",
        None,
        metavar="SPEC",
    )
    beam: int = option(
        "width of the beam search (1: greedy)",
        5,
        metavar="N",
        section="search and choice of captions",
    )
    rerank: str = option(
        f"{RERANK_HELP} (auto: as the captioner was tuned; for most, none)",
        "auto",
        choices=("auto", *EVIDENCE),
    )
    candidates: int = option(
        "captions of an image to choose among (0: as the captioner was tuned, else 5)",
        0,
        metavar="N",
    )
    rerank_model: str | None = option(
        "image-text model of --rerank match (default: as the captioner was tuned, else lite)",
        None,
        metavar="SPEC",
    )
    datastore: Path | None = option(
        "images and captions of --rerank neighbours (default: those beside the captioner)",
        None,
        metavar="FILE",
    )
    max_tokens: int = option("maximum length of a caption, in tokens", 60, metavar="N")

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no caption can be written with."""
        super().__post_init__()
        require_at_least(self, beam=1, max_tokens=1)
        check_candidates(self)


def check_candidates(options: Any) -> None:
    """Raises UserError for more --candidates than a beam search is made for."""
    if not 0 <= options.candidates <= 64:
        raise UserError(f"candidates must be from 0 to 64, not {options.candidates}")


def flag_option() -> Any:
    """`--flag-below` of a command that writes captions."""
    return option(
        "flag captions that people would agree with at an estimated probability below P (0 to 1)",
        None,
        metavar="P",
    )


def check_flag(options: Any) -> None:
    """Raises UserError for a --flag-below that is no probability."""
    if options.flag_below is not None and not 0 < options.flag_below <= 1:
        raise UserError(f"flag-below must be above 0 and at most 1, not {options.flag_below}")


@dataclass(kw_only=True)
class CaptionOptions(ShardOptions, ImageOptions, CaptionerOptions, RowOptions):
    """`captune caption`. model: a text, or a list of two captioners or more, to compare."""

    model: Any = option(
        f"{_MODEL}; given several times, these are compared",
        "lite",
        repeat=True,
        metavar=_MODELS,
        section="model",
    )
    predictions: Path | None = option(
        'write the captions as JSON: {"file name without ending": "caption"}',
        None,
        metavar="FILE.json",
    )
    flag_below: float | None = flag_option()
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
    seed: int | None = option("of the words that --temperature draws", None, metavar="N")
    stop: list[str] = option(
        "a caption of a captioner of transformers is done where this text begins in it, and is cut"
        " there; may be given several times",
        [],
        repeat=True,
        metavar="TEXT",
    )
    cut_preamble: bool = option(
        'cut "a photo of", "an image of" or "a picture of" before a caption',
        False,
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
        "run folder to write, with the log-probability of each word and a page", None, metavar="RUN"
    )
    references: Path | None = option(
        "with several --model, reference captions to score them against, as in captune score",
        None,
        metavar="REFS",
        captions=True,
        section="several captioners",
    )
    metrics: str | None = option(
        "with several --model, the scores, as in captune score (default: bleu,rouge_l,cider with"
        " --references)",
        None,
        metavar="M,M",
    )

    def __post_init__(self) -> None:
        models = self.model if isinstance(self.model, list | tuple) else [self.model]
        models = [str(one) for one in models] or ["lite"]
        self.model = models if len(models) > 1 else models[0]
        super().__post_init__()
        self._check_several()
        if not 0 <= self.temperature <= 100:
            raise UserError(f"temperature must be from 0 to 100, not {self.temperature}")
        if self.seed is not None:
            require_at_least(self, seed=0)
        if not all(self.stop):
            raise UserError("--stop names a text, and this one is empty")
        if self.overwrite and not self.sidecar and self.out is None:
            raise UserError("--overwrite is for --sidecar and --out; give one of them too")
        if self.keep_candidates and self.out is None:
            raise UserError("--keep-candidates is for --out; give both, or neither")
        if not self.sidecar and (self.existing != "skip" or self.prefix or self.suffix):
            raise UserError("--existing, --prefix and --suffix are for --sidecar; give it too")
        if self.sidecar and self.dataset:
            raise UserError("--sidecar writes beside image files; of --dataset use --to FILE")
        if self.overwrite and self.sidecar and self.existing in ("append", "prepend"):
            raise UserError(f"--existing {self.existing} and --overwrite: give one of them")
        check_flag(self)

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
