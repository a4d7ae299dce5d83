"""Options of the jobs that score captions: score, compare and rank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from captune.errors import UserError
from captune.options.base import (
    CsvOptions,
    ModelOptions,
    check_overwrite,
    option,
    overwrite_option,
    require_at_least,
)

MOST_RESAMPLES = 10_000_000  # each keeps a number a metric in memory


@dataclass(kw_only=True)
class MetricOptions(ModelOptions):
    """Which scores, and what they rest on."""

    references: Path | None = option(
        "the captions to score against: COCO annotations, CSV, JSONL, {stem: [caption, ...]}",
        None,
        metavar="REFS",
    )
    images: Path | None = option(
        "folder of the images: for CLIPScore and for galleries", None, metavar="DIR"
    )
    metrics: str | None = option(
        "comma-separated: bleu (bleu_1 to bleu_4), rouge_l, cider, cider_original, clipscore, "
        "ref_clipscore, clipscore_hw3, meteor (default: bleu,rouge_l,cider with references, "
        "clipscore with images)",
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
        require_at_least(self, seed=0)


@dataclass(kw_only=True)
class ScoreOptions(MetricOptions, CsvOptions):
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
    overwrite: bool = overwrite_option()
    verify: Path | None = option(
        "compute a metrics.json of an earlier score again and say whether it holds",
        None,
        metavar="METRICS.JSON",
    )

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        check_overwrite(self)


@dataclass(kw_only=True)
class CompareOptions(MetricOptions, CsvOptions):
    """`captune compare`."""

    first: Path = option("captions A: as in score", positional=True, nargs=None, metavar="A")
    second: Path = option("captions B: as in score", positional=True, nargs=None, metavar="B")
    top: int = option("images to show on either side of the difference", 10, metavar="N")
    out: Path | None = option("run folder to write: tables and plots", None, metavar="RUN")
    overwrite: bool = overwrite_option()
    csv: Path | None = option("write a row an image, both scores a metric", None, metavar="FILE")

    def __post_init__(self) -> None:
        """Raises UserError for what does not go together."""
        super().__post_init__()
        check_overwrite(self)


@dataclass(kw_only=True)
class RankOptions(CsvOptions):
    """`captune rank`."""

    run: Path = option("run folder of captune score", positional=True, nargs=None, metavar="RUN")
    by: str = option("the metric to rank by, one of those in the run", "cider", metavar="METRIC")
    top: int = option("pairs to show at either end", 10, metavar="N")
    images: Path | None = option(
        "folder of the images, where the run does not know it", None, metavar="DIR"
    )
    out: Path | None = option("folder for the gallery (default: the run)", None, metavar="DIR")

    def __post_init__(self) -> None:
        """Raises UserError for a gallery of nothing."""
        require_at_least(self, top=1)
