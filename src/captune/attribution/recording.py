"""Explanations, one after the other, into the result and the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from captune.attribution.explanation import ExplainResult, Explanation
from captune.attribution.map_files import MapWriter
from captune.options import ExplainOptions
from captune.runs import RunWriter

Say = Callable[[str], None]
OnExplanation = Callable[[Explanation], None] | None


def record_all(
    explanations: Iterable[Explanation],
    result: ExplainResult,
    options: ExplainOptions,
    *,
    root: Path,
    models: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    device: str,
    on_explanation: OnExplanation,
    check: Callable[[], None],
) -> None:
    """Count and write all; nothing is written where `check`, called at the end, raises.

    root: the folder that the images' names are relative to. models: as run.json names them.
    """
    with ExitStack() as stack:
        maps = writer = None
        if options.out is not None:
            writer = RunWriter(
                options.out,
                kind="explain",
                options=options,
                root=root,
                models=models,
                command=command,
            )
            maps = MapWriter(stack.enter_context(writer))
        for found in explanations:
            explanation = found if maps is None else maps.add(found)
            result.count(explanation.record())
            if on_explanation is not None:
                on_explanation(explanation)
        check()
        if writer is not None:
            result.run = options.out
            writer.metrics = result.metrics()
            writer.extra = {"device": device}
