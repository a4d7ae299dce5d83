"""A comparison read back from the run folder of `captune compare`, for its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from captune.runs import Run
from captune.scoring.comparison import Comparison, MetricComparison
from captune.statistics import Interval


def read_comparison(run: Run) -> Comparison:
    """What was compared. Raises DamagedRun."""
    records = list(run.records())
    metrics = run.metrics["metrics"]
    return Comparison(
        a=run.metrics["a"],
        b=run.metrics["b"],
        captions_a={record["image"]: record["a"]["caption"] for record in records},
        captions_b={record["image"]: record["b"]["caption"] for record in records},
        references={record["image"]: record["references"] for record in records},
        metrics={id: _metric(id, found, records, len(metrics)) for id, found in metrics.items()},
    )


def _metric(
    id: str, found: Mapping[str, Any], records: Sequence[Mapping[str, Any]], compared: int
) -> MetricComparison:
    name = str(found["name"])
    return MetricComparison(
        metric=id,
        title=name.removeprefix("A ").partition("[")[0].strip() or id,
        name=name,
        a=found["a"]["corpus"],
        b=found["b"]["corpus"],
        a_interval=_interval(found["a"]["interval"]),
        b_interval=_interval(found["b"]["interval"]),
        difference=found["difference"],
        interval=_interval(found["interval"]),
        p=found["p"],
        p_holm=found["p_holm"],
        effect=found["effect_size"],
        detectable=found["detectable_difference"],
        finding=found["finding"],
        metrics_compared=compared,
        images=[record["image"] for record in records],
        raw_a=np.array([record["a"]["scores"][id] for record in records], dtype=np.float64),
        raw_b=np.array([record["b"]["scores"][id] for record in records], dtype=np.float64),
    )


def _interval(ends: Sequence[float] | None) -> Interval | None:
    return None if ends is None else Interval(*ends)
