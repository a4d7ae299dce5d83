"""Where the time of a short command goes, beside the bare import of what it needs.

    python benchmarks/startup.py            about 3 minutes on 2 cores
    python benchmarks/startup.py --quick    one round

Every measurement is a whole process. A command and the import take turns; the table holds the
shortest of the rounds. Then each command runs once more with `-X importtime`, which makes it
slower: the shares of its time are of that run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from limits import in_turn
from metric_contenders import made_up
from synthetic import write_images

BARE = {
    "--help": "import argparse, dataclasses, importlib.metadata, json, logging, pathlib",
    "classify": "import torch",
    "caption": "import torch; from transformers import LlamaForCausalLM",
    "score": "import numpy, rapidfuzz",
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
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        commands = prepare(Path(folder))
        seconds = measure(commands, rounds)
        shares = {name: shares_of(words) for name, words in commands.items()}
    if arguments.json:
        print(json.dumps({"load": load, "seconds": seconds, "shares": shares}))
        return 0
    print(f"{os.cpu_count()} cores, load {load:.1f} before; the shortest of {rounds} rounds\n")
    print("| captune | s | bare import | s | ratio |")
    print("|---|---|---|---|---|")
    for name, (own, bare) in seconds.items():
        print(f"| {name} | {min(own):.2f} | `{BARE[name]}` | {min(bare):.2f} |", end="")
        print(f" {min(own) / min(bare):.2f} |")
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
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of each command, and of its bare import; a first round fills caches."""
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in commands}
    for number in range(rounds + 1):
        for name, words in commands.items():
            for way in in_turn((0, 1), number):
                what = ["-c", BARE[name]] if way else ["-m", "captune", *words]
                start = time.perf_counter()
                subprocess.run([sys.executable, *what], stdout=subprocess.DEVNULL, check=True)
                if number:
                    found[name][way].append(time.perf_counter() - start)
    return found


def shares_of(words: list[str]) -> dict[str, float]:
    """Seconds of each stage. Loading ends where the command opens its bar."""
    imports: Counter[str] = Counter()
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
                at_bar, loaded = time.perf_counter() - start, imports.total()
            name = line.rpartition("|")[2].strip()
            own = line.removeprefix("import time:").split("|")[0].strip()
            if own.isdecimal():
                package = name.partition(".")[0].partition("_")[0]
                imports[package if package in PARTS else "other"] += int(own) / 1e6
    whole = time.perf_counter() - start
    at_bar, loaded = (at_bar, loaded) if at_bar else (whole, imports.total())
    return {
        **{f"import {part}": imports[part] for part in (*PARTS, "other")},
        "until the first image": at_bar - loaded,
        "the rest": whole - at_bar - (imports.total() - loaded),
    }


if __name__ == "__main__":
    sys.exit(main())
