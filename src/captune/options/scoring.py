"""Options of the jobs that score captions: score, compare and rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    CsvOptions,
    DatasetOptions,
    ModelOptions,
    RowOptions,
    caption_column_option,
    option,
    overwrite_option,
    require_at_least,
    require_within,
)

MOST_RESAMPLES = 10_000_000  # each keeps a number a metric in memory


@dataclass(kw_only=True)
class MetricOptions(DatasetOptions, ModelOptions):
    """Which scores, and what they rest on."""

    references: Path | None = option(
        "reference captions: COCO annotations, CSV, JSONL or JSON {stem: [caption, ...]}",
        metavar="REFS",
        captions=True,
    )
    images: Path | None = option("folder of the images, for CLIPScore and galleries", metavar="DIR")
    caption_column: str | None = caption_column_option()
    metrics: str | None = option(
        "comma-separated: bleu (bleu_1 to bleu_4), rouge_l, cider (CIDEr-D), cider_original"
        " (CIDEr), clipscore, ref_clipscore, clipscore_hw3, meteor, and those that captune plugins"
        " lists (default: bleu,rouge_l,cider with references, clipscore with images)",
        metavar="M,M",
    )
    df: str = option(
        "document frequencies for CIDEr: corpus (of these references), coco-val2017, or a file from"
        " --save-df",
        "corpus",
        metavar="DF",
    )
    tokenizer: str = option(
        "ptb (Penn Treebank), or none for captions that are tokenised already (words between"
        " spaces)",
        "ptb",
        choices=("ptb", "none"),
    )
    prefix: str = option(
        "text that CLIPScore puts before each caption", "A photo depicts ", metavar="TEXT"
    )
    subset: bool = option(
        "score only the images that have a candidate (compare: in both A and B)", False
    )
    allow_missing: bool = option("score an image without a candidate as an empty caption", False)
    ignore_extra: bool = option("leave out candidates whose image has no references", False)
    resamples: int = option("bootstrap resamples of the intervals", 10_000)
    seed: int = option("random seed of the resampling", 0)

    def __post_init__(self) -> None:
        """Raises UserError for numbers that nothing can be resampled with, and for two answers."""
        super().__post_init__()
        if self.check_dataset():
            self.references = self.references or Path(self.source(caption=self.caption_column))
            self.images = self.images or Path(self.source())
        if self.subset and self.allow_missing:
            raise UserError(
                "--subset leaves out the images without a candidate and --allow-missing scores them"
                " as empty captions; give one of the two"
            )
        require_within(self, resamples=(100, MOST_RESAMPLES))
        require_at_least(self, seed=0)


@dataclass(kw_only=True)
class ScoreOptions(MetricOptions, RowOptions):
    """`captune score`."""

    candidates: Path | None = option(
        "captions to score: JSON {stem: caption}, COCO results, CSV, JSONL or a run folder",
        nargs="?",
        metavar="CANDIDATES",
        captions=True,
    )
    no_interval: bool = option("leave out the intervals and the agreement of the metrics", False)
    per_image: Path | None = option(
        "write a table of scores: one row per image, one column per metric", metavar="FILE.csv"
    )
    save_df: Path | None = option(
        "save the document frequencies of these references, for --df FILE"
    )
    out: Path | None = option("run folder to write, with a page of the results", metavar="RUN")
    overwrite: bool = overwrite_option()


@dataclass(kw_only=True)
class CompareOptions(MetricOptions, CsvOptions):
    """`captune compare`."""

    first: Path = option(
        "captions A, as in captune score", ..., nargs=None, metavar="A", captions=True
    )
    second: Path = option(
        "captions B, as in captune score", ..., nargs=None, metavar="B", captions=True
    )
    others: list[Path] = option(
        "more captions, to hold all of them against the best", [], nargs="*", metavar="C"
    )
    top: int = option("images to show where B is better, and where A is better", 10)
    out: Path | None = option("run folder to write, with tables, figures and a page", metavar="RUN")
    overwrite: bool = overwrite_option()
    csv: Path | None = option("write a table: one row per image, both scores for each metric")

    def __post_init__(self) -> None:
        self.others = [Path(one) for one in self.others]
        super().__post_init__()
        if self.others and self.csv is not None:
            raise UserError("--csv has columns for A and B alone; of more captions take --out RUN")

    @property
    def kind(self) -> str:
        """The kind of run that it leaves."""
        return "captioners" if self.others else "compare"


@dataclass(kw_only=True)
class RankOptions(CsvOptions):
    """`captune rank`."""

    run: Path = option("run folder written by captune score", ..., nargs=None, metavar="RUN")
    by: str = option("metric to rank by, one that the run has", "cider", metavar="METRIC")
    top: int = option("images to show at either end of the ranking", 10)
    images: Path | None = option("folder of the images, if the run does not have it", metavar="DIR")
    explain: bool = option(
        "show what of the image the captioner used for each word of the pairs", False
    )
    model: str | None = option(
        "captioner that --explain asks, as in captune explain (default: the one that wrote the"
        " captions, if they are those of a run, else lite)",
        metavar="RUN|lite",
    )
    out: Path | None = option("folder for the gallery (default: the run)", metavar="DIR")

    def __post_init__(self) -> None:
        """Raises UserError for a gallery of nothing."""
        require_at_least(self, top=1)
        if self.model is not None and not self.explain:
            raise UserError("--model is for --explain; give both")
