"""A classification's records, counted once: confusions, confidence, what is hard."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from captune.report.figures import sample_names
from captune.report.given import DAMAGE, records_of
from captune.report.numbers import Source
from captune.report.settings import Settings

if TYPE_CHECKING:
    from captune.statistics.calibration import Reliability

SAMPLED = 8


@dataclass
class Found:
    """A classification's records, counted once.

    records: the first of them, for the gallery. confusion: (truth id, answer id) -> photos.
    hardest: (how wrong, -place, record), the worst first. confidence, correct: of photos with a
    truth.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    photos: int = 0
    names: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    hardest: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    sampled: list[dict[str, Any]] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)


def find(source: Source, settings: Settings) -> Found:
    """Read a classification's records. Raises UserError for damaged ones."""
    found = Found()
    wanted = _sampled(source)
    try:
        for place, record in enumerate(records_of(source)):
            _count(found, place, record, wanted, settings)
    except DAMAGE:
        raise source.damaged(f"records.jsonl: line {found.photos + 1} is no answer") from None
    found.hardest.sort(reverse=True)
    return found


def _count(
    found: Found, place: int, record: dict[str, Any], wanted: set[str], settings: Settings
) -> None:
    top, truth = record["top"], record.get("truth")
    first = top[0]
    for item in top:
        found.names.setdefault(str(item["id"]), str(item["name"]))
    sure = float(first["probability"])
    if truth is None:
        second = float(top[1]["probability"]) if len(top) > 1 else 0.0
        difficulty = second - sure  # the smaller the lead, the harder
    else:
        found.names.setdefault(str(truth), str(record.get("truth_name", truth)))
        found.confusion[str(truth), str(first["id"])] += 1
        found.confidence.append(sure)
        found.correct.append(first["id"] == truth)
        difficulty = sure if first["id"] != truth else -1.0
    found.answers[str(first["id"])] += 1
    if truth is None or difficulty >= 0:
        item = (difficulty, -place, record)
        if len(found.hardest) < 2 * settings.top:
            heapq.heappush(found.hardest, item)
        else:
            heapq.heappushpop(found.hardest, item)
    if record["path"] in wanted:
        found.sampled.append(record)
    if len(found.records) < settings.limit:
        found.records.append(record)
    found.photos += 1


def _sampled(source: Source) -> set[str]:
    """The photos of the run's own top-5 figures, where it drew any; else a few."""
    options = source.run.about["options"]
    names = [str(record.get("path")) for record in records_of(source)]
    asked = options.get("top5") or [str(SAMPLED)]
    seed = options.get("seed")
    chosen = sample_names(names, list(map(str, asked)), seed if isinstance(seed, int) else 0)
    return set(chosen[: 2 * SAMPLED])


def ids_of(found: Found) -> list[str]:
    """The classes that are in the confusions, numbers by their size."""
    return sorted({id for pair in found.confusion for id in pair}, key=_numeric)


def reliability_of(found: Found) -> Reliability:
    """How far confidence and accuracy lie apart.

    Of the label put first: the probability of the truth, which a likelihood would need, need not be
    in the records, so `nll` is no number.
    """
    from captune.statistics.calibration import (
        Reliability,
        ece_floor,
        expected_calibration_error,
        reliability_bins,
    )

    confidence, correct = np.array(found.confidence), np.array(found.correct)
    bins = reliability_bins(confidence, correct)
    of_equal_mass = reliability_bins(confidence, correct, equal="mass")
    return Reliability(
        photos=len(confidence),
        ece=expected_calibration_error(bins),
        adaptive_ece=expected_calibration_error(of_equal_mass),
        ece_floor=ece_floor(confidence),
        nll=float("nan"),
        mean_confidence=float(confidence.mean()),
        accuracy=float(correct.mean()),
        bins=bins,
    )


def _numeric(id: str) -> tuple[int, int, str]:
    return (0, int(id), id) if id.isdecimal() else (1, 0, id)
