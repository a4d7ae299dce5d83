"""A comparison of prompts, read back from its run folder for its figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.runs import Run
from captune.statistics import Interval
from captune.statistics.calibration import Calibration, Reliability, ReliabilityBin
from captune.zeroshot.comparison import AgainstBest, TemplateComparison, TemplateResult
from captune.zeroshot.negation import NegationProbe, Share

Integers = NDArray[np.intp]


def read_comparison(run: Run) -> tuple[TemplateComparison, list[NegationProbe]]:
    """What `captune prompts` compared, and its probes of the word "not". Raises DamagedRun."""
    return _comparison(run), [_probe(row) for row in run.metrics["negation"]]


def _comparison(run: Run) -> TemplateComparison:
    metrics = run.metrics
    records = list(run.records())
    names: Mapping[str, str] = metrics.get("label_names") or {}
    # what no image is and no prompt says has no place in a figure
    met = {answer["id"] for record in records for answer in record["answers"]}
    met |= {record["truth"] for record in records if record.get("truth") is not None}
    ids = list(names) or sorted(met)
    place = {id: i for i, id in enumerate(ids)}
    known_ids = [record.get("truth") for record in records]
    truth = np.array([-1 if id is None else place[id] for id in known_ids], dtype=np.intp)
    known = truth >= 0
    results = tuple(
        _result(i, row, records, place, truth, metrics) for i, row in enumerate(metrics["prompts"])
    )
    templates = [result.template for result in results]
    ensemble = len(templates) - 1 if templates[-1].startswith("ensemble of these ") else None
    return TemplateComparison(
        labels=tuple(names.get(id, id) for id in ids),
        results=results,
        images=len(records),
        known=int(known.sum()),
        best=metrics["best"],
        ensemble=ensemble,
        class_images=np.bincount(truth[known], minlength=len(ids)) if known.any() else None,
        agreement=np.array(metrics["agreement"], dtype=np.float64),
    )


def _result(
    index: int,
    row: Mapping[str, Any],
    records: list[dict[str, Any]],
    place: Mapping[str, int],
    truth: Integers,
    metrics: Mapping[str, Any],
) -> TemplateResult:
    answers = [record["answers"][index] for record in records]
    predicted = np.array([place[answer["id"]] for answer in answers], dtype=np.intp)
    confidence = np.array([answer["probability"] for answer in answers], dtype=np.float32)
    if row["accuracy"] is None:
        return TemplateResult(row["template"], predicted, confidence)
    correct = (predicted == truth) & (truth >= 0)
    return TemplateResult(
        template=row["template"],
        predicted=predicted,
        confidence=confidence,
        correct=correct,
        accuracy=row["accuracy"],
        interval=Interval(row["accuracy_low"], row["accuracy_high"]),
        top5_accuracy=row["top5_accuracy"],
        class_correct=np.bincount(truth[correct], minlength=len(place)),
        calibration=_calibration(metrics["calibration"][index]),
        against_best=None if row["difference"] is None else _against(row),
    )


def _against(row: Mapping[str, Any]) -> AgainstBest:
    return AgainstBest(
        gained=row["gained"],
        lost=row["lost"],
        difference=row["difference"],
        interval=Interval(row["difference_low"], row["difference_high"]),
        p_value=row["p_value"],
        p_holm=row["p_holm"],
    )


def _calibration(content: Mapping[str, Any] | None) -> Calibration | None:
    if content is None:
        return None
    raw, scaled = (_reliability(content.get(name)) for name in ("raw", "scaled"))
    assert raw is not None
    return Calibration(raw, content.get("temperature"), scaled)


def _reliability(content: Mapping[str, Any] | None) -> Reliability | None:
    if content is None:
        return None
    bins = tuple(ReliabilityBin(**_fields(ReliabilityBin, one)) for one in content["bins"])
    nll = math.nan if content["nll"] is None else content["nll"]
    return Reliability(**{**_fields(Reliability, content), "bins": bins, "nll": nll})


def _fields(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the class has; a newer captune may write more."""
    return {field.name: content[field.name] for field in dataclasses.fields(kind)}


def _probe(row: Mapping[str, Any]) -> NegationProbe:
    def share(name: str) -> Share | None:
        value, images = row[name], row["images"]
        if value is None:
            return None
        ends = Interval(row[f"{name}_low"], row[f"{name}_high"])
        return Share(round(value * images), images, value, ends)

    same, wins = share("same_answer"), share("denial_wins")
    assert same is not None
    assert wins is not None
    return NegationProbe(
        template=row["template"],
        negated=row["negated"],
        images=row["images"],
        same_answer=same,
        right_answer=share("right_answer"),
        denial_wins=wins,
        denial_wins_elsewhere=row["denial_wins_elsewhere"],
        text_cosine=row["text_cosine"],
        class_cosine=row["class_cosine"],
    )
