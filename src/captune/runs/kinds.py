"""The kinds of runs in the order of a page, each with the types of its files.

A reader gets the JSON itself once it was held against these types. What they do not name is passed
over, so a newer captune may add to it; what is shown and never computed with may be anything.
`captune verify` holds metrics.json against records.jsonl (`reader.check_records`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from captune.json_yaml import require
from captune.runs import evaluation, records
from captune.runs import metrics as figures
from captune.runs.metrics import QUOTED, PromptsMetrics

# their corpus figure is the mean over the images; BLEU's is not
_MEANS = ("cider", "cider_original", "clipscore", "ref_clipscore", "rouge_l", "clipscore_hw3")


@dataclass(frozen=True)
class Kind:
    """Types of a line of records.jsonl and of metrics.json.

    title: what a page about such runs is called. section: the module (or MODULE:NAME) that says
    what a page says of them (see `captune.pages.sections`). recount: the part of the metrics that
    all the records determine, computed again. check: raises ValueError for a line that does not
    belong to the metrics. models: how many run.json has to name.
    """

    record: type[msgspec.Struct]
    metrics: type[msgspec.Struct]
    title: str = ""
    section: str = ""
    recount: Callable[[Any, Any], dict[str, Any]] = lambda metrics, found: {}
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


def _check_compare(record: records.CompareRecord, metrics: evaluation.CompareMetrics) -> None:
    for name, side in (("a", record.a), ("b", record.b)):
        for id in metrics.metrics:
            require(id in side.scores, f"{name}.scores has no {id}")


def _check_captioners(
    record: records.CaptionersRecord, metrics: evaluation.CaptionersMetrics
) -> None:
    names = metrics.captioners.keys()
    require(record.captions.keys() == names, "captions are of other captioners")


def _recount_classify(_: Any, found: Sequence[records.ClassifyRecord]) -> dict[str, Any]:
    from captune.statistics import wilson  # numpy, which refusals do without

    known = [record for record in found if record.truth is not None]
    correct = sum(record.top[0].id == record.truth for record in known)
    counts: dict[str, Any] = {"scored": len(known), "correct": correct}
    if known:
        interval = list(wilson(correct, len(known)))
        counts["prompts"] = [{"accuracy": correct / len(known), "interval": interval}]
    return counts


def _recount_prompts(
    metrics: PromptsMetrics, found: Sequence[records.PromptsRecord]
) -> dict[str, Any]:
    from captune.statistics import holm, mcnemar_exact, wilson

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


def _recount_tune(
    metrics: figures.TuneMetrics, found: Sequence[records.TuneRecord]
) -> dict[str, Any]:
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


def _recount_caption(
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


def _recount_captioners(
    metrics: evaluation.CaptionersMetrics, found: Sequence[records.CaptionersRecord]
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


def _recount_score(
    metrics: evaluation.ScoreMetrics, found: Sequence[records.ScoreRecord]
) -> dict[str, Any]:
    return {"metrics": _means(metrics.metrics, [record.scores for record in found])}


def _recount_compare(
    metrics: evaluation.CompareMetrics, found: Sequence[records.CompareRecord]
) -> dict[str, Any]:
    a = _means(metrics.metrics, [record.a.scores for record in found])
    b = _means(metrics.metrics, [record.b.scores for record in found])
    counts: dict[str, Any] = {"metrics": {id: {"a": a[id], "b": b[id]} for id in a}}
    if metrics.changed_captions is not None:
        counts["changed_captions"] = sum(one.a.caption != one.b.caption for one in found)
    return counts


def _recount_explain(
    metrics: evaluation.ExplainMetrics, found: Sequence[records.ExplainRecord]
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


def _recount_faithful(
    metrics: evaluation.FaithfulMetrics, found: Sequence[records.FaithfulRecord]
) -> dict[str, Any]:
    # records are of the images reported on; others were there to choose the map by
    return {"images": max(metrics.images, len(found))}


_OWN = "captune.pages.sections."
# in the order of a page
KINDS = {
    "classify": Kind(
        records.ClassifyRecord,
        figures.ClassifyMetrics,
        "recognition",
        _OWN + "classify",
        _recount_classify,
        models=1,
    ),
    "prompts": Kind(
        records.PromptsRecord,
        PromptsMetrics,
        "prompts",
        _OWN + "prompts",
        _recount_prompts,
        _check_prompts,
        models=1,
    ),
    "tune": Kind(
        records.TuneRecord, figures.TuneMetrics, "tuning", _OWN + "tune", _recount_tune, _check_tune
    ),
    "caption": Kind(
        records.CaptionRecord,
        figures.CaptionMetrics,
        "captions",
        _OWN + "captions",
        _recount_caption,
        models=1,
    ),
    "captioners": Kind(
        records.CaptionersRecord,
        evaluation.CaptionersMetrics,
        "comparison",
        _OWN + "compare:captioners",
        _recount_captioners,
        _check_captioners,
    ),
    "score": Kind(
        records.ScoreRecord, evaluation.ScoreMetrics, "captions", _OWN + "captions", _recount_score
    ),
    "compare": Kind(
        records.CompareRecord,
        evaluation.CompareMetrics,
        "comparison",
        _OWN + "compare",
        _recount_compare,
        _check_compare,
    ),
    "explain": Kind(
        records.ExplainRecord,
        evaluation.ExplainMetrics,
        "explanations",
        _OWN + "maps",
        _recount_explain,
    ),
    "faithful": Kind(
        records.FaithfulRecord,
        evaluation.FaithfulMetrics,
        "explanations",
        _OWN + "maps:LEADERBOARD",
        _recount_faithful,
    ),
}
