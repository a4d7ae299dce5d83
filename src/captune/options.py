"""One dataclass a job: the Python API, the command line and recipes read the same definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captune.errors import UserError


def option(help: str, default: Any = ..., **extra: Any) -> Any:
    """A dataclass field that knows its `--help` text.

    extra: `metavar`, `choices`, `repeat` (the flag may be given several times), `positional` (with
    `nargs` as argparse has it: "+" one or more, the default; "?" one or none; None exactly one).
    """
    metadata = {"help": help, **extra}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class ModelOptions:
    """What every command that runs a model takes."""

    model: str = option(
        "model spec: lite, open_clip:NAME/TAG, hf:REPO_OR_FOLDER, timm:NAME or a local folder",
        "lite",
        metavar="SPEC",
    )
    device: str = option("where the model runs", "auto", choices=("auto", "cpu", "cuda", "mps"))
    dtype: str = option(
        "precision of the model (auto: float32 on a CPU, float16 on a GPU)",
        "auto",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    batch_size: int = option("images a forward pass", 32, metavar="N")
    workers: int = option(
        "threads that decode ahead of the model (0: chosen for you)", 0, metavar="N"
    )
    no_cache: bool = option("neither read nor write the feature cache", False)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that no pass can be made with."""
        check_pass(self.batch_size, self.workers)


def check_pass(batch_size: int, workers: int) -> None:
    """Raises UserError for a batch size below 1 or less than no workers."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: must be 1 or more")
    if workers < 0:
        raise UserError(f"workers {workers}: must be 0 (chosen for you) or more")


@dataclass(kw_only=True)
class PhotoOptions:
    """Which photos a command looks at."""

    photos: list[str] = option(
        "folders (recursive), files, globs, or - for a list on standard input",
        positional=True,
        metavar="PHOTOS",
    )


@dataclass(kw_only=True)
class ClassifyOptions(PhotoOptions, ModelOptions):
    """`captune classify`."""

    labels: str = option(
        'cat,dog | names.txt | {"id": "name"}.json | {"name": ["prompt", ...]}.json', metavar="L"
    )
    prompt: list[str] = option(
        "template with {} or {object}, or a named set (openai-80, openai-7, hw3); may repeat",
        [],
        repeat=True,
        metavar="T",
    )
    ensemble: str | None = option(
        "mean: one classifier from all prompts (normalise, average, normalise)",
        None,
        choices=("mean",),
    )
    multi_label: bool = option("an independent yes or no for each label", False)
    truth: str | None = option(
        "a CSV of filename,label; from-name for <class id>_<n>.ext; from-folder", None, metavar="T"
    )
    out: Path | None = option("run folder to write", None, metavar="RUN")
    csv: Path | None = option(
        "write filename,label (class ids), one row an image", None, metavar="FILE"
    )
    all_probabilities: bool = option("keep every probability, as float16 .npy in the run", False)
    top5: list[str] = option(
        "top-5 figures in the run: a number of sampled images, or a file name; may repeat",
        [],
        repeat=True,
        metavar="N|NAME",
    )
    seed: int = option("seed of the sampling", 0, metavar="N")


@dataclass(kw_only=True)
class PromptsOptions(PhotoOptions, ModelOptions):
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
    csv: Path | None = option("write the table, one row a prompt", None, metavar="FILE")


@dataclass(kw_only=True)
class EmbedOptions(PhotoOptions, ModelOptions):
    """`captune embed`."""

    features: Path = option("FILE.npz or FILE.parquet to write", metavar="FILE")


MOST_RESAMPLES = 10_000_000  # each keeps a number a metric in memory


@dataclass(kw_only=True)
class MetricOptions(ModelOptions):
    """Which scores, and what they rest on."""

    references: Path | None = option(
        "the captions to score against: COCO annotations, CSV, JSONL, {stem: [caption, ...]}",
        None,
        metavar="REFS",
    )
    photos: Path | None = option(
        "folder of the photos: for CLIPScore and for galleries", None, metavar="DIR"
    )
    metrics: str | None = option(
        "comma-separated: bleu (bleu_1 to bleu_4), rouge_l, cider, cider_original, clipscore, "
        "ref_clipscore, clipscore_hw3, meteor (default: bleu,rouge_l,cider with references, "
        "clipscore with photos)",
        None,
        metavar="M,M",
    )
    df: str = option(
        "document frequencies of CIDEr: corpus (these references), coco-val2017, or a saved FILE",
        "corpus",
        metavar="DF",
    )
    tokenizer: str = option(
        "ptb, or none for captions that are tokenised already (words between spaces)",
        "ptb",
        choices=("ptb", "none"),
    )
    prefix: str = option(
        "what CLIPScore puts before each caption", "A photo depicts ", metavar="TEXT"
    )
    allow_missing: bool = option("score an image that has no candidate as an empty caption", False)
    resamples: int = option("bootstrap resamples of the intervals", 10_000, metavar="N")
    seed: int = option("seed of the resampling", 0, metavar="N")

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be resampled with."""
        super().__post_init__()
        if not 100 <= self.resamples <= MOST_RESAMPLES:
            raise UserError(
                f"resamples {self.resamples}: must be a number from 100 to {MOST_RESAMPLES:,}"
            )
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: must be 0 or more")


@dataclass(kw_only=True)
class ScoreOptions(MetricOptions):
    """`captune score`."""

    candidates: Path | None = option(
        "the captions to score: {stem: caption}, COCO results, CSV, JSONL or a run folder",
        None,
        positional=True,
        nargs="?",
        metavar="CANDIDATES",
    )
    no_interval: bool = option("leave out the intervals and the agreement of the metrics", False)
    per_image: Path | None = option(
        "write a row an image, a column a metric", None, metavar="FILE.csv"
    )
    save_df: Path | None = option(
        "save the document frequencies of these references, for --df FILE", None, metavar="FILE"
    )
    out: Path | None = option("run folder to write", None, metavar="RUN")
    verify: Path | None = option(
        "compute a metrics.json of an earlier score again and say whether it holds",
        None,
        metavar="METRICS.JSON",
    )


@dataclass(kw_only=True)
class CompareOptions(MetricOptions):
    """`captune compare`."""

    first: Path = option("captions A: as in score", positional=True, nargs=None, metavar="A")
    second: Path = option("captions B: as in score", positional=True, nargs=None, metavar="B")
    top: int = option("images to show on either side of the difference", 10, metavar="N")
    out: Path | None = option("run folder to write: tables and plots", None, metavar="RUN")
    csv: Path | None = option("write a row an image, both scores a metric", None, metavar="FILE")


@dataclass(kw_only=True)
class RankOptions:
    """`captune rank`."""

    run: Path = option("run folder of captune score", positional=True, nargs=None, metavar="RUN")
    by: str = option("the metric to rank by, one of those in the run", "cider", metavar="METRIC")
    top: int = option("pairs to show at either end", 10, metavar="N")
    photos: Path | None = option(
        "folder of the photos, where the run does not know it", None, metavar="DIR"
    )
    out: Path | None = option("folder for the gallery (default: the run)", None, metavar="DIR")

    def __post_init__(self) -> None:
        """Raises UserError for a gallery of nothing."""
        if self.top < 1:
            raise UserError(f"top {self.top}: must be 1 or more")


@dataclass(kw_only=True)
class TuneOptions:
    """`captune tune`."""

    photos: Path | None = option(
        "folder of the photos that the training captions are about",
        None,
        positional=True,
        nargs="?",
        metavar="PHOTOS",
    )
    captions: Path | None = option(
        "training captions: COCO annotations, CSV, JSONL, a folder with name.txt beside name.jpg",
        None,
        metavar="TRAIN",
    )
    val: Path | None = option("validation captions, as --captions", None, metavar="VAL")
    val_photos: Path | None = option(
        "folder of the validation photos (default: PHOTOS)", None, metavar="DIR"
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
        " beside each photo",
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
    epochs: int = option("passes over the training photos", 10, metavar="N")
    augment: str = option(
        "mirror: see training photos mirrored in half of the epochs, which doubles what is encoded"
        " and cached; not those with a caption that names left or right",
        "none",
        choices=("none", "mirror"),
    )
    captions_per_image: str = option(
        "captions of a photo that an epoch learns: all, or N sampled anew each epoch",
        "all",
        metavar="all|N",
    )
    limit: int = option("train on a fixed sample of N photos (0: all)", 0, metavar="N")
    batch: int = option("captions a step, about", 32, metavar="N")
    accumulate: int = option("steps whose gradients are added up for one update", 1, metavar="N")
    lr: float = option("highest learning rate", 5e-4, metavar="RATE")
    weight_decay: float = option("AdamW's weight decay", 1e-2, metavar="SHARE")
    warmup: float = option("share of the training in which the rate rises", 0.05, metavar="SHARE")
    label_smoothing: float = option("label smoothing of the loss", 0.0, metavar="SHARE")
    objective: str = option(
        "what is learnt: captions, the next word of those that people wrote; or cider, the score of"
        " captions that the model samples (self-critical; for a model that writes: --start RUN)",
        "captions",
        choices=("captions", "cider"),
    )
    samples: int = option("captions sampled of a photo, for --objective cider", 5, metavar="N")
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
        "validation photos that are captioned after each epoch (0: all); the final scores are of"
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

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be trained with."""
        for name, least in (
            *(("epochs", 1), ("batch", 1), ("accumulate", 1), ("max_tokens", 2), ("limit", 0)),
            *(("samples", 2), ("decoder_blocks", 0), ("known_words_top", 1)),
            *(("patience", 0), ("val_sample", 0), ("save_steps", 0), ("workers", 0), ("seed", 0)),
        ):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name.replace('_', '-')} {getattr(self, name)}: must be {least} or more"
                )
        if not 0 < self.lr < 1:
            raise UserError(f"lr {self.lr}: must be above 0 and below 1, as 5e-4")
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
        """Captions of a photo an epoch; 0 for all."""
        return 0 if self.captions_per_image == "all" else int(self.captions_per_image)


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
        for name in ("beam", "max_tokens"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"{name.replace('_', '-')} {getattr(self, name)}: must be 1 or more"
                )


@dataclass(kw_only=True)
class CaptionOptions(PhotoOptions, CaptionerOptions):
    """`captune caption`."""

    predictions: Path | None = option(
        'write {"stem": "caption"}, the form of the assignment', None, metavar="FILE.json"
    )
    sidecar: bool = option("write name.txt beside each photo; what stands there stays", False)
    overwrite: bool = option("let --sidecar replace what stands there", False)
    out: Path | None = option(
        "run folder to write: captions with the log-probability of each word", None, metavar="RUN"
    )

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        if self.overwrite and not self.sidecar:
            raise UserError("--overwrite: is for --sidecar; give both, or neither")


@dataclass(kw_only=True)
class ExplainOptions(PhotoOptions, CaptionerOptions):
    """`captune explain`."""

    method: str = option(
        "how the maps are made: attention, gradient-attention, relevance, gradient,"
        " integrated-gradients, occlusion, pixel-occlusion (auto: what captune faithful found to be"
        " the truest, else attention)",
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
        choices=("magma", "viridis", "jet"),
    )
    out: Path | None = option(
        "run folder to write: figures, and maps as .npz in RUN/maps", None, metavar="RUN"
    )

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
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
    photos: Path = option("folder of the photos that maps are chosen on", metavar="DIR")
    captions: Path = option("their reference captions, as in tune", metavar="TRAIN")
    boxes: Path | None = option(
        "what people drew there: COCO's instances_*.json", None, metavar="INSTANCES.json"
    )
    val_captions: Path | None = option(
        "reference captions of the photos that are reported on", None, metavar="VAL"
    )
    val_photos: Path | None = option(
        "folder of those photos (default: --photos)", None, metavar="DIR"
    )
    val_boxes: Path | None = option(
        "what people drew there, as --boxes", None, metavar="INSTANCES.json"
    )
    hide: str = option(
        "what hidden patch tokens become: zeros, or the mean token of the photos chosen on",
        "zeros",
        choices=("zeros", "mean"),
    )
    minutes: float = option(
        "time that there is; what is slow is measured on fewer photos", 30.0, metavar="N"
    )
    limit: int = option("take a fixed sample of N photos of each file (0: all)", 0, metavar="N")
    quick: bool = option(
        "a first look: 16 photos of each file, no occlusion, nothing by pixels", False
    )
    seed: int = option("seed of the sampling", 0, metavar="N")
    out: Path = option("run folder to write: leaderboard, plots, the default map", metavar="RUN")

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        if self.minutes <= 0:
            raise UserError(f"minutes {self.minutes}: must be above 0")
        for name in ("limit", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)}: must be 0 or more")
        for name in ("val_photos", "val_boxes"):
            if getattr(self, name) is not None and self.val_captions is None:
                raise UserError(f"--{name.replace('_', '-')}: is for --val-captions; give both")


@dataclass(kw_only=True)
class ReportOptions:
    """`captune report`."""

    runs: list[str] = option(
        "run folders of any job; the methods of a tune come along",
        [],
        positional=True,
        nargs="*",
        metavar="RUN",
    )
    out: Path | None = option(
        "the page to write: one file, which opens without a network", None, metavar="FILE.html"
    )
    title: str | None = option("heading of the page (default: what was done)", None, metavar="TEXT")
    limit: int = option("photos in a gallery, at the most", 2000, metavar="N")
    top: int = option("photos at either end of the best and the worst", 4, metavar="N")
    figures: Path | None = option(
        "folder for every table as CSV and every figure as PNG, SVG and PDF", None, metavar="DIR"
    )
    check: Path | None = option(
        "a page of captune report: derive every figure of it again from its run folders, or from"
        " the RUN given",
        None,
        metavar="FILE.html",
    )

    def __post_init__(self) -> None:
        """Raises UserError for a page of nothing."""
        for name in ("limit", "top"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: must be 1 or more")
