"""Scores of shards of captions, added up shard by shard: memory does not grow with the images.

A shard of candidates, `STEM.parquet` with columns key and caption, is scored against the shard of
references of the same stem, such as the table that img2dataset leaves beside a tar. The figures are
those of all captions at once; with a frozen table of document frequencies CIDEr's, too. Intervals
are by the Poisson bootstrap (Chamandy et al. 2012): each image is drawn a number of times of its
own, whose mean is 1, so that nothing has to be known of the images to come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from captune.captions import CaptionFile
from captune.errors import UserError
from captune.images.dataset import loaded, row_groups_of
from captune.options.scoring import MetricOptions, ScoreOptions
from captune.options.shards import PLAN
from captune.progress import SILENT, Progress
from captune.scoring.score import ScoredCaptions, chosen_metrics, text_scores
from captune_metrics.display import Interval, named, printable
from captune_metrics.frequency import resolve_df
from captune_metrics.resampling import Doubles, mean_of_sums
from captune_metrics.scores import Scores

_MOST_RESAMPLES = 1000
_AT_ONCE = 2000  # images whose draws are held: 2 MB a thousand resamples
_CAPTIONS = ("caption", "captions", "text")


@dataclass
class _Added:
    """Sums of one metric: over all images [k], and over those of each resample [resamples, k]."""

    scores: Scores
    total: Any = 0.0
    resampled: Any = 0.0

    def add(self, scores: Scores, draws: Doubles, start: int) -> None:
        """Images from `start` on. draws: how often each is in each resample, [resamples, n]."""
        sums = scores.statistics
        if sums is None:
            sums = np.array([*scores.per_image.values()])[:, None]
        rows = sums[start : start + draws.shape[1]]
        self.total = self.total + rows.sum(axis=0)
        self.resampled = self.resampled + draws @ rows

    def scores_of(self, images: int) -> Scores:
        """Of all images."""
        corpus = float(self._figures(self.total[None], np.array([images]))[0])
        return replace(self.scores, corpus=corpus, per_image={}, statistics=None)

    def interval(self, drawn: Doubles) -> Interval | None:
        """95 %, of the resamples; drawn: how many images each has. None where there are none."""
        if not len(drawn):
            return None
        low, high = np.quantile(self._figures(self.resampled, drawn), (0.025, 0.975))
        return Interval(float(low), float(high))

    def _figures(self, sums: Doubles, images: Doubles) -> Any:
        of_sums = self.scores.of_sums or mean_of_sums
        pairs = zip(sums, images, strict=True)
        return np.array([of_sums(row[None], int(n))[0] for row, n in pairs])


def are_shards(candidates: Path | None, references: Path | None) -> bool:
    """Whether both are folders of shards with the same stems."""
    if candidates is None or references is None or not (candidates / PLAN).is_file():
        return False
    return references.is_dir() and any(references.glob("*.parquet"))


def score_shards(
    options: ScoreOptions, candidates: Path, progress: Progress = SILENT
) -> tuple[ScoredCaptions, int, dict[str, Interval | None]]:
    """The scores over all shards that both sides have, the number of images, and the intervals.

    The scores of single images are not kept. Raises UserError for what cannot be added up.
    """
    assert options.references is not None
    metrics = chosen_metrics(options.metrics, references=True, images=False)
    other = [metric.id for metric in metrics if metric.kind != "text"]
    if other:
        raise UserError(f"{named(other)}: not for shards, of which BLEU, ROUGE-L and CIDEr add up")
    df = resolve_df(options.df)
    if df is None and any(metric.id.startswith("cider") for metric in metrics):
        raise UserError(
            "--df corpus: CIDEr of shards adds up with a frozen table only, such as --df"
            " coco-val2017, or one of captune score --save-df"
        )
    stems = sorted(path.stem for path in candidates.glob("*.parquet"))
    chance = np.random.default_rng(options.seed)
    resamples = 0 if options.no_interval else min(options.resamples, _MOST_RESAMPLES)
    drawn = np.zeros(resamples)
    added: dict[str, _Added] = {}
    images = left_out = 0
    with progress.bar("scoring shards", len(stems)) as advance:
        for stem in stems:
            captions, references, without = _pairs(candidates, options.references, stem, options)
            scored = _scored(str(candidates), captions, references)
            left_out += without
            if captions:
                made = text_scores(scored, metrics, df, options, SILENT)
                added = added or {one.id: _Added(made[one.id]) for one in metrics}
                for start in range(0, len(captions), _AT_ONCE):
                    count = min(_AT_ONCE, len(captions) - start)
                    draws = chance.poisson(1.0, (resamples, count)).astype(np.float64)
                    drawn += draws.sum(axis=1)
                    for id, one in added.items():
                        one.add(made[id], draws, start)
                images += len(captions)
            advance(1)
    if not images:
        raise UserError(
            f"{printable(candidates)} has no caption whose key is in the shard of the same"
            f" name in {printable(options.references)}"
        )
    whole = {id: one.scores_of(images) for id, one in added.items()}
    result = _scored(str(candidates), {}, {})
    result.scores = whole
    result.notes.append("the intervals are by the Poisson bootstrap over shards")
    if left_out:
        result.notes.append(f"{left_out:,} captions without references are left out")
    ends = {id: one.interval(drawn) if images > 1 else None for id, one in added.items()}
    return result, images, ends


def _scored(
    source: str, captions: dict[str, str], references: dict[str, list[str]]
) -> ScoredCaptions:
    file = CaptionFile(source, "captune shards", {}, {}, "")
    return ScoredCaptions(file, None, captions, references, {})


def _pairs(
    candidates: Path, references: Path, stem: str, options: MetricOptions
) -> tuple[dict[str, str], dict[str, list[str]], int]:
    """Captions and references of a shard by key, and how many captions have none.

    A key that comes again in the candidates is another image with the same references.
    """
    known: dict[str, list[str]] = {}
    place = references / f"{stem}.parquet"
    if place.is_file():
        for key, texts in _captions_of(place, options.caption_column):
            known.setdefault(key, []).extend(texts)
    captions: dict[str, str] = {}
    own: dict[str, list[str]] = {}
    without = 0
    for key, texts in _captions_of(candidates / f"{stem}.parquet", "caption"):
        if key not in known:
            without += 1
            continue
        id = key if key not in captions else f"{key}#{len(captions)}"
        captions[id], own[id] = texts[0], known[key]
    if without and not options.ignore_extra:
        raise UserError(
            f"{printable(references)}: {stem} has no references for {without:,} captions;"
            " leave them out with --ignore-extra"
        )
    return captions, own, without


def _captions_of(path: Path, column: str | None) -> Iterator[tuple[str, list[str]]]:
    """Key and captions of each row that has some."""
    for part in row_groups_of(path):
        names = part.schema.names
        found = column or next((name for name in _CAPTIONS if name in names), "caption")
        if not {"key", found} <= {*names}:
            raise UserError(
                f"{printable(path)} has no columns key and {found}; it has {named(names)}"
            )
        for row in loaded(part, ["key", found], printable(path)).to_pylist():
            texts = [row[found]] if isinstance(row[found], str) else row[found] or []
            if texts:
                yield str(row["key"]), texts
