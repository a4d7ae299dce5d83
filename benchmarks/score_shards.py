"""A million captions in shards are scored with intervals in flat memory.

    python benchmarks/score_shards.py                   1,000,000 captions, in shards of 10,000
    python benchmarks/score_shards.py --images 100000

Made-up captions of eight words of a thousand, one reference each, against the table of COCO.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captune.options.scoring import ScoreOptions
from captune.scoring.sharded import score_shards

SHARD = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as place:
        out, references = Path(place) / "out", Path(place) / "references"
        write(out, references, images // SHARD)
        marks: list[float] = []
        options = ScoreOptions(
            candidates=out, references=references, df="coco-val2017", metrics="bleu,rouge_l,cider"
        )
        began = time.monotonic()
        scored, count, intervals = score_shards(options, out, Marking(marks))
        seconds = time.monotonic() - began
    tenth = marks[max(0, len(marks) // 10 - 1)]
    print(f"{count:,} captions in {seconds:.0f} s: {count / seconds:,.0f} a second")
    print(f"peak memory {tenth:.0f} MB at a tenth, {marks[-1]:.0f} MB at the end")
    for id, score in scored.scores.items():
        print(f"{id}: {score.corpus:.4f} {intervals[id]}")


def write(out: Path, references: Path, shards: int) -> None:
    chance = random.Random(0)
    words = [f"w{n}" for n in range(1000)]
    out.mkdir()
    references.mkdir()
    (out / "_captune.json").write_text("{}")
    for shard in range(shards):
        for place in (out, references):
            keys = [f"{shard:05d}{n:05d}" for n in range(SHARD)]
            captions = [" ".join(chance.choices(words, k=8)) for _ in keys]
            table = pa.table({"key": keys, "caption": captions})
            pq.write_table(table, place / f"{shard:05d}.parquet")


class Marking:
    """A progress that notes the most memory so far, in MB, with each shard."""

    def __init__(self, marks: list[float]) -> None:
        self.marks = marks

    @contextmanager
    def bar(self, *_: Any) -> Any:
        def advance(*_: Any) -> None:
            self.marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)

        yield advance

    def message(self, sentence: str) -> None:
        pass


if __name__ == "__main__":
    main()
