"""metrics.json against records.jsonl: the figures that the records determine, computed again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from captune import text
from captune.runs import map_metrics, records
from captune.runs import metrics as figures
from captune.runs.kinds import KINDS
from captune.runs.prompt_metrics import PromptsMetrics
from captune.runs.reader import Run
from captune.statistics import holm, mcnemar_exact, wilson
from captune_metrics.display import printable, shorten

# their corpus figure is the mean over the images; BLEU's is not
_MEANS = ("cider", "cider_original", "clipscore", "ref_clipscore", "rouge_l", "clipscore_hw3")
_TOLERANCE = 1e-6
ABSENT: Any = object()


class Difference(NamedTuple):
    """Two JSON values differ. place: where, a JSON pointer. A value may be `ABSENT`."""

    place: str
    then: Any
    now: Any


def differences(
    then: Any,
    now: Any,
    tolerance: Callable[[str], float] = lambda place: 0.0,
    *,
    part: bool = False,
    place: str = "",
) -> Iterator[Difference]:
    """Where two JSON values differ.

    tolerance: of the numbers at a place, relative for those above 1. part: `now` may leave out keys
    of objects and the ends of lists.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in now if part else dict.fromkeys([*then, *now]):
            inner = f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}"
            values = then.get(key, ABSENT), now.get(key, ABSENT)
            yield from differences(*values, tolerance, part=part, place=inner)
    elif _are_lists(then, now) and (len(then) >= len(now) if part else len(then) == len(now)):
        for i, (one, other) in enumerate(zip(then, now, strict=False)):
            yield from differences(one, other, tolerance, part=part, place=f"{place}/{i}")
    elif _is_number(then) and _is_number(now):
        if not _is_close(then, now, tolerance(place)):
            yield Difference(place, then, now)
    elif then is ABSENT or now is ABSENT or then != now:
        yield Difference(place, then, now)


def as_shown(value: Any) -> str:
    """A value of a difference in a sentence."""
    return "absent" if value is ABSENT else printable(shorten(text.plain(value), 80))


def check_records(run: Run) -> Iterator[str]:
    """A sentence for each figure of metrics.json that the run's own records do not bear out.

    Raises DamagedRun.
    """
    shown = printable(run.folder)
    for place, then, now in differences(run.metrics, recount(run), lambda _: _TOLERANCE, part=True):
        values = as_shown(then), as_shown(now)
        yield f"{shown}: metrics.json has {values[0]} at {place}, its records give {values[1]}"


def recount(run: Run) -> dict[str, Any]:
    """The part of metrics.json that the records determine. Raises DamagedRun."""
    if run.metrics.get("sharded"):
        return {}  # they are a sample
    found = list(run.typed_records(records.Record))
    count = _RECOUNTS.get(run.kind)
    more = {} if count is None else count(run.typed_metrics(KINDS[run.kind].metrics), found)
    return {"images": len(found), **more}


def _classify(found: Sequence[records.ClassifyRecord]) -> dict[str, Any]:
    known = [record for record in found if record.truth is not None]
    correct = sum(record.top[0].id == record.truth for record in known)
    counts: dict[str, Any] = {"scored": len(known), "correct": correct}
    if known:
        interval = list(wilson(correct, len(known)))
        counts["prompts"] = [{"accuracy": correct / len(known), "interval": interval}]
    return counts


def _prompts(metrics: PromptsMetrics, found: Sequence[records.PromptsRecord]) -> dict[str, Any]:
    known = [record for record in found if record.truth is not None]
    if not known or metrics.best is None:
        return {}
    correct = [
        [record.answers[i].id == record.truth for record in known]
        for i in range(len(metrics.prompts))
    ]
    rows: list[dict[str, Any]] = []
    p_values = {}
    for i, ours in enumerate(correct):
        low, high = wilson(sum(ours), len(known))
        accuracy = sum(ours) / len(known)
        rows.append({"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high})
        if i != metrics.best:
            pairs = Counter(zip(ours, correct[metrics.best], strict=True))
            gained, lost = pairs[True, False], pairs[False, True]
            rows[i] |= {"gained": gained, "lost": lost}
            p_values[i] = mcnemar_exact(gained, lost)
    for i, p in zip(p_values, holm(list(p_values.values())), strict=True):
        rows[i]["p_holm"] = p
    return {"prompts": rows}


def _tune(metrics: figures.TuneMetrics, found: Sequence[records.TuneRecord]) -> dict[str, Any]:
    """The records of a tune are those of its best method."""
    scores = [record.scores for record in found]
    if metrics.tuned is not None:
        return {"tuned": {"scores": _means(metrics.tuned.scores, scores)}}
    return {
        "methods": [
            {"scores": _means(one.scores, scores)} if one.method == metrics.best else {}
            for one in metrics.methods
        ]
    }


def _caption(
    metrics: figures.CaptionMetrics, found: Sequence[records.CaptionRecord]
) -> dict[str, Any]:
    words = sum(len(record.words) for record in found)
    ended = sum(record.ended for record in found)
    counts = {"ended": ended, "words_mean": words / max(1, len(found))}
    if metrics.agreement_mean is not None:
        chances = math.fsum(record.agreement or 0 for record in found)
        counts["agreement_mean"] = chances / max(1, len(found))
    if metrics.flagged is not None:
        counts["flagged"] = sum(record.flagged is True for record in found)
    return counts


def _captioners(
    metrics: figures.CaptionersMetrics, found: Sequence[records.CaptionersRecord]
) -> dict[str, Any]:
    said = [{side.caption for side in record.captions.values()} for record in found]
    scores = {
        name: _means(one.scores, [record.captions[name].scores for record in found])
        for name, one in metrics.captioners.items()
    }
    return {
        "alike": sum(len(captions) == 1 for captions in said),
        "scored": sum(all(one.scores for one in record.captions.values()) for record in found),
        "captioners": {name: {"scores": means} for name, means in scores.items()},
    }


def _score(metrics: figures.ScoreMetrics, found: Sequence[records.ScoreRecord]) -> dict[str, Any]:
    return {"metrics": _means(metrics.metrics, [record.scores for record in found])}


def _compare(
    metrics: figures.CompareMetrics, found: Sequence[records.CompareRecord]
) -> dict[str, Any]:
    a = _means(metrics.metrics, [record.a.scores for record in found])
    b = _means(metrics.metrics, [record.b.scores for record in found])
    counts: dict[str, Any] = {"metrics": {id: {"a": a[id], "b": b[id]} for id in a}}
    if metrics.changed_captions is not None:
        counts["changed_captions"] = sum(one.a.caption != one.b.caption for one in found)
    return counts


def _explain(
    metrics: map_metrics.ExplainMetrics, found: Sequence[records.ExplainRecord]
) -> dict[str, Any]:
    words = [word for record in found for word in record.words]
    marks = Counter(word.faithfulness.mark for word in words if word.faithfulness is not None)
    return {"words": len(words), "marks": {**dict.fromkeys(metrics.marks, 0), **marks}}


def _means(
    metrics: Mapping[str, Any], rows: Sequence[Mapping[str, float | None]]
) -> dict[str, dict[str, float]]:
    """Metric id -> the corpus figure, of metrics that have a score of some image."""
    columns = {
        id: [value for row in rows if (value := row.get(id)) is not None]
        for id in metrics
        if id in _MEANS
    }
    return {
        id: {"corpus": math.fsum(column) / len(column)} for id, column in columns.items() if column
    }


_RECOUNTS: dict[str, Callable[[Any, Any], dict[str, Any]]] = {
    "classify": lambda metrics, found: _classify(found),
    "prompts": _prompts,
    "tune": _tune,
    "caption": _caption,
    "captioners": _captioners,
    "score": _score,
    "compare": _compare,
    "explain": _explain,
    # records are of the images reported on; others were there to choose the map by
    "faithful": lambda metrics, found: {"images": max(metrics.images, len(found))},
}


def _are_lists(then: Any, now: Any) -> bool:
    return isinstance(then, list | tuple) and isinstance(now, list | tuple)


def _is_close(then: float, now: float, tolerance: float) -> bool:
    try:
        return math.isclose(then, now, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # a whole number beyond all floats
        return then == now


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
