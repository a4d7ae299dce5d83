"""A score run as its readers need it: metrics, agreement and images, every type checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captune.errors import UserError
from captune.files import json_kind, printable, quoted
from captune.runs import Run


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with its caption.

    rank: 1 is the best, each rank once; 0 before they are ranked. path: relative to the folder of
    the photos, None where it is unknown. scores: metric id -> score of this image, without those
    that it has none of.
    """

    rank: int
    image: str
    path: str | None
    caption: str
    references: tuple[str, ...]
    scores: Mapping[str, float]


# what reading and converting damaged records ends in; 10**400 is no float, and brackets nest
_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError),
    RecursionError,
)
# (tau, interval) by the two metrics
Taus = Mapping[frozenset[str], tuple[float, list[float] | None]]


def read_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """Metric id -> name (or None), corpus, interval (or None where not known), recipe.

    Raises UserError where metrics.json names no metric or is damaged.
    """
    metrics = run.metrics.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise UserError(f"{_shown(run)}: metrics.json names no metric; score it again")
    found = {}
    for id, entry in metrics.items():
        if not isinstance(entry, dict):
            raise _damaged(run, f"metric {quoted(id)} is {json_kind(entry)}")
        name, recipe = entry.get("name"), entry.get("recipe")
        if not isinstance(name, str | None) or not isinstance(recipe, dict | None):
            raise _damaged(run, f"the name or the recipe of metric {quoted(id)} is something else")
        try:
            corpus, interval = _number(entry.get("corpus")), _interval(entry.get("interval"))
        except _DAMAGE:
            raise _damaged(run, f"the figures of metric {quoted(id)} are no numbers") from None
        found[id] = {"name": name, "corpus": corpus, "interval": interval, "recipe": recipe or {}}
    return found


def read_agreement(run: Run) -> Taus:
    """Kendall's tau of two metrics with its interval, for those that have one.

    Raises UserError where metrics.json is damaged.
    """
    found: dict[frozenset[str], tuple[float, list[float] | None]] = {}
    agreement = run.metrics.get("agreement")
    try:
        for pair in [] if agreement is None else agreement["pairs"]:
            first, second = pair["metrics"]
            tau = _number(pair["tau"])
            if tau is not None:
                found[frozenset((first, second))] = (tau, _interval(pair["interval"]))
    except _DAMAGE:
        raise _damaged(run, "its agreement of metrics is not what captune writes") from None
    return found


def read_pairs(run: Run, by: str) -> tuple[list[Pair], list[str]]:
    """The images with a score by a metric, not ranked yet, and the ids of those without.

    Raises UserError for damaged records and for an image that stands in two of them.
    """
    pairs: dict[str, Pair] = {}
    unscored: dict[str, None] = {}
    try:
        for record in run.records():
            image = record["image"]
            if image in pairs or image in unscored:
                raise UserError(
                    f"{_shown(run)}: {_line(pairs, unscored)}: image {quoted(image)} stands twice;"
                    " score it again"
                )
            pair = _pair(record)
            if by in pair.scores:
                pairs[image] = pair
            else:
                unscored[image] = None
    except _DAMAGE as error:
        raise _unreadable(run, pairs, unscored) from error
    return list(pairs.values()), list(unscored)


def _pair(record: dict[str, Any]) -> Pair:
    scores = {metric: _number(score) for metric, score in record["scores"].items()}
    image, caption, path = record["image"], record["caption"], record.get("path")
    references = tuple(record.get("references", ()))
    if not all(isinstance(text, str) for text in (image, caption, path or "", *references)):
        raise TypeError
    known = {metric: score for metric, score in scores.items() if score is not None}
    return Pair(0, image, path or None, caption, references, known)


def _number(value: Any) -> float | None:
    """A finite number as float, None for what is no score; an error for what is no number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    number = float(value)
    return number if math.isfinite(number) else None


def _interval(value: Any) -> list[float] | None:
    if value is None:
        return None
    low, high = map(_number, value)
    return None if low is None or high is None else [low, high]


def _shown(run: Run) -> str:
    return printable(str(run.folder))


def _damaged(run: Run, what: str) -> UserError:
    return UserError(f"{_shown(run)}: metrics.json is damaged ({what}); score it again")


def _line(*read: Mapping[str, Any]) -> str:
    return f"line {sum(map(len, read)) + 1} of records.jsonl"


def _unreadable(run: Run, *read: Mapping[str, Any]) -> UserError:
    where = _line(*read) if any(read) else "records.jsonl"
    return UserError(f"{_shown(run)}: {where} cannot be read as scores of images; score it again")
