"""Options of tune."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.options.base import (
    LITE,
    DatasetOptions,
    caption_column_option,
    check_overwrite,
    option,
    overwrite_option,
    require_at_least,
    require_within,
)
from captune.options.captioning import EVIDENCE, MOST_CANDIDATES, RERANK_HELP
from captune.registry import BRIDGES, TUNING_METHODS
from captune_metrics.display import printable

PROMPTS = ("none", "tags", "captions")  # of a captioner of captune's
TRACKERS = ("trackio", "tensorboard", "wandb")
# options that say more of another one, or of one choice of it, and nothing without it
_MORE_OF = {
    "tags": ("tags_top", "tags_least", "tags_model"),
    "extra_text": ("extra_model", "extra_noise"),
    "reward_model": ("reward_share",),
    "objective cider": ("samples", "kl", "reward_model"),
    "prompt captions": ("prompt_captions",),
    "rerank": ("candidates", "rerank_model"),
}


@dataclass(kw_only=True)
class TuneOptions(DatasetOptions):
    """`captune tune`."""

    images: Path | None = option("folder of the training images", nargs="?", metavar="IMAGES")
    captions: Path | None = option(
        "training captions: COCO annotations, CSV, JSONL, or a folder with name.txt beside"
        " name.jpg",
        metavar="TRAIN",
        section="data",
    )
    extra_text: Path | None = option(
        "captions without images to learn words from, as --captions; an image-text model says what"
        " such an image would look like to the encoder"
    )
    extra_model: str = option("image-text model of --extra-text", LITE, metavar="SPEC")
    extra_noise: float = option(
        "noise on what --extra-text would look like, in deviations of images", 0.5
    )
    val_captions: Path | None = option(
        "validation captions, as --captions (default: one image in five of TRAIN is held out)",
        metavar="VAL",
    )
    val_images: Path | None = option(
        "folder of the validation images (default: IMAGES)", metavar="DIR"
    )
    caption_column: str | None = caption_column_option()
    val_split: str | None = option(
        "split of --dataset that holds the validation images (default: validation)", metavar="NAME"
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
    encoder: str = option("frozen image encoder, a model spec", LITE, metavar="SPEC")
    decoder: str = option(
        "frozen language model: lite, hf:REPO or a local folder", LITE, metavar="SPEC"
    )
    decoder_blocks: int = option(
        "keep only the first N blocks of the language model, which is faster but forgets what it"
        " had learnt (0: all)",
        0,
    )
    vocabulary: str = option(
        "tokens that the captioner can generate: all, or only those of the training captions and"
        " of --start, which is faster",
        "all",
        choices=("all", "captions"),
    )
    set: list[str] = option(
        "setting of a method or of the bridge, such as lora.rank=8 or bridge.width=256; may be"
        " given several times",
        repeat=True,
        metavar="PART.SETTING=VALUE",
    )
    tags: str | None = option(
        "labels to choose tags from, as in captune classify --labels, for --bridge bidirectional or"
        " --prompt tags",
        metavar="LABELS",
    )
    prompt: str = option(
        "a text of each image before its caption, which the language model may copy from: tags,"
        " those of --tags; or captions, those of similar training images; with --start of a"
        " captioner of transformers, what it is asked",
        "none",
        metavar="none|tags|captions|TEXT",
    )
    prompt_captions: int = option("captions of similar images, with --prompt captions", 4)
    tags_top: int = option("largest number of tags per image", 5)
    tags_least: float = option("lowest probability of a tag", 0.1, metavar="P")
    tags_model: str | None = option(
        "model that chooses the tags (default: the encoder if it reads text, else lite)",
        metavar="SPEC",
    )
    max_trainable: str = option(
        "maximum number of trained parameters, such as 35M or 500k; more is an error",
        "35M",
        metavar="N",
    )
    epochs: int = option("passes over the training images", 10, section="training")
    augment: str = option(
        "mirror: show training images mirrored in half of the epochs, which doubles encoding time"
        " and cache; images whose captions say left or right are never mirrored",
        "none",
        choices=("none", "mirror"),
    )
    captions_per_image: str = option(
        "captions per image and epoch: all, or N sampled anew each epoch", "all", metavar="all|N"
    )
    limit: int = option("train on a fixed random sample of N images (0: all)", 0)
    curve: str | None = option(
        "how many images do I need? Train one method on so many of the images each, the smaller in"
        " the larger set and all for the same number of updates; such as 100,300,1000",
        metavar="N,N",
    )
    batch_size: int = option("captions per training step, approximately", 32)
    accumulate: int = option("accumulate gradients over N steps per update", 1)
    lr: float = option(
        "learning rate after the warm-up (0: the default of the method, 1e-3 for all built-in"
        " ones)",
        0.0,
        metavar="RATE",
    )
    weight_decay: float = option("weight decay of AdamW", 1e-2)
    warmup: float = option("fraction of the training steps in which the learning rate rises", 0.05)
    label_smoothing: float = option("label smoothing of the loss", 0.0)
    objective: str = option(
        "training objective: captions, the cross-entropy of the captions; or cider, the CIDEr-D of"
        " captions that the model samples (self-critical; needs a trained model: --start RUN)",
        "captions",
        choices=("captions", "cider"),
        section="training by reward",
    )
    samples: int = option("captions sampled per image, for --objective cider", 5)
    kl: float = option(
        "with --objective cider, add X times the divergence per token from the model at the start"
        " to the loss, so that its words are not forgotten; takes a second pass (0: none)",
        0.0,
    )
    reward_model: str | None = option(
        "with --objective cider, reward captions that fit their image by this image-text model too",
        metavar="SPEC",
    )
    reward_share: float = option("share of --reward-model in the reward", 0.3)
    start: Path | None = option(
        "start from the weights of this captioner, which must have the same method and bridge: a"
        " run folder, or hf:USER/NAME; or tune a captioner of transformers, such as BLIP or"
        " Qwen-VL, by its folder or hf:USER/NAME",
        metavar="RUN|FOLDER|hf:USER/NAME",
        section="training",
    )
    train: str | None = option(
        "with --start of a captioner of transformers, also train the layers between its vision and"
        " its language model",
        choices=("projector",),
    )
    select: str = option(
        "validation score that selects the best epoch",
        "cider",
        choices=("cider", "clipscore", "loss"),
        section="validation and scores",
    )
    patience: int = option("stop after N epochs without a better score (0: train all epochs)", 0)
    stop_when_worse: bool = option(
        "stop once the captions of the epochs since the best one are together worse than its, by a"
        " paired test over the validation images that are captioned (95 %)",
        False,
    )
    val_sample: int = option(
        "validation images that are captioned after each epoch (0: all); the final scores are on"
        " all of them",
        200,
    )
    max_tokens: int = option(
        "maximum length of a caption, in tokens, in training and generation", 60
    )
    rerank: str = option(
        f"{RERANK_HELP}; the weights are fitted on the validation images and kept with the"
        " captioner",
        "none",
        choices=EVIDENCE,
    )
    candidates: int = option("captions of an image to choose among, with --rerank (0: 5)", 0)
    rerank_model: str = option("image-text model of --rerank match", LITE, metavar="SPEC")
    score_model: str = option("model that computes CLIPScore, or none", LITE, metavar="SPEC")
    save_steps: int = option(
        "updates between two checkpoints, from which a killed run resumes (0: ten checkpoints per"
        " epoch)",
        0,
        section="machine",
    )
    dtype: str = option(
        "precision of the forward pass (auto: bfloat16 or float16 on a GPU, bfloat16 on a CPU with"
        " AMX or AVX512_BF16, else float32)",
        "auto",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    device: str = option("device to train on", "auto", choices=("auto", "cpu", "cuda", "mps"))
    workers: int = option(
        "threads that decode images ahead of the encoder (0: chosen automatically)", 0
    )
    no_cache: bool = option("do not use the feature cache", False)
    seed: int = option("random seed", 0, section=None)
    report_to: str = option(
        "also send losses and scores of the training to trackio, tensorboard or wandb, as they"
        " come; comma-separated; each is a library to install (pip install trackio)",
        "none",
        metavar="NAME,NAME",
    )
    config: Path | None = option(
        "read options from the config.yaml of an earlier tune; options on the command line override"
        " them"
    )
    out: Path | None = option("run folder to write, with a page of the results", metavar="RUN")
    overwrite: bool = overwrite_option()

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with, and for contradictions."""
        check_overwrite(self)
        self._fill_from_dataset()
        self._check_curve()
        for method in self.methods:
            TUNING_METHODS.require(method)
        BRIDGES.require(self.bridge)
        require_at_least(self, epochs=1, batch_size=1, accumulate=1, max_tokens=2, limit=0)
        require_at_least(self, samples=2, decoder_blocks=0, tags_top=1)
        require_at_least(self, patience=0, val_sample=0, save_steps=0, workers=0, seed=0)
        require_within(self, candidates=MOST_CANDIDATES)
        require_within(self, ", such as 0.04", kl=(0, 100))
        require_within(self, ", such as 0.1", tags_least=(0, 1))
        if not 0 <= self.lr < 1:
            raise UserError(
                "lr must be between 0 and 1, such as 1e-3, or 0 for the default of the method,"
                f" not {self.lr}"
            )
        require_within(self, ", such as 0.5", extra_noise=(0, 100))
        require_within(self, prompt_captions=(1, 64))
        for name in ("weight_decay", "warmup", "label_smoothing", "reward_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"{name.replace('_', '-')} must be from 0 to below 1, not {getattr(self, name)}"
                )
        if self.captions_per_image != "all" and not (
            self.captions_per_image.isdecimal() and int(self.captions_per_image) > 0
        ):
            raise UserError(
                f"captions-per-image must be all, or 1 or more, not {self.captions_per_image}"
            )
        for name in self.trackers:
            if name not in TRACKERS:
                raise UserError(
                    f"report-to must be none, or some of {', '.join(TRACKERS)}, not {name}"
                )
        self._check_together()

    def _check_together(self) -> None:
        usual = {field.name: field.default for field in fields(self)}
        for name, main in unread_of(vars(self)).items():
            if getattr(self, name) != usual[name]:
                asked, of = (one.replace("_", "-") for one in (name, main))
                raise UserError(f"--{asked} is for --{of}; give both, or neither")
        if self.start is None and (self.train or self.prompt not in PROMPTS):
            asked = "train projector" if self.train else f"prompt {printable(self.prompt)}"
            raise UserError(f"--{asked} is for --start of a captioner of transformers")
        if self.extra_text is not None and (self.reward_model or self.sizes):
            raise UserError("--extra-text does not go with --curve, nor with --reward-model")
        if self.similar_captions and self.sizes:
            raise UserError("--prompt captions reads captions of all images; leave out --curve")
        if self.stop_when_worse and self.select == "loss":
            raise UserError("--stop-when-worse compares captions: take --select cider or clipscore")
        if self.reward_model is not None and self.reward_model == self.score_model:
            raise UserError(
                f"--reward-model {printable(self.reward_model)} is what --score-model judges by,"
                " whose score would only say that it was learnt; take another one for one of them"
            )

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
    def similar_captions(self) -> int:
        """How many captions of similar images stand before each; 0 for none."""
        return self.prompt_captions if self.prompt == "captions" else 0

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


def unread_of(options: Mapping[str, Any]) -> dict[str, str]:
    """The options, by field, that these leave without a meaning -> the one each is for."""
    found: dict[str, str] = {}
    for main, others in _MORE_OF.items():
        name, _, choice = main.partition(" ")
        given = options.get(name)
        if given != choice if choice else given in (None, "none"):
            found |= dict.fromkeys(others, main)
    return found
