"""Shards are handed out until each has a report, whoever dies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from captune.errors import UserError
from captune.shards.driver import READY, Dead, hand_out
from captune.shards.manifest import DONE, Claims, Report
from captune.shards.places import Place
from captune.shards.shard import Shard


class Scripted:
    """A worker on another machine, which claims as one does and dies over what `deadly` names."""

    def __init__(self, out: Place, deadly: set[str]) -> None:
        self.out, self.deadly = out, deadly
        self.says: list[Any] = [READY]
        self.asked: list[tuple[str, str | None]] = []
        self.has_ended = False

    def ask(self, shard: Shard, upcoming: Shard | None) -> None:
        self.asked.append((shard.stem, upcoming and upcoming.stem))
        claims = Claims(self.out)
        tries = claims.take(shard.stem)
        elsewhere = {"host": "elsewhere", "pid": 1, "at": 9e9, "tries": tries}
        self.out.write(f"{shard.stem}.claim", json.dumps(elsewhere).encode())
        if tries is None:
            self.says.append(Report(shard.stem, "claimed"))
        elif shard.stem in self.deadly and tries < 2:
            self.says.append(Dead("killed"))
        else:
            self.out.remove(f"{shard.stem}.claim")
            self.says.append(Report(shard.stem, DONE))

    def end(self) -> None:
        self.has_ended = True


def hear(workers: Sequence[Scripted]) -> Iterator[tuple[Scripted, Any]]:
    one = next(worker for worker in workers if worker.says)
    yield one, one.says.pop(0)


def test_what_a_dead_worker_had_is_done_by_another(tmp_path: Path) -> None:
    out = Place.of(tmp_path)
    made: list[Scripted] = []

    def start(place: int) -> Scripted:
        made.append(Scripted(out, {"2"}))
        return made[-1]

    shards = [Shard(str(n), f"{n}.tar") for n in range(6)]
    reports = list(hand_out(out, shards, 2, start, hear))
    assert sorted(report.stem for report in reports) == list("012345")
    assert {report.status for report in reports} == {DONE}
    assert len(made) == 4  # two of them ended over the third shard
    assert ("0", "1") in made[0].asked
    assert sum(worker.has_ended for worker in made) == 2


def test_workers_that_cannot_begin_are_one_sentence(tmp_path: Path) -> None:
    def start(place: int) -> Scripted:
        worker = Scripted(Place.of(tmp_path), set())
        worker.says = [Dead("status -9")]
        return worker

    with pytest.raises(UserError, match="before it had its model"):
        list(hand_out(Place.of(tmp_path), [Shard("0", "0.tar")], 1, start, hear))
