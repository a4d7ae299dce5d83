"""Options of the jobs that train or run a captioner: tune and caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    ImageOptions,
    ModelOptions,
    check_overwrite,
    option,
    overwrite_option,
    require_at_least,
)


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


@dataclass(kw_only=True)
class TuneOptions:
    """`captune tune`."""

    images: Path | None = option(
        "folder of the images that the training captions are about",
        None,
        positional=True,
        nargs="?",
        metavar="IMAGES",
    )
    captions: Path | None = option(
        "training captions: COCO annotations, CSV, JSONL, a folder with name.txt beside name.jpg",
        None,
        metavar="TRAIN",
    )
    val: Path | None = option("validation captions, as --captions", None, metavar="VAL")
    val_images: Path | None = option(
        "folder of the validation images (default: IMAGES)", None, metavar="DIR"
    )
    method: str = option(
        "tuning methods, comma-separated, trained one after the other: adapter, prefix, lora, ...",
        "lora",
        metavar="M,M",
    )
    bridge: str = option("how the decoder comes to see", "cross-attention", metavar="NAME")
    encoder: str = option("frozen image encoder, a model spec", "lite", metavar="SPEC")
    decoder: str = option(
        "frozen language model: lite, hf:REPO or a local folder", "lite", metavar="SPEC"
    )
    decoder_blocks: int = option(
        "keep the first N blocks of the language model only: faster, and it learns its words anew"
        " (0: all)",
        0,
        metavar="N",
    )
    vocabulary: str = option(
        "tokens that it can write: all, or those of the training captions, which is faster",
        "all",
        choices=("all", "captions"),
    )
    set: list[str] = option(
        "a setting of a method or of the bridge, as in lora.rank=8, bridge.width=256; may repeat",
        [],
        repeat=True,
        metavar="PART.SETTING=VALUE",
    )
    known_words: str | None = option(
        "labels, as captune classify --labels: --bridge bidirectional reads the likeliest of them"
        " beside each image",
        None,
        metavar="LABELS",
    )
    known_words_top: int = option("how many of the labels it reads", 5, metavar="N")
    known_words_model: str | None = option(
        "model that chooses them (default: the encoder if it reads text, else lite)",
        None,
        metavar="SPEC",
    )
    max_trainable: str = option(
        "refuse to train more parameters than this (35M, 500k, a number)", "35M", metavar="N"
    )
    epochs: int = option("passes over the training images", 10, metavar="N")
    augment: str = option(
        "mirror: see training images mirrored in half of the epochs, which doubles what is encoded"
        " and cached; not those with a caption that names left or right",
        "none",
        choices=("none", "mirror"),
    )
    captions_per_image: str = option(
        "captions of an image that an epoch learns: all, or N sampled anew each epoch",
        "all",
        metavar="all|N",
    )
    limit: int = option("train on a fixed sample of N images (0: all)", 0, metavar="N")
    batch: int = option("captions a step, about", 32, metavar="N")
    accumulate: int = option("steps whose gradients are added up for one update", 1, metavar="N")
    lr: float = option(
        "learning rate after the warm-up (0: the method's own, 1e-3 of all that come with captune)",
        0.0,
        metavar="RATE",
    )
    weight_decay: float = option("AdamW's weight decay", 1e-2, metavar="SHARE")
    warmup: float = option("share of the training in which the rate rises", 0.05, metavar="SHARE")
    label_smoothing: float = option("label smoothing of the loss", 0.0, metavar="SHARE")
    objective: str = option(
        "what is learnt: captions, the next word of those that people wrote; or cider, the score of"
        " captions that the model samples (self-critical; for a model that writes: --start RUN)",
        "captions",
        choices=("captions", "cider"),
    )
    samples: int = option("captions sampled of an image, for --objective cider", 5, metavar="N")
    start: Path | None = option(
        "begin with the weights of this tuned captioner, of the same method and bridge",
        None,
        metavar="RUN",
    )
    select: str = option(
        "the validation score that picks the best epoch",
        "cider",
        choices=("cider", "clipscore", "loss"),
    )
    patience: int = option(
        "stop after N epochs without a better score (0: train them all)", 0, metavar="N"
    )
    val_sample: int = option(
        "validation images that are captioned after each epoch (0: all); the final scores are of"
        " all",
        200,
        metavar="N",
    )
    max_tokens: int = option("longest caption, in tokens, learnt and written", 60, metavar="N")
    score_model: str = option("model of CLIPScore, or none", "lite", metavar="SPEC")
    save_steps: int = option(
        "updates between two points that a killed run goes on from (0: ten an epoch)",
        0,
        metavar="N",
    )
    precision: str = option(
        "of the forward pass (auto: bfloat16 or float16 on a GPU, bfloat16 on a CPU with AMX, else"
        " float32)",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("where to train", "auto", choices=("auto", "cpu", "cuda", "mps"))
    workers: int = option(
        "threads that decode ahead of the image encoder (0: chosen for you)", 0, metavar="N"
    )
    no_cache: bool = option("neither read nor write the feature cache", False)
    seed: int = option("seed of everything drawn", 0, metavar="N")
    config: Path | None = option(
        "read options from the config.yaml of an earlier tune; what is typed beside it counts more",
        None,
        metavar="FILE",
    )
    out: Path | None = option("run folder to write", None, metavar="RUN")
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with."""
        check_overwrite(self)
        require_at_least(self, epochs=1, batch=1, accumulate=1, max_tokens=2, limit=0)
        require_at_least(self, samples=2, decoder_blocks=0, known_words_top=1)
        require_at_least(self, patience=0, val_sample=0, save_steps=0, workers=0, seed=0)
        if not 0 <= self.lr < 1:
            raise UserError(f"lr {self.lr}: must be below 1, as 1e-3, or 0 for the method's own")
        for name in ("weight_decay", "warmup", "label_smoothing"):
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

    @property
    def methods(self) -> list[str]:
        """The methods asked for, each once."""
        return list(dict.fromkeys(word.strip() for word in self.method.split(",") if word.strip()))

    @property
    def per_image(self) -> int:
        """Captions of an image an epoch; 0 for all."""
        return 0 if self.captions_per_image == "all" else int(self.captions_per_image)
