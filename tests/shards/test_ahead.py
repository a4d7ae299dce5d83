"""Reading runs ahead of the model: a slow store does not starve it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captune.options.recognition import ClassifyOptions
from captune.shards import work
from captune.shards.manifest import DONE, Work
from captune.shards.places import Place
from captune.shards.shard import find_shards, open_shard
from tests.shards import toy


@pytest.mark.usefixtures("colours")
def test_the_next_shard_is_read_while_one_is_computed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    classify_options: Callable[..., ClassifyOptions],
) -> None:
    events: list[tuple[str, str]] = []

    def slowly(shard: Any) -> Any:
        events.append(("reading", shard.stem))
        time.sleep(0.2)
        events.append(("read", shard.stem))
        return open_shard(shard)

    monkeypatch.setattr(work, "open_shard", slowly)
    shards = find_shards(list(map(str, toy.write_tars(tmp_path / "in", 3))))
    options = classify_options(tmp_path / "in", out=tmp_path / "out")
    worker = work.Worker(Work("classify", options, Place.of(tmp_path / "out")))
    compute = worker._compute

    def slow_compute(shard: Any, opened: Any) -> Any:
        time.sleep(0.4)
        events.append(("computed", shard.stem))
        return compute(shard, opened)

    monkeypatch.setattr(worker, "_compute", slow_compute)
    upcoming = [*shards[1:], None]
    reports = [worker.do(*one) for one in zip(shards, upcoming, strict=True)]
    worker.close()
    assert [report.status for report in reports] == [DONE] * 3
    for before, after in (("00000", "00001"), ("00001", "00002")):
        assert events.index(("read", after)) < events.index(("computed", before))


@pytest.mark.usefixtures("colours")
def test_what_was_read_ahead_and_goes_elsewhere_is_given_back(
    tmp_path: Path, classify_options: Callable[..., ClassifyOptions]
) -> None:
    first, second, third = find_shards(list(map(str, toy.write_tars(tmp_path / "in", 3))))
    out = tmp_path / "out"
    worker = work.Worker(
        Work("classify", classify_options(tmp_path / "in", out=out), Place.of(out))
    )
    worker.do(first, second)
    assert [path.stem for path in out.glob("*.claim")] == ["00001"]
    worker.do(third, None)
    assert not list(out.glob("*.claim"))
    worker.close()
    assert sorted(path.stem for path in out.glob("*.parquet")) == ["00000", "00002"]
