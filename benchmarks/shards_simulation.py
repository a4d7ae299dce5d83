"""How large a shard should be: one and ten million images on 64 workers, by discrete events.

    python benchmarks/shards_simulation.py                  about a minute
    python benchmarks/shards_simulation.py --faults 0.5     a worker dies every half hour

A worker takes the next shard as soon as it is free. A shard takes START ms that do not depend on
its size (claim, table, statistics: benchmarks/shards.py measures them) and the time of its images.
How long an image takes differs by shard (lognormal) and by worker: one in fifty computes at a third
of the rate. A worker dies at random; the shard that it was at is lost and is next in the queue, and
another worker is there after its start. Reading takes no time: it runs ahead of the model.

Rates are of one worker: a large captioner, a small one, an embedder on a GPU. `over the least` is
the time until all is done over that of 64 workers without any loss; the lost work is of all images.
The default is the size that is least behind the best one where it is furthest behind.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
import sys
from collections import deque
from dataclasses import asdict, dataclass

from captune.options.shards import SHARD_SIZE

JOBS, WORKERS = (1_000_000, 10_000_000), 64
SIZES = (100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
RATES = (10, 100, 500)  # images a second of one worker
SLOW_WORKERS, SLOWER = 0.02, 3.0


@dataclass(frozen=True)
class Assumed:
    """start_ms: of a shard; spread: of the logarithm of a shard's time; restart_s: of a worker.

    faults_h: hours between the deaths of one worker.
    """

    start_ms: float
    spread: float
    restart_s: float
    faults_h: float


@dataclass
class Outcome:
    """seconds until all is done; images computed in vain; deaths of workers."""

    seconds: float
    lost: float = 0.0
    deaths: int = 0


@dataclass
class Line:
    """Of the table: means of the runs; lost: images."""

    images: int
    rate: int
    size: int
    seconds: float
    deaths: float
    lost: float
    over: float


def simulate(images: int, size: int, rate: float, assumed: Assumed, seed: int) -> Outcome:
    """One job."""
    draw = random.Random(seed)
    queue = deque(
        min(size, images - start) * draw.lognormvariate(0, assumed.spread)
        for start in range(0, images, size)
    )
    rates = [rate / SLOWER if draw.random() < SLOW_WORKERS else rate for _ in range(WORKERS)]
    deaths = [draw.expovariate(1 / (3600 * assumed.faults_h)) for _ in range(WORKERS)]
    free = [(0.0, worker) for worker in range(WORKERS)]  # a heap
    at_work: list[tuple[float, int, float]] = []  # a heap as well: end, worker, the shard if lost
    outcome = Outcome(0.0)
    while queue or at_work:
        # a shard comes back only when its worker has died: what ends first is looked at first
        if at_work and (not queue or not free or at_work[0][0] <= free[0][0]):
            end, worker, lost = heapq.heappop(at_work)
            outcome.seconds = max(outcome.seconds, end)
            if lost:
                queue.appendleft(lost)
                deaths[worker] = end + assumed.restart_s
                deaths[worker] += draw.expovariate(1 / (3600 * assumed.faults_h))
                end += assumed.restart_s
            heapq.heappush(free, (end, worker))
            continue
        now, worker = heapq.heappop(free)
        shard = queue.popleft()
        end = now + assumed.start_ms / 1000 + shard / rates[worker]
        if deaths[worker] < end:
            outcome.deaths += 1
            outcome.lost += max(0.0, deaths[worker] - now) * rates[worker]
            heapq.heappush(at_work, (max(now, deaths[worker]), worker, shard))
        else:
            heapq.heappush(at_work, (end, worker, 0.0))
    return outcome


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=float, default=200.0, help="ms of any shard (200)")
    parser.add_argument("--spread", type=float, default=0.1, help="of a shard's time (0.1)")
    parser.add_argument("--restart", type=float, default=30.0, help="s until one is back (30)")
    parser.add_argument("--faults", type=float, default=2.0, help="hours a worker lives (2)")
    parser.add_argument("--runs", type=int, default=8, help="seeds (8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    assumed = Assumed(arguments.start, arguments.spread, arguments.restart, arguments.faults)
    lines = []
    for images in JOBS:
        for rate in RATES:
            least = images / WORKERS / rate
            for size in SIZES:
                runs = [simulate(images, size, rate, assumed, n) for n in range(arguments.runs)]
                seconds, deaths, lost = (
                    statistics.mean(getattr(run, name) for run in runs)
                    for name in ("seconds", "deaths", "lost")
                )
                line = Line(images, rate, size, seconds, deaths, lost, seconds / least)
                lines.append(line)
    chosen, behind = least_behind(lines)
    if arguments.json:
        print(json.dumps({"lines": [asdict(line) for line in lines], "chosen": chosen}))
        return 0
    print("| images | images/s of a worker | images of a shard | minutes | over the least", end="")
    print(" | deaths | lost work |\n|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line.images:,} | {line.rate} | {line.size:,} | {line.seconds / 60:.1f}"
            f" | {line.over:.3f} | {line.deaths:.1f} | {line.lost / line.images:.2%} |"
        )
    told = ", ".join(f"{size:,}: {ratio:.2f}" for size, ratio in behind.items())
    print(f"\nFurthest behind the best size, as a ratio: {told}")
    print(f"The default by this: {chosen:,} images; in the code: {SHARD_SIZE:,}")
    return 0


def least_behind(lines: list[Line]) -> tuple[int, dict[int, float]]:
    """The chosen size; and of each size, how far it is behind where it is furthest behind."""
    best: dict[tuple[int, int], float] = {}
    for line in lines:
        case = line.images, line.rate
        best[case] = min(line.over, best.get(case, line.over))
    behind = dict.fromkeys(SIZES, 0.0)
    for line in lines:
        ratio = line.over / best[line.images, line.rate]
        behind[line.size] = max(behind[line.size], ratio)
    return min(behind, key=behind.__getitem__), behind


if __name__ == "__main__":
    sys.exit(main())
