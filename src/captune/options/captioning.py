"""Options of the jobs that train or run a captioner: tune and caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.options.base import (
    DatasetOptions,
    ImageOptions,
    ModelOptions,
    RowOptions,
    caption_column_option,
    check_overwrite,
    option,
    overwrite_option,
    require_at_least,
)
from captune.options.shards import ShardOptions
from captune.registry import BRIDGES, TUNING_METHODS
from captune_metrics.text import printable

RERANK = ("none", "match", "neighbours", "both")
_RERANK = (
    "choose each caption among the best of the beam search: match, by how well it fits the image;"
    " neighbours, by how like the captions of similar training images it is; or both"
)
TRACKERS = ("trackio", "tensorboard", "wandb")


@dataclass(kw_only=True)
class CaptionerOptions(ModelOptions):
    """What every command that runs a captioner takes."""

    model: str = option(
        "captioner: a run folder of captune tune, or of one of its methods; a folder of"
        " transformers, such as BLIP's or Qwen-VL's; hf:USER/NAME from the hub; lite is built in",
        "lite",
        metavar="RUN|FOLDER|hf:USER/NAME|lite",
        section="model",
    )
    prompt: str | None = option(
        "what a captioner of transformers is asked, or how its captions begin where it does not"
        " chat",
        None,
        metavar="TEXT",
        section="captioner",
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
        f"{_RERANK} (auto: as the captioner was tuned; for most, none)",
        "auto",
        choices=("auto", *RERANK),
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
        raise UserError(f"candidates {options.candidates}: must be from 0 to 64")


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
        raise UserError(f"flag-below {options.flag_below}: must be above 0 and at most 1, as 0.5")


@dataclass(kw_only=True)
class CaptionOptions(ShardOptions, ImageOptions, CaptionerOptions, RowOptions):
    """`captune caption`."""

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

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        if not 0 <= self.temperature <= 100:
            raise UserError(f"temperature {self.temperature}: must be from 0 to 100")
        if self.seed is not None:
            require_at_least(self, seed=0)
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


@dataclass(kw_only=True)
class TuneOptions(DatasetOptions):
    """`captune tune`."""

    images: Path | None = option(
        "folder of the training images",
        None,
        positional=True,
        nargs="?",
        metavar="IMAGES",
    )
    captions: Path | None = option(
        "training captions: COCO annotations, CSV, JSONL, or a folder with name.txt beside"
        " name.jpg",
        None,
        metavar="TRAIN",
        section="data",
    )
    extra_text: Path | None = option(
        "captions without images to learn words from, as --captions; an image-text model says what"
        " such an image would look like to the encoder",
        None,
        metavar="FILE",
    )
    extra_model: str = option("image-text model of --extra-text", "lite", metavar="SPEC")
    extra_noise: float = option(
        "noise on what --extra-text would look like, in deviations of images", 0.5, metavar="X"
    )
    val_captions: Path | None = option("validation captions, as --captions", None, metavar="VAL")
    val_images: Path | None = option(
        "folder of the validation images (default: IMAGES)", None, metavar="DIR"
    )
    caption_column: str | None = caption_column_option()
    val_split: str | None = option(
        "split of --dataset that holds the validation images (default: validation)",
        None,
        metavar="NAME",
    )
    method: str = option(
        "tuning methods, comma-separated, trained one after the other",
        "lora",
        metavar="M,M",
        names=TUNING_METHODS.names,
        section="what is trained",
    )
    bridge: str = option(
        "how image features are fed into the language model",
        "cross-attention",
        metavar="NAME",
        names=BRIDGES.names,
    )
    encoder: str = option("frozen image encoder, a model spec", "lite", metavar="SPEC")
    decoder: str = option(
        "frozen language model: lite, hf:REPO or a local folder", "lite", metavar="SPEC"
    )
    decoder_blocks: int = option(
        "keep only the first N blocks of the language model, which is faster but forgets what it"
        " had learnt (0: all)",
        0,
        metavar="N",
    )
    vocabulary: str = option(
        "tokens that the captioner can generate: all, or only those of the training captions, which"
        " is faster",
        "all",
        choices=("all", "captions"),
    )
    set: list[str] = option(
        "setting of a method or of the bridge, such as lora.rank=8 or bridge.width=256; may be"
        " given several times",
        [],
        repeat=True,
        metavar="PART.SETTING=VALUE",
    )
    tags: str | None = option(
        "labels to choose tags from, as in captune classify --labels, for --bridge bidirectional or"
        " --prompt tags",
        None,
        metavar="LABELS",
    )
    prompt: str = option(
        "a text of each image before its caption, which the language model may copy from: tags,"
        " those of --tags",
        "none",
        choices=("none", "tags"),
    )
    tags_top: int = option("tags per image", 5, metavar="N")
    tags_model: str | None = option(
        "model that chooses the tags (default: the encoder if it reads text, else lite)",
        None,
        metavar="SPEC",
    )
    max_trainable: str = option(
        "maximum number of trained parameters, such as 35M or 500k; more is an error",
        "35M",
        metavar="N",
    )
    epochs: int = option("passes over the training images", 10, metavar="N", section="training")
    augment: str = option(
        "mirror: show training images mirrored in half of the epochs, which doubles encoding time"
        " and cache; images whose captions say left or right are never mirrored",
        "none",
        choices=("none", "mirror"),
    )
    captions_per_image: str = option(
        "captions per image and epoch: all, or N sampled anew each epoch",
        "all",
        metavar="all|N",
    )
    limit: int = option("train on a fixed random sample of N images (0: all)", 0, metavar="N")
    curve: str | None = option(
        "how many images do I need? Train one method on so many of the images each, the smaller in"
        " the larger set and all for the same number of updates; such as 100,300,1000",
        None,
        metavar="N,N",
    )
    batch_size: int = option("captions per training step, approximately", 32, metavar="N")
    accumulate: int = option("accumulate gradients over N steps per update", 1, metavar="N")
    lr: float = option(
        "learning rate after the warm-up (0: the default of the method, 1e-3 for all built-in"
        " ones)",
        0.0,
        metavar="RATE",
    )
    weight_decay: float = option("weight decay of AdamW", 1e-2, metavar="X")
    warmup: float = option(
        "fraction of the training steps in which the learning rate rises", 0.05, metavar="X"
    )
    label_smoothing: float = option("label smoothing of the loss", 0.0, metavar="X")
    objective: str = option(
        "training objective: captions, the cross-entropy of the captions; or cider, the CIDEr-D of"
        " captions that the model samples (self-critical; needs a trained model: --start RUN)",
        "captions",
        choices=("captions", "cider"),
        section="training by reward",
    )
    samples: int = option("captions sampled per image, for --objective cider", 5, metavar="N")
    kl: float = option(
        "with --objective cider, add X times the divergence per token from the model at the start"
        " to the loss, so that its words are not forgotten; takes a second pass (0: none)",
        0.0,
        metavar="X",
    )
    reward_model: str | None = option(
        "with --objective cider, reward captions that fit their image by this image-text model too",
        None,
        metavar="SPEC",
    )
    reward_share: float = option("share of --reward-model in the reward", 0.3, metavar="X")
    start: Path | None = option(
        "start from the weights of this captioner, which must have the same method and bridge: a"
        " run folder, or hf:USER/NAME",
        None,
        metavar="RUN",
        section="training",
    )
    select: str = option(
        "validation score that selects the best epoch",
        "cider",
        choices=("cider", "clipscore", "loss"),
        section="validation and scores",
    )
    patience: int = option(
        "stop after N epochs without a better score (0: train all epochs)", 0, metavar="N"
    )
    val_sample: int = option(
        "validation images that are captioned after each epoch (0: all); the final scores are on"
        " all of them",
        200,
        metavar="N",
    )
    max_tokens: int = option(
        "maximum length of a caption, in tokens, in training and generation", 60, metavar="N"
    )
    rerank: str = option(
        f"{_RERANK}; the weights are fitted on the validation images and kept with the captioner",
        "none",
        choices=RERANK,
    )
    candidates: int = option(
        "captions of an image to choose among, with --rerank (0: 5)", 0, metavar="N"
    )
    rerank_model: str = option("image-text model of --rerank match", "lite", metavar="SPEC")
    score_model: str = option("model that computes CLIPScore, or none", "lite", metavar="SPEC")
    save_steps: int = option(
        "updates between two checkpoints, from which a killed run resumes (0: ten checkpoints per"
        " epoch)",
        0,
        metavar="N",
        section="machine",
    )
    dtype: str = option(
        "precision of the forward pass (auto: bfloat16 or float16 on a GPU, bfloat16 on a CPU with"
        " AMX, else float32)",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("device to train on", "auto", choices=("auto", "cpu", "cuda", "mps"))
    workers: int = option(
        "threads that decode images ahead of the encoder (0: chosen automatically)", 0, metavar="N"
    )
    no_cache: bool = option("do not use the feature cache", False)
    seed: int = option("random seed", 0, metavar="N", section=None)
    report_to: str = option(
        "also send losses and scores of the training to trackio, tensorboard or wandb, as they"
        " come; comma-separated; each is a library to install (pip install trackio)",
        "none",
        metavar="NAME,NAME",
    )
    config: Path | None = option(
        "read options from the config.yaml of an earlier tune; options on the command line override"
        " them",
        None,
        metavar="FILE",
    )
    out: Path | None = option(
        "run folder to write, with a page of the results", None, metavar="RUN"
    )
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with."""
        check_overwrite(self)
        self._fill_from_dataset()
        self._check_curve()
        for method in self.methods:
            TUNING_METHODS.require(method)
        BRIDGES.require(self.bridge)
        require_at_least(self, epochs=1, batch_size=1, accumulate=1, max_tokens=2, limit=0)
        require_at_least(self, samples=2, decoder_blocks=0, tags_top=1)
        require_at_least(self, patience=0, val_sample=0, save_steps=0, workers=0, seed=0)
        check_candidates(self)
        if not 0 <= self.lr < 1:
            raise UserError(
                f"lr {self.lr}: must be below 1, such as 1e-3, or 0 for the default of the method"
            )
        if not 0 <= self.kl <= 100:
            raise UserError(f"kl {self.kl}: must be from 0 to 100, such as 0.04")
        if not 0 <= self.extra_noise <= 100:
            raise UserError(f"extra-noise {self.extra_noise}: must be from 0 to 100, such as 0.5")
        if self.extra_text is not None and (self.objective != "captions" or self.sizes):
            raise UserError("--extra-text is for --objective captions, and not for --curve")
        if self.objective != "cider" and (self.kl or self.reward_model):
            asked = "kl" if self.kl else "reward-model"
            raise UserError(f"--{asked} is for --objective cider; give both, or neither")
        if self.reward_model is not None and self.reward_model == self.score_model:
            raise UserError(
                f"--reward-model {printable(self.reward_model)} is what --score-model judges by,"
                " whose score would only say that it was learnt; take another one for one of them"
            )
        for name in ("weight_decay", "warmup", "label_smoothing", "reward_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name.replace('_', '-')} {getattr(self, name)}: must be from 0 to below 1"
                )
        if self.captions_per_image != "all" and not (
            self.captions_per_image.isdecimal() and int(self.captions_per_image) > 0
        ):
            raise UserError(
                f"captions-per-image {self.captions_per_image}: must be all, or 1 or more"
            )
        for name in self.trackers:
            if name not in TRACKERS:
                raise UserError(f"report-to {name}: must be none, or some of {', '.join(TRACKERS)}")

    def _fill_from_dataset(self) -> None:
        if not self.check_dataset():
            return
        captions = self.caption_column
        self.images = self.images or Path(self.source())
        self.captions = self.captions or Path(self.source(caption=captions))
        if self.val_captions is None:
            split = self.val_split or "validation"
            self.val_captions = Path(self.source(split, caption=captions))
            self.val_images = self.val_images or Path(self.source(split))

    def _check_curve(self) -> None:
        if not self.curve:
            return
        words = [word.strip() for word in self.curve.split(",")]
        are_numbers = all(word.isdecimal() and len(word) < 10 for word in words)
        if not are_numbers or len(self.sizes) < 2 or self.sizes[0] < 2:
            raise UserError(
                f"--curve {printable(self.curve)}: give two numbers of images or more, such as"
                " 100,300,1000"
            )
        if len(self.methods) != 1 or self.objective != "captions":
            raise UserError("--curve takes one --method, and --objective captions")
        if self.limit not in (0, self.sizes[-1]):
            raise UserError("give --limit or --curve, whose largest number is the limit")
        self.limit = self.sizes[-1]

    @property
    def sizes(self) -> list[int]:
        """The numbers of images of --curve, ascending; none where no curve is asked for."""
        return sorted({int(word) for word in (self.curve or "").split(",") if word.strip()})

    @property
    def methods(self) -> list[str]:
        """The methods asked for, each once."""
        return list(dict.fromkeys(word.strip() for word in self.method.split(",") if word.strip()))

    @property
    def trackers(self) -> list[str]:
        """Where the training is reported to, each once; none for "none"."""
        named = (word.strip() for word in self.report_to.split(","))
        return list(dict.fromkeys(word for word in named if word not in ("", "none")))

    @property
    def per_image(self) -> int:
        """Captions of an image an epoch; 0 for all."""
        return 0 if self.captions_per_image == "all" else int(self.captions_per_image)
