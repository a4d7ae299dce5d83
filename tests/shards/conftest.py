from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from captune.options.recognition import ClassifyOptions
from captune.shards.manifest import Report, Work
from captune.shards.shard import Shard
from captune.shards.work import Worker


def here(work: Work, shards: Sequence[Shard], options: Any) -> Iterator[Report]:
    """An engine without a process of its own, for models that a test has put in place."""
    worker = Worker(work)
    try:
        for shard, upcoming in zip(shards, [*shards[1:], None], strict=True):
            yield worker.do(shard, upcoming)
    finally:
        worker.close()


@pytest.fixture
def in_process(colours: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands compute shards here, with the scripted colour model."""
    monkeypatch.setattr("captune.jobs.shards.run_local", here)
    for module in ("models.load", "shards.answers"):
        monkeypatch.setattr(f"captune.{module}.load_model", lambda spec, **how: colours)


@pytest.fixture
def classify_options() -> Callable[..., ClassifyOptions]:
    def made(*images: object, out: Path, **more: Any) -> ClassifyOptions:
        words = [str(image) for image in images]
        return ClassifyOptions(images=words, labels="red,green,blue", out=out, **more)

    return made


def rows_of(out: Path, stem: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"{stem}.parquet").to_pylist()  # type: ignore[no-any-return]
