"""A score run in the order of one metric: which pairs of image and caption are best and worst.

Every metric counts as "higher is better", as all of captune's are. And do the metrics order the
images alike (`agreement`)? Kendall's tau-b of their per-image scores.
"""

from __future__ import annotations

import math
import os
import shlex
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from captune.captions import CaptionFile, match_images
from captune.errors import UserError
from captune.images import Skipped, find_images
from captune.options.scoring import RankOptions
from captune.runs import Run, leaves_root, read_run
from captune.runs.evaluation import Agreement, AgreementPair, MetricFigure, ScoreMetrics
from captune.runs.reader import RECORDS, damaged
from captune.runs.records import ScoreRecord
from captune.statistics import kendall_tau
from captune.tables import write_csv
from captune.text import decimal
from captune_metrics.catalogue import is_metric, metric_id
from captune_metrics.display import named, printable, quoted
from captune_metrics.resampling import Doubles
from captune_metrics.scores import Scores

MEASURE = "Kendall's tau-b of per-image scores, 95 % by jackknife on Fisher's scale"

# below this two metrics order images so differently that choosing one of them decides the result
DISAGREEMENT = 0.3
_FEWEST = 10  # images that a sentence is made of
# coco-caption's BLEU stays above 0 by a stand-in of 1e-15 a count: its fourth root is about 2e-4
_BLEU_ZERO = 1e-3


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with its caption.

    rank: 1 is the best, each rank once; 0 before they are ranked. path: relative to the folder of
    the images, None where it is unknown. scores: metric id -> score of this image, without those
    that it has none of.
    """

    rank: int
    image: str
    path: str | None
    caption: str
    references: tuple[str, ...]
    scores: Mapping[str, float]


class Standing(NamedTuple):
    """The places that share a score among all images; 1 is the best."""

    first: int
    last: int
    images: int

    @property
    def ties(self) -> int:
        """Images with this score."""
        return self.last - self.first + 1

    @property
    def fraction_below(self) -> float:
        """Of the other images, those that score lower; equal ones count half. One image: 0.5."""
        if self.images == 1:
            return 0.5
        return (self.images - (self.first + self.last) / 2) / (self.images - 1)


class Distribution:
    """The scores of all images under one metric."""

    def __init__(self, metric: str, scores: Iterable[float]) -> None:
        self._metric = metric
        self.scores = sorted(scores)
        self.median = median(self.scores)
        self._comparable = comparable(metric, np.array(self.scores)).tolist()

    def comparable(self, score: float) -> float:
        """The same for scores that nothing but rounding or smoothing tells apart."""
        return float(comparable(self._metric, np.array([score]))[0])

    def standing(self, score: float) -> Standing:
        """Where one of the scores lies."""
        images, value = len(self._comparable), self.comparable(score)
        above = images - bisect_right(self._comparable, value)
        return Standing(above + 1, images - bisect_left(self._comparable, value), images)


class Tie(NamedTuple):
    """More images share a score than an end shows: which of them are shown is arbitrary."""

    score: float
    images: int
    shown: int


@dataclass(frozen=True)
class Ranking:
    """All images of a score run, best first.

    by: the metric's id; metrics: id -> what the run says of it.
    taus: Kendall's tau of two metrics, where the run has it, by both ids.
    root: the folder of the images, None where they are not to be had; notes then say why. places:
    image id -> the file of its image.
    skipped: images without a score by this metric, which have no rank.
    """

    run: Run
    by: str
    metrics: dict[str, MetricFigure]
    pairs: list[Pair]
    top: int
    root: Path | None
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    taus: Mapping[frozenset[str], AgreementPair] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)

    @property
    def best(self) -> list[Pair]:
        """At most `top`, best first; of few images the better half."""
        return self.pairs[: min(self.top, math.ceil(len(self.pairs) / 2))]

    @property
    def worst(self) -> list[Pair]:
        """At most `top`, worst first; none that is among the best, unless there is only one."""
        count = min(self.top, max(1, len(self.pairs) // 2))
        return self.pairs[: -count - 1 : -1]

    @cached_property
    def distributions(self) -> dict[str, Distribution]:
        """Metric id -> the scores of the ranked images, for metrics that have any."""
        columns = {
            metric: [pair.scores[metric] for pair in self.pairs if metric in pair.scores]
            for metric in self.metrics
        }
        return {
            metric: Distribution(metric, scores) for metric, scores in columns.items() if scores
        }

    def agreement(self, metric: str) -> AgreementPair | None:
        """Kendall's tau with the metric that ranks, where the run has it."""
        return self.taus.get(frozenset((metric, self.by)))

    @property
    def quoted(self) -> list[str]:
        """The other metrics, where there is little room: at most one BLEU, BLEU-4 before others."""
        bleus = [metric for metric in self.distributions if metric.startswith("bleu_")]
        left_out = bleus if self.by in bleus else bleus[:-1]
        return [m for m in self.distributions if m != self.by and m not in left_out]

    def score(self, pair: Pair) -> float:
        """Its score by the metric that ranks."""
        return pair.scores[self.by]

    def label(self, metric: str) -> str:
        """`CIDEr-D` of `CIDEr-D[ptb, df=corpus]`."""
        return (self.metrics[metric].name or metric).partition("[")[0].strip() or metric

    def standing(self, pair: Pair, metric: str) -> Standing:
        """Where a pair's score by any metric lies among all images."""
        return self.distributions[metric].standing(pair.scores[metric])

    def tie(self, shown: list[Pair]) -> Tie | None:
        """Where an end (`best` or `worst`) cuts through images that share a score."""
        cut = self.standing(shown[-1], self.by)
        same = sum(self.standing(pair, self.by) == cut for pair in shown)
        if cut.ties <= same:
            return None
        return Tie(self.score(shown[-1]), cut.ties, same)

    @property
    def is_tied(self) -> bool:
        """Whether all images have the same score, so that none is the best."""
        return 1 < len(self.pairs) == self.standing(self.pairs[0], self.by).ties

    def remarks(self) -> list[str]:
        """What a reader has to know of the ends: the notes, and where ties make them arbitrary."""
        images = len(self.pairs)
        if self.is_tied:
            same = f"all {images:,} images have the same score{self._smoothing(self.pairs[0])}"
            return [*self.notes, f"{same}: there is no best and no worst, the order is arbitrary"]
        remarks = list(self.notes)
        for end, shown in (("best", self.best), ("worst", self.worst)):
            tie = self.tie(shown)
            if tie is not None:
                which = f"the {tie.shown}" if tie.shown == len(shown) else f"{tie.shown} of the"
                shows = f"{which} {end} shown {'is' if tie.shown == 1 else 'are'}"
                if len(shown) == 1:
                    shows = f"the {end} one shown is"
                remarks.append(
                    f"{tie.images:,} of {images:,} images share the score "
                    f"{decimal(tie.score)}{self._smoothing(shown[-1])}: {shows} an arbitrary "
                    "choice among them"
                )
        return remarks

    def _smoothing(self, pair: Pair) -> str:
        score = self.score(pair)
        if score > 0 and self.distributions[self.by].comparable(score) == 0:
            return " (smoothing alone tells them apart)"
        return ""


def rank_run(options: RankOptions) -> Ranking:
    """Read a score run and sort its images by one metric; equal scores are sorted by image id.

    Raises UserError where the folder is no score run or lacks the metric, and for images that are
    not those of the run.
    """
    run = read_run(options.run)
    shown = printable(options.run)
    if run.kind != "score":
        raise UserError(
            f"{shown} is a run of captune {printable(run.kind)}; rank reads the run that "
            "captune score ... --out RUN writes"
        )
    figures = run.typed_metrics(ScoreMetrics)
    by = _chosen(run, options.by, figures.metrics)
    pairs, unscored = _read_pairs(run, by)
    if not pairs:
        raise UserError(
            f"{shown}: none of its {len(unscored)} images has a score by {printable(by)}"
        )
    pairs.sort(key=lambda pair: (-pair.scores[by], pair.image))
    root, notes, paths, places = _images(run, options.images, pairs)
    ranked = [
        replace(pair, rank=rank, path=paths[pair.image]) for rank, pair in enumerate(pairs, 1)
    ]
    skipped = [Skipped(image, f"has no score by {by}") for image in unscored]
    if skipped:
        count = "1 image has" if len(skipped) == 1 else f"{len(skipped):,} images have"
        notes.insert(0, f"{count} no score by {by} and no rank")
    taus = {
        frozenset(pair.metrics): pair
        for pair in (figures.agreement.pairs if figures.agreement else ())
        if pair.tau is not None
    }
    metrics = figures.metrics
    return Ranking(run, by, metrics, ranked, options.top, root, skipped, notes, taus, places)


def _read_pairs(run: Run, by: str) -> tuple[list[Pair], list[str]]:
    """The images with a score by a metric, not ranked yet, and the ids of those without."""
    pairs: dict[str, Pair] = {}
    unscored: dict[str, None] = {}
    for number, record in enumerate(run.typed_records(ScoreRecord), 1):
        image = record.image
        if image in pairs or image in unscored:
            twice = f"line {number}: image {quoted(image)} stands twice"
            raise damaged(run.folder, RECORDS, twice)
        scores = {id: score for id, score in record.scores.items() if score is not None}
        if by in scores:
            references = tuple(record.references)
            pairs[image] = Pair(0, image, record.path or None, record.caption, references, scores)
        else:
            unscored[image] = None
    return list(pairs.values()), list(unscored)


def write_table(ranking: Ranking, path: Path, *, raw: bool = False) -> None:
    """Every image, best first: rank, image, path, caption, score and one column a metric."""
    metrics = list(ranking.metrics)
    rows: list[list[Any]] = [["rank", "image", "path", "caption", "score", *metrics]]
    for pair in ranking.pairs:
        texts = (pair.image, pair.path or "", pair.caption)
        scores = [pair.scores.get(metric, "") for metric in metrics]
        rows.append([pair.rank, *texts, ranking.score(pair), *scores])
    write_csv(path, rows, raw=raw)


def _chosen(run: Run, asked: str, metrics: Mapping[str, Any]) -> str:
    """The metric of the run that was asked for, spelled as people do: CIDEr-D, bleu@4."""
    wanted = metric_id(asked)
    by = next((metric for metric in metrics if metric_id(metric) == wanted), None)
    if by is not None:
        return by
    told = f"{run.folder} has no scores by {asked}, only by {', '.join(metrics)}; rank by one of"
    if not is_metric(wanted):
        raise UserError(printable(f"{told} these"))
    options = run.about["options"]
    words = ["captune", "score", str(options.get("candidates") or "CANDIDATES")]
    words += ["--references", str(options.get("references") or "REFS")]
    words += ["--metrics", ",".join([*metrics, wanted])]
    if "clip" in wanted:
        words += ["--images", str(options.get("images") or "DIR")]
    words += ["--out", str(run.folder)]
    raise UserError(printable(f"{told} these, or score it too: {shlex.join(words)}"))


Found = tuple[Path | None, list[str], dict[str, str | None], dict[str, Path]]


def _images(run: Run, folder: Path | None, pairs: list[Pair]) -> Found:
    """The root, notes for the user, and each image's path relative to the root, and its file."""
    known = {pair.image: pair.path for pair in pairs}
    if folder is not None:
        return _found_images(run, folder, pairs)
    if not any(known.values()):
        return None, ["the run knows no images: --images DIR shows them"], known, {}
    # os.path: a root that no folder can have is none, and no error
    if not run.root.is_absolute() or not os.path.isdir(run.root):  # noqa: PTH112
        gone = f"the images are no longer in {printable(run.root)}"
        return None, [f"{gone}: --images DIR says where they are now"], known, {}
    places = {image: place for image, path in known.items() if (place := run.image_path(path))}
    outside = [image for image, path in known.items() if path and leaves_root(path)]
    hidden = [image for image, path in known.items() if run.hides(path)]
    notes = []
    if outside:
        notes.append(
            f"{named(outside, 'image')}: the path of the image leaves the folder of the run's"
            " images; it is not opened"
        )
    if hidden:
        notes.append(
            f"{hidden_images(len(hidden))}: this captune did not write the run, and they lie"
            " outside its folder; --images DIR says where they are"
        )
    root = run.root if places or not hidden else None
    return root, notes, known | dict.fromkeys(outside), places


def hidden_images(count: int) -> str:
    """`1 image is not shown`."""
    return "1 image is not shown" if count == 1 else f"{count:,} images are not shown"


def _found_images(run: Run, folder: Path, pairs: list[Pair]) -> Found:
    """Each image's image in a folder, by the file name in the run or by its id."""
    found = find_images([folder])
    captions = CaptionFile(
        source=str(run.folder),
        form="captune run",
        captions={pair.image: [pair.caption] for pair in pairs},
        file_names={pair.image: pair.path for pair in pairs if pair.path},
        sha256="",
    )
    matched, unmatched = match_images(captions, found)
    if not matched:
        example = printable(pairs[0].path or pairs[0].image)
        raise UserError(
            f"{printable(folder)}: none of its {len(found.images):,} images is one of the "
            f"run's {len(pairs):,} images (such as {example}); give the folder that the captions "
            "are about"
        )
    paths: dict[str, str | None] = dict.fromkeys(unmatched)
    paths |= {image: file.name for image, file in matched.items()}
    notes = []
    if unmatched:
        count = f"{len(unmatched):,} of {len(pairs):,} images"
        notes.append(f"{count} have no image in {printable(folder)}: {named(unmatched)}")
    return found.root, notes, paths, {image: file.path for image, file in matched.items()}


def agreement(scores: Mapping[str, Scores]) -> Agreement:
    """Kendall's tau-b of every two metrics, over the images that both were computed for.

    Raises ValueError where two metrics were computed for different images.
    """
    images: list[str] = list(next(iter(scores.values())).per_image) if scores else []
    columns = {}
    for id, one in scores.items():
        if one.per_image.keys() != set(images):
            raise ValueError(f"{id}: expected a score for each of the {len(images)} images")
        columns[id] = comparable(one.metric, np.array([one.per_image[i] for i in images]))
    pairs = []
    for first, second in combinations(scores, 2):
        tau, interval = kendall_tau(columns[first], columns[second])
        pairs.append(AgreementPair((first, second), tau, interval))
    sentences: list[str] = []
    if len(images) >= _FEWEST:  # the order of fewer is luck
        said = (_sentence(pair, scores) for pair in pairs)
        sentences = [sentence for sentence in said if sentence is not None]
    return Agreement(images=len(images), measure=MEASURE, pairs=pairs, sentences=sentences)


def _sentence(pair: AgreementPair, scores: Mapping[str, Scores]) -> str | None:
    """What a user has to know of two metrics where they disagree."""
    if pair.tau is None or pair.tau >= DISAGREEMENT:
        return None
    first, second = (title_of_scores(scores[id]) for id in pair.metrics)
    how = "against each other" if pair.tau < -DISAGREEMENT else "differently"
    tau, *ends = (decimal(one, 2) for one in (pair.tau, *(pair.interval or ())))
    spread = ", 95 % [{}, {}]".format(*ends) if ends else ""
    return (
        f"{first} and {second} order these images {how}: Kendall's tau {tau}{spread}; "
        "look at the captions on which they disagree before trusting either"
    )


def title_of_scores(scores: Scores) -> str:
    """The metric as papers write it."""
    return scores.title or scores.metric


def comparable(metric: str, values: Doubles) -> Doubles:
    """Per-image scores [n] of which equal ones are equal: what is no difference is none.

    A BLEU without a common n-gram is 0, not the stand-in of its smoothing, and scores that rounding
    alone tells apart are equal.
    """
    rounded = np.round(values, 9)
    if metric.startswith("bleu_"):
        rounded[rounded < _BLEU_ZERO] = 0.0
    return rounded
