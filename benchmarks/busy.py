"""A busy machine: each command alone and beside one computing process, with captune's settings.

    python benchmarks/busy.py            about 15 minutes on 2 cores
    python benchmarks/busy.py --quick    one round of less work

Each measurement is a whole process. captune's settings of torch's threads (`captune/threads.py`)
and libgomp's own take turns, in an order that rotates, each alone and then beside a loop of Python.
All else that the machine does only adds to a time: the table holds the shortest of the rounds.
`--spins N` adds a way with GOMP_SPINCOUNT=N, `--commands caption,tune` takes some of the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from captune.threads import VARIABLES
from limits import in_turn
from metric_contenders import made_up
from synthetic import write_images

OWN = "captune"
WAYS = {OWN: {}, "libgomp": {"GOMP_SPINCOUNT": "300000"}}  # what libgomp does if nobody says more
COMMANDS = ("classify", "caption", "tune", "score")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of less work")
    parser.add_argument("--rounds", type=int, help="how often each is measured (3)")
    parser.add_argument("--spins", type=int, nargs="*", default=[], help="further ways")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="some of the commands")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    ways = WAYS | {str(spins): {"GOMP_SPINCOUNT": str(spins)} for spins in arguments.spins}
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        commands = prepare(Path(folder), 8 if arguments.quick else 32)
        asked = {name: commands[name] for name in arguments.commands.split(",")}
        seconds = measure(asked, ways, rounds)
    if arguments.json:
        print(json.dumps({"load": load, "seconds": seconds}))
        return 0
    print(
        f"{os.cpu_count()} cores, load {load:.1f} before; the shortest of {rounds} rounds, in s\n"
    )
    print("| command | threads as | alone | beside | speed kept | time of libgomp: alone, beside |")
    print("|---|---|---|---|---|---|")
    for name, of_ways in seconds.items():
        alone, beside = (min(of_ways["libgomp"][where]) for where in ("alone", "beside"))
        for way, found in of_ways.items():
            own, other = min(found["alone"]), min(found["beside"])
            print(
                f"| {name} | {way} | {own:.1f} | {other:.1f} | {own / other:.0%}"
                f" | {own / alone:.2f}, {other / beside:.2f} |"
            )
    return 0


def prepare(folder: Path, count: int) -> dict[str, list[str]]:
    """The commands on `count` images; what they compute once is in the cache already."""
    images = folder / "images"
    paths = write_images(images, count)
    captions = {path.name: f"a picture of {number} colours" for number, path in enumerate(paths)}
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"image": n, "caption": c}) + "\n" for n, c in captions.items())
    )
    scored = made_up(5_000, 5)
    for part in ("candidates", "references"):
        (folder / f"{part}.json").write_text(json.dumps(scored[part]))
    told = str(folder / "train.jsonl")
    tune = ["tune", str(images), "--captions", told, "--val-captions", told, "--epochs", "1"]
    score = ["score", str(folder / "candidates.json"), "--references"]
    commands = {
        "classify": ["classify", str(images), "--labels", "dog,cat,house,tree", "--no-cache"],
        "caption": ["caption", str(images), "--predictions", str(folder / "captions.json")],
        "tune": [*tune, "--out", str(folder / "tuned"), "--overwrite"],
        "score": [*score, str(folder / "references.json")],
    }
    for words in commands.values():
        run(words, {})
    return commands


def measure(
    commands: dict[str, list[str]], ways: dict[str, dict[str, str]], rounds: int
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Command -> way -> "alone" and "beside" -> seconds of each round."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {way: defaultdict(list) for way in ways} for name in commands
    }
    for number in range(rounds):
        for name, words in commands.items():
            for way in in_turn(list(ways), number):
                found[name][way]["alone"].append(run(words, ways[way]))
                with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
                    found[name][way]["beside"].append(run(words, ways[way]))
                    other.kill()
    return found


def run(words: list[str], settings: dict[str, str]) -> float:
    """Seconds of a whole process; settings: all that its environment says of threads."""
    left_out = (*VARIABLES, "PYTHONDONTWRITEBYTECODE")  # users keep compiled files
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "captune", *words, "--offline", "--json"],
        env=environment | settings,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
