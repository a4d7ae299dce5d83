"""What the options of every job are made of: fields that know their help, shared groups, checks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from captune.errors import UserError
from captune_metrics.display import printable

FROM_DATASET = "from-dataset"
LITE = "lite"  # what comes with the package, wherever a model, captioner or part of one is named
IN_MEMORY = "captions in memory"


class CaptionsInMemory(type(Path())):  # type: ignore[misc]
    """Captions of Python, `{"image": "caption"}`, in the place of their file; a path by name only.

    text: the captions as JSON.
    """

    text: str

    @classmethod
    def of(cls, name: str, captions: Any) -> CaptionsInMemory:
        """Raises UserError for what has no form in JSON. name: of the option."""
        made = cls(IN_MEMORY)
        try:
            made.text = json.dumps(captions)
        except TypeError:
            raise UserError(
                f'{name}: captions in memory are {{"image": "caption"}} or {{"image": ["caption",'
                " ...]}, all of them texts"
            ) from None
        return made


def full_path(path: str) -> str:
    """A path that holds from any folder; what is in memory or on the hub (hf:...) stays."""
    is_elsewhere = path == IN_MEMORY or path.startswith("hf:")
    return path if is_elsewhere else str(Path(path).resolve())


def option(help: str, default: Any = None, **extra: Any) -> Any:
    """A dataclass field that knows its `--help` text. default: ... for what has to be given.

    extra: `metavar` (N, X and FILE of numbers and paths without one), `choices`, `repeat` (the flag
    may be given several times; [] without a default), `nargs` (it is no flag but a place, of as
    many words as argparse has it: "*", "+", "?"; None exactly one), `captions` and `images`
    (Python may give them themselves in the place of their files), `names` (a function that lists
    what the option takes, for `--help`), `section` (of `--help`, which begins with this option).
    """
    metadata = {"help": help, **extra}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list) or (default is None and "repeat" in extra):
        return field(default_factory=lambda: list(default or ()), metadata=metadata)
    return field(default=default, metadata=metadata)


def same_option(options: type[Any], name: str) -> Any:
    """The option `name` of another dataclass, for one that takes a few of its options."""
    (known,) = (one for one in fields(options) if one.name == name)
    return field(default=known.default, metadata=known.metadata)


def overwrite_option() -> Any:
    """`--overwrite` of a command that writes a run folder."""
    return option("replace the run in --out, also where another command wrote it", False)


def check_overwrite(options: Any) -> None:
    """Raises UserError where there is nothing to overwrite: no run, and no text beside images."""
    is_asked = getattr(options, "overwrite", False) and not getattr(options, "sidecar", False)
    if is_asked and options.out is None:
        raise UserError("--overwrite is for --out; give both, or neither")


def refuse_given(options: Any, names: Iterable[str], why: str) -> None:
    """Raises UserError, `--NAME why`, for the first of these fields of `options` that was given."""
    for name in names:
        if getattr(options, name, None):
            raise UserError(f"--{name.replace('_', '-')} {why}")


def require_at_least(options: Any, **least: int) -> None:
    """Raises UserError for the first of these fields of `options` that is below its least value."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise UserError(f"{name.replace('_', '-')} must be {smallest} or more, not {value}")


def require_within(options: Any, example: str = "", **ends: tuple[float, float]) -> None:
    """Raises UserError for the first of these fields of `options` that is not within its ends."""
    for name, (low, high) in ends.items():
        value = getattr(options, name)
        if not low <= value <= high:
            rule = f"must be from {low} to {high:,}{example}"
            raise UserError(f"{name.replace('_', '-')} {rule}, not {value}")


@dataclass(kw_only=True)
class ModelOptions:
    """What every command that runs a model takes."""

    model: str = option(
        "model spec: lite, open_clip:NAME/TAG, hf:REPO_OR_FOLDER, timm:NAME or a local folder",
        LITE,
        metavar="SPEC",
        section="model",
    )
    device: str = option(
        "device that the model runs on", "auto", choices=("auto", "cpu", "cuda", "mps")
    )
    dtype: str = option(
        "precision of the model (auto: float32 on a CPU, float16 on a GPU; bfloat16 is faster on a"
        " CPU with AMX or AVX512_BF16)",
        "auto",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    batch_size: int = option("images per forward pass", 32)
    workers: int = option(
        "threads that decode images ahead of the model (0: chosen automatically)", 0
    )
    no_cache: bool = option("do not use the feature cache", False)

    def __post_init__(self) -> None:
        """Raises UserError for what no pass can be made with, and for nothing to overwrite."""
        check_pass(self.batch_size, self.workers)
        check_overwrite(self)


def check_pass(batch_size: int, workers: int) -> None:
    """Raises UserError for a batch size below 1 or less than no workers."""
    if batch_size < 1:
        raise UserError(f"batch size must be 1 or more, not {batch_size}")
    if workers < 0:
        raise UserError(f"workers must be 0 (chosen automatically) or more, not {workers}")


@dataclass(kw_only=True)
class CsvOptions:
    """What every command takes that writes words of others into a CSV file."""

    raw_csv: bool = option(
        "write CSV cells unchanged, even those that a spreadsheet would run as formulas (= + - @)",
        False,
        section="files for other programs",
    )


@dataclass(kw_only=True)
class RowOptions(CsvOptions):
    """What every command takes that has an answer per image, or a row per prompt."""

    to: list[str] = option(
        "write the results for other programs, with the model and its weights id, in the form of"
        " the ending: .csv, .jsonl, .json or .parquet; may be given several times",
        repeat=True,
        metavar="FILE",
        section="files for other programs",
    )


@dataclass(kw_only=True)
class DatasetOptions:
    """A dataset in the place of files.

    A source of it is written `PLACE#split=NAME&image=COLUMN` (`images.dataset`), and stands where a
    path of images, of captions or of a truth would.
    """

    dataset: str | None = option(
        "Hugging Face dataset in place of files: a folder of save_to_disk, of Parquet files or of"
        " images with metadata, or hf:USER/NAME[/CONFIG] from the hub",
        metavar="FOLDER|hf:NAME",
        section="dataset",
    )
    split: str | None = option("split of --dataset (default: its only one)", metavar="NAME")
    image_column: str | None = option(
        "column of --dataset that holds the images (default: the only one that does)",
        metavar="NAME",
    )

    def source(
        self, split: str | None = None, caption: str | None = None, label: str | None = None
    ) -> str:
        """The source of a split, the one of --split where none is named."""
        assert self.dataset is not None
        chosen = {"image": self.image_column, "caption": caption, "label": label}
        words = urlencode({name: value for name, value in chosen.items() if value})
        return f"{self.dataset}#split={quote(split or self.split or '')}" + (words and f"&{words}")

    def check_dataset(self) -> bool:
        """Whether there is one. Raises UserError for what is none, and for columns of none."""
        if self.dataset is None:
            names = ["split", "caption_column", "label_column", "val_split"]
            # files of Parquet may have several columns of images, too
            names += [] if getattr(self, "is_sharded", False) else ["image_column"]
            refuse_given(self, names, "is for --dataset; give both")
            return False
        if not self.dataset.startswith("hf:"):
            if not Path(self.dataset).is_dir():
                raise UserError(
                    f"--dataset {printable(self.dataset)} is not a folder; a dataset of the hub is"
                    " written hf:USER/NAME"
                )
            self.dataset = str(Path(self.dataset).absolute())
        return True


def caption_column_option() -> Any:
    """`--caption-column` of a command that reads captions."""
    return option(
        "column of --dataset that holds the captions, texts or lists of them (default: caption,"
        " captions, text and the like)",
        metavar="NAME",
    )


@dataclass(kw_only=True)
class ImageOptions(DatasetOptions):
    """Which images a command looks at. images: texts, or all of them `ImageInMemory` of Python."""

    images: list[str] = option(
        "folders (searched recursively), files, globs, or - for a list of paths on standard input",
        [],
        nargs="*",
        metavar="IMAGES",
        images=True,
    )
    limit: int = option("take a fixed random sample of N of the images (0: all)", 0)

    def __post_init__(self) -> None:
        """Raises UserError for neither images nor a dataset, and for both."""
        parent: Any = super()
        parent.__post_init__()
        require_at_least(self, limit=0)
        if self.check_dataset():
            if self.images and self.images != [self.source()]:
                raise UserError("give IMAGES or --dataset, not both")
            self.images = [self.source()]
        elif not self.images and not getattr(self, "texts", None):
            raise UserError("no images were given; give a folder or files, or --dataset")
        if not all(isinstance(one, str) for one in self.images):
            refuse_given(
                self,
                ("out", "sidecar"),
                "needs images that lie in files, and these are in memory; write them into a folder"
                " and give that, or leave it out",
            )
            if getattr(self, "is_sharded", False):
                raise UserError("shards are cut of files, and these images are in memory")


@dataclass(kw_only=True)
class LabelledOptions(ImageOptions):
    """Which images, with what each shows."""

    labels: str | list[str] = option(
        'labels: cat,dog; a text file with one name per line; a JSON file {"id": "name"} or'
        ' {"name": ["prompt", ...]}; everyday, a list of common nouns',
        ...,
        metavar="LABELS",
    )
    truth: str | None = option(
        "ground-truth labels: a CSV file with filename,label; from-name for files called"
        " <class id>_<n>.ext; from-folder for folders called like labels; a metadata.jsonl, .csv or"
        " .parquet beside the images",
        metavar="TRUTH",
    )
    label_column: str | None = option(
        "column of --dataset that holds the right labels; --labels from-dataset takes its classes",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        """Raises UserError for labels of a dataset without one, and for two truths."""
        super().__post_init__()
        if self.labels == FROM_DATASET and not self.label_column:
            raise UserError("--labels from-dataset: say which of its columns with --label-column")
        if self.label_column:
            source = self.source(label=self.label_column)
            if self.truth not in (None, source):
                raise UserError("give --truth or --label-column, not both")
            self.truth = source
            self.labels = source if self.labels == FROM_DATASET else self.labels
