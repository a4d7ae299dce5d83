"""Where the time of a short command goes, beside the bare import of what it needs.

    python benchmarks/startup.py            about 3 minutes on 2 cores
    python benchmarks/startup.py --quick    one round

Every measurement is a whole process. A command and the import take turns; the table holds the
shortest of the rounds, and the least processor time, which other work on the machine hardly
touches. Python's compiled files are kept, as they are for users, wherever the environment says not
to. `score` computes for most of its time, so it is held against the same scores by the library
alone. Then each command runs once more with `-X importtime`, which makes it slower: the shares of
its time are of that run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from limits import in_turn
from metric_contenders import made_up
from synthetic import write_images

BARE = {
    "--help": "import argparse, dataclasses, importlib.metadata, json, logging, pathlib",
    "classify": "import torch",
    "caption": "import torch; from transformers import LlamaForCausalLM",
}
PARTS = ("torch", "transformers", "captune")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    rounds = 1 if arguments.quick else 5
    load = os.getloadavg()[0]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        commands = prepare(Path(folder))
        seconds = measure(commands, rounds)
        shares = {name: shares_of(words) for name, words in commands.items()}
    if arguments.json:
        print(json.dumps({"load": load, "seconds": seconds, "shares": shares}))
        return 0
    print(f"{os.cpu_count()} cores, load {load:.1f} before; the shortest of {rounds} rounds\n")
    print("| captune | s | processor s | beside | s | processor s | ratio | of processor time |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (own, bare) in seconds.items():
        (wall, busy), (bare_wall, bare_busy) = (
            map(min, zip(*way, strict=True)) for way in (own, bare)
        )
        beside = f"`{BARE[name]}`" if name in BARE else "captune_metrics alone"
        print(
            f"| {name} | {wall:.2f} | {busy:.2f} | {beside} | {bare_wall:.2f} | {bare_busy:.2f}",
            end="",
        )
        print(f" | {wall / bare_wall:.2f} | {busy / bare_busy:.2f} |")
    stages = list(next(iter(shares.values())))
    print("\n| captune |", " | ".join(stages), "|\n|---|" + "---|" * len(stages))
    for name, of_stages in shares.items():
        total = sum(of_stages.values())
        print(
            f"| {name} |", " | ".join(f"{value / total:.0%}" for value in of_stages.values()), "|"
        )
    return 0


def prepare(folder: Path) -> dict[str, list[str]]:
    """The commands; one image, and 5,000 captions with five references each."""
    (image,) = write_images(folder, 1)
    scored = made_up(5_000, 5)
    for part in ("candidates", "references"):
        (folder / f"{part}.json").write_text(json.dumps(scored[part]))
    candidates, references = (str(folder / f"{part}.json") for part in scored)
    return {
        "--help": ["--help"],
        "classify": ["classify", str(image), "--labels", "dog,cat", "--offline"],
        "caption": ["caption", str(image), "--offline"],
        "score": ["score", candidates, "--references", references],
    }


def measure(
    commands: dict[str, list[str]], rounds: int
) -> dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]]:
    """(seconds, processor seconds) of each command, and of what it is held against.

    A first round fills caches.
    """
    found: dict[str, Any] = {name: ([], []) for name in commands}
    for number in range(rounds + 1):
        for name, words in commands.items():
            bare = (
                ["-c", BARE[name]]
                if name in BARE
                else ["-m", "captune_metrics", words[1], words[3]]
            )
            for way in in_turn((0, 1), number):
                took = run(bare if way else ["-m", "captune", *words])
                if number:
                    found[name][way].append(took)
    return found


def run(words: list[str]) -> tuple[float, float]:
    """(seconds, processor seconds of user and system) of a whole process."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, busy


def shares_of(words: list[str]) -> dict[str, float]:
    """Seconds of each stage. Loading ends where the command opens its bar."""
    imports: defaultdict[str, float] = defaultdict(float)
    loaded = at_bar = 0.0
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "captune", *words],
        env=os.environ | {"CAPTUNE_PROGRESS": "json"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("{") and not at_bar:
                at_bar, loaded = time.perf_counter() - start, sum(imports.values())
            name = line.rpartition("|")[2].strip()
            own = line.removeprefix("import time:").split("|")[0].strip()
            if own.isdecimal():
                package = name.partition(".")[0].partition("_")[0]
                imports[package if package in PARTS else "other"] += int(own) / 1e6
    whole = time.perf_counter() - start
    at_bar, loaded = (at_bar, loaded) if at_bar else (whole, sum(imports.values()))
    return {
        **{f"import {part}": imports[part] for part in (*PARTS, "other")},
        "until the first image": at_bar - loaded,
        "the rest": whole - at_bar - (sum(imports.values()) - loaded),
    }


if __name__ == "__main__":
    sys.exit(main())
