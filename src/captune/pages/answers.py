"""A classification's records, counted once: confusions, confidence, what is hard."""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from captune.pages.figures import sample_names
from captune.pages.numbers import Source
from captune.pages.settings import Settings

if TYPE_CHECKING:
    from captune.statistics.calibration import Reliability

SAMPLED = 8


@dataclass
class Found:
    """A classification's records, counted once.

    records: the first of them, for the gallery. confusion: (truth id, answer id) -> images.
    hardest: (how wrong, -place, record), the worst first. confidence, correct: of images with a
    truth.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    names: dict[str, str] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    hardest: list[tuple[float, int, dict[str, Any]]] = field(default_factory=list)
    sampled: list[dict[str, Any]] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    correct: list[bool] = field(default_factory=list)


def find(source: Source, settings: Settings) -> Found:
    """Read a classification's records. Raises DamagedRun."""
    found = Found()
    wanted = _sampled(source)
    for place, record in enumerate(source.run.records()):
        _count(found, place, record, wanted, settings)
    found.hardest.sort(reverse=True)
    return found


def _count(
    found: Found, place: int, record: dict[str, Any], wanted: set[str], settings: Settings
) -> None:
    top, truth = record["top"], record.get("truth")
    first = top[0]
    for item in top:
        found.names.setdefault(str(item["id"]), str(item["name"]))
    sure = min(1.0, float(first["probability"]))  # float32 rounds above 1
    if truth is None:
        second = float(top[1]["probability"]) if len(top) > 1 else 0.0
        difficulty = second - sure  # the smaller the lead, the harder
    else:
        found.names.setdefault(str(truth), str(record.get("truth_name") or truth))
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
    found.images += 1


def _sampled(source: Source) -> set[str]:
    """The images of the run's own top-5 figures, where it drew any; else a few."""
    names = [record["path"] for record in source.run.records()]
    wanted, seed = asked_top5(source, names)
    return set(sample_names(names, wanted, seed)[: 2 * SAMPLED])


def asked_top5(source: Source, names: Sequence[str]) -> tuple[list[str], int]:
    """Which top-5 figures the run was asked for, as `--top5` takes it, and the seed; else a few."""
    asked = source.option("top5", list, [])
    words = [word for word in asked if isinstance(word, str)]
    known = [word for word in words if word in names or re.fullmatch("[0-9]{1,9}", word)]
    return known or [str(SAMPLED)], max(0, source.option("seed", int, 0))


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
        images=len(confidence),
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
