"""A score run as its readers need it: metrics, agreement and images, typed by `runs.kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captune.files import quoted
from captune.runs import Run
from captune.runs.reader import RECORDS, damaged


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


# (tau, interval) by the two metrics
Taus = Mapping[frozenset[str], tuple[float, list[float] | None]]


def read_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """Metric id -> name (or None), corpus, interval (or None where not known), recipe."""
    return {
        id: {
            "name": entry["name"],
            "corpus": entry["corpus"],
            "interval": _interval(entry["interval"]),
            "recipe": entry["recipe"],
        }
        for id, entry in run.metrics["metrics"].items()
    }


def read_agreement(run: Run) -> Taus:
    """Kendall's tau of two metrics with its interval, for those that have one."""
    agreement = run.metrics.get("agreement")
    return {
        frozenset(pair["metrics"]): (pair["tau"], _interval(pair["interval"]))
        for pair in ([] if agreement is None else agreement["pairs"])
        if pair["tau"] is not None
    }


def _interval(ends: list[float | None] | None) -> list[float] | None:
    """An interval with two ends, or none."""
    known = [end for end in ends or () if end is not None]
    return known if len(known) == 2 else None


def read_pairs(run: Run, by: str) -> tuple[list[Pair], list[str]]:
    """The images with a score by a metric, not ranked yet, and the ids of those without.

    Raises DamagedRun for damaged records and for an image that stands in two of them.
    """
    pairs: dict[str, Pair] = {}
    unscored: dict[str, None] = {}
    for number, record in enumerate(run.records(), 1):
        image = record["image"]
        if image in pairs or image in unscored:
            twice = f"line {number}: image {quoted(image)} stands twice"
            raise damaged(run.folder, RECORDS, twice)
        pair = _pair(record)
        if by in pair.scores:
            pairs[image] = pair
        else:
            unscored[image] = None
    return list(pairs.values()), list(unscored)


def _pair(record: dict[str, Any]) -> Pair:
    known = {id: float(score) for id, score in record["scores"].items() if score is not None}
    references = tuple(record.get("references", ()))
    path = record.get("path") or None
    return Pair(0, record["image"], path, record["caption"], references, known)
