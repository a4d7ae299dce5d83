"""The kinds of runs in the order of a page, each with the types of its files: what is accepted.

A reader gets the JSON itself once it was held against these types. What they do not name is passed
over, so a newer captune may add to it; what is shown and never computed with may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from captune.json_yaml import require
from captune.runs import map_metrics, records
from captune.runs import metrics as figures
from captune.runs.metrics import QUOTED
from captune.runs.prompt_metrics import PromptsMetrics
from captune_metrics.display import shorten

T = TypeVar("T")
_ELSEWHERE = "[...]"  # msgspec's place for a key of a mapping
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "nothing",
}


@dataclass(frozen=True)
class Kind:
    """Types of a line of records.jsonl and of metrics.json.

    title: what a page about such runs is called. section: the module that says what a page says of
    them (see `captune.pages.sections`). check: raises ValueError for a line that does not belong to
    the metrics. models: how many run.json has to name.
    """

    record: type[msgspec.Struct]
    metrics: type[msgspec.Struct]
    title: str = ""
    section: str = ""
    check: Callable[[Any, Any], None] = lambda record, metrics: None
    models: int = 0


def _check_prompts(record: records.PromptsRecord, metrics: PromptsMetrics) -> None:
    n = len(metrics.prompts)
    require(len(record.answers) == n, f"it has {len(record.answers)} answers to {n} prompts")
    known = metrics.label_names
    if known:
        ids = {answer.id for answer in record.answers} | {record.truth or next(iter(known))}
        require(ids <= known.keys(), "it has a label that metrics.json does not name")


def _check_tune(record: records.TuneRecord, metrics: figures.TuneMetrics) -> None:
    tuned = metrics.tuned or next(one for one in metrics.methods if one.method == metrics.best)
    for id in QUOTED:
        known = id not in tuned.scores or record.scores.get(id) is not None
        require(known, f"scores has no {id}")


def _check_compare(record: records.CompareRecord, metrics: figures.CompareMetrics) -> None:
    for name, side in (("a", record.a), ("b", record.b)):
        for id in metrics.metrics:
            require(id in side.scores, f"{name}.scores has no {id}")


def _check_captioners(record: records.CaptionersRecord, metrics: figures.CaptionersMetrics) -> None:
    names = metrics.captioners.keys()
    require(record.captions.keys() == names, "captions are of other captioners")


_OWN = "captune.pages.sections."
# in the order of a page
KINDS = {
    "classify": Kind(
        records.ClassifyRecord, figures.ClassifyMetrics, "recognition", _OWN + "classify", models=1
    ),
    "prompts": Kind(
        records.PromptsRecord,
        PromptsMetrics,
        "prompts",
        _OWN + "prompts",
        _check_prompts,
        models=1,
    ),
    "tune": Kind(records.TuneRecord, figures.TuneMetrics, "tuning", _OWN + "tune", _check_tune),
    "caption": Kind(
        records.CaptionRecord, figures.CaptionMetrics, "captions", _OWN + "captions", models=1
    ),
    "captioners": Kind(
        records.CaptionersRecord,
        figures.CaptionersMetrics,
        "comparison",
        _OWN + "captioners",
        _check_captioners,
    ),
    "score": Kind(records.ScoreRecord, figures.ScoreMetrics, "captions", _OWN + "captions"),
    "compare": Kind(
        records.CompareRecord,
        figures.CompareMetrics,
        "comparison",
        _OWN + "compare",
        _check_compare,
    ),
    "explain": Kind(
        records.ExplainRecord, map_metrics.ExplainMetrics, "explanations", _OWN + "explain"
    ),
    "faithful": Kind(
        records.FaithfulRecord, map_metrics.FaithfulMetrics, "explanations", _OWN + "faithful"
    ),
}


def convert(value: Any, kind: type[T]) -> T:
    """`value`, a JSON value, as this type. Raises ValueError, a phrase with the place in it."""
    try:
        return msgspec.convert(value, kind, dec_hook=_as_path)
    except msgspec.ValidationError as error:
        what, place = _parted(error)
        while _ELSEWHERE in place:
            found = _with_key(value, kind, what, place)
            if found is None:
                break
            place = found
        raise ValueError(_phrase(what, place.removeprefix("."))) from None


def _as_path(kind: type[Any], value: Any) -> Any:
    """Options hold paths, JSON texts."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `str`, got `{type(value).__name__}`")


def _parted(error: msgspec.ValidationError) -> tuple[str, str]:
    what, _, place = str(error).rpartition(" - at `$")
    return (what, place.removesuffix("`")) if what else (str(error), "")


def _with_key(value: Any, kind: type[Any], what: str, place: str) -> str | None:
    """`place` with the first key that msgspec leaves out: on that one alone it fails too."""
    before, _, after = place.partition(_ELSEWHERE)
    steps = [int(m[2]) if m[2] else m[1] for m in _STEP.finditer(before)]
    inner = value
    for step in steps:
        inner = inner[step]
    for key in inner:
        try:
            msgspec.convert(_replaced(value, steps, {key: inner[key]}), kind, dec_hook=_as_path)
        except msgspec.ValidationError as error:
            if _parted(error) == (what, place):
                shown = shorten(key, 80)
                return f"{before}.{shown}{after}"
    return None


def _replaced(value: Any, steps: list[Any], inner: Any) -> Any:
    """A copy of `value` with `inner` at the place to which `steps` lead."""
    if not steps:
        return inner
    copy = value.copy()
    copy[steps[0]] = _replaced(value[steps[0]], steps[1:], inner)
    return copy


def _phrase(what: str, place: str) -> str:
    """`prompts[0].accuracy: expected a number, found a text`."""
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing:
        return f"{place or 'it'} has no {missing[1]}"
    told = re.sub(r"matching regex .*", "without a zero byte", what)
    told = re.sub(r"`([^`]+)`", lambda match: " or ".join(_in_words(match[1])), told)
    told = (
        told.replace(", got ", ", found ")
        .replace("of length >= ", "of at least ")
        .replace(">= ", "of at least ")
        .replace("<= ", "up to ")
    )
    told = told[:1].lower() + told[1:]
    return f"{place}: {told}" if place else told


def _in_words(types: str) -> Iterator[str]:
    return (_WORDS.get(name, name) for name in types.split(" | "))
