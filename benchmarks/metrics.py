"""Caption metrics: captune and its peers on the same captions, in one run.

    python benchmarks/metrics.py            about 8 minutes on 2 cores
    python benchmarks/metrics.py --quick    about a minute and a half

COCO val2017 (5,000 images, the first caption of each against the others) where the shared data is,
else made-up captions of as many words. Every measurement is a process of its own that loads the
captions, imports the library, and then times the work: captune pays for building its tokenizer,
pycocoevalcap for starting Java. The contenders take turns in an order that rotates.
A peer that is not installed is named and left out; --peer-python runs the peers in another venv.
language-evaluation has no row: its CIDEr, BLEU and ROUGE-L are pycocoevalcap's files, line by line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from metric_contenders import (
    CONTENDERS,
    REWARD_BATCH,
    WORK,
    Captions,
    coco_or_made_up,
    made_up,
)

MB = 1e6
LEFT_OUT = 3  # exit status of a process whose library is not installed
TASKS = {
    "all": "PTB + CIDEr-D + BLEU + ROUGE-L",
    "cider": "CIDEr-D of tokenised captions",
    "bleu": "BLEU-1 to 4 of tokenised captions",
    "rouge_l": "ROUGE-L of tokenised captions",
}


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int = 5
    starts: int = 9
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000)
    reward_batches: int = 300


QUICK = Plan(rounds=1, starts=3, sizes=(1_000, 10_000), reward_batches=60)


def main() -> int:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, up to 10,000 images")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="the Python that has peers"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--captions", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--amount", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return be_measured(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        runner = Runner(Path(folder), arguments.peer_python)
        result = measure(runner, QUICK if arguments.quick else Plan())
    result["seconds"] = round(time.perf_counter() - started)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)
    return 0


def measure(runner: Runner, plan: Plan) -> dict[str, Any]:
    """All figures."""
    captions, source = coco_or_made_up()
    runner.write(captions)
    figures: dict[str, dict[str, list[dict[str, Any]]]] = {task: {} for task in CONTENDERS}
    for number in range(plan.rounds):
        for task, names in CONTENDERS.items():
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                done = runner.run(f"{task}: {name}")
                if done is not None:
                    figures[task].setdefault(name, []).append(done)
        say(f"round {number + 1}/{plan.rounds} of the contenders")
    growth = []
    for size in plan.sizes:
        growth.append(runner.run("growth: captune", size))
        say(f"{size:,} images")
    return {
        "source": source,
        "images": len(captions["candidates"]),
        "references": sum(map(len, captions["references"].values())),
        "machine": machine(),
        "tasks": {
            task: {name: [run["seconds"] for run in runs] for name, runs in found.items()}
            for task, found in figures.items()
        },
        "processes_s": {
            name: [run["process_s"] for run in runs] for name, runs in figures["all"].items()
        },
        "parts": median_parts(figures["all"]["captune"]),
        "differences": differences(figures),
        "left_out": sorted(runner.left_out),
        "growth": growth,
        "reward": runner.run("reward: captune", plan.reward_batches),
        "floor": runner.run("floor: numpy"),
        "starts_s": starts(runner.folder, plan.starts),
    }


class Runner:
    """Starts the measured processes, one at a time."""

    def __init__(self, folder: Path, peer_python: str) -> None:
        self.folder = folder
        self.peer_python = peer_python
        self.left_out: set[str] = set()

    def write(self, captions: Captions) -> None:
        """The captions as every process reads them; tokenised too, for those that only score."""
        from captune_metrics.corpus import Corpus

        corpus = Corpus(captions["candidates"], captions["references"])
        stops = [*corpus.starts.tolist()[1:], len(corpus.texts)]
        bounds = list(zip(corpus.images, corpus.starts.tolist(), stops, strict=True))
        captions["tokenised_candidates"] = {id: corpus.texts[a] for id, a, _ in bounds}
        captions["tokenised_references"] = {id: corpus.texts[a + 1 : b] for id, a, b in bounds}
        (self.folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")

    def run(self, work: str, amount: int = 0) -> dict[str, Any] | None:
        """What the process measured; None where its library is not installed."""
        peer = work.split(": ")[1] not in ("captune", "numpy")
        answer = self.folder / "answer.json"
        command = [self.peer_python if peer else sys.executable, __file__, "--work", work]
        command += ["--captions", str(self.folder / "captions.json"), "--answer", str(answer)]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--amount", str(amount)], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode == LEFT_OUT:
            self.left_out.add(f"{work.split(': ')[1]}: {done.stderr.strip().splitlines()[-1]}")
            return None
        if done.returncode:
            raise SystemExit(f"{work}: {done.stderr}")
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return {**found, "process_s": seconds}


def be_measured(arguments: argparse.Namespace) -> int:
    """Do one piece of work and write down how it went."""
    captions = json.loads(arguments.captions.read_text(encoding="utf-8"))
    try:
        answer = WORK[arguments.work](captions, arguments.amount)
    except ImportError as error:
        print(f"not installed ({error})", file=sys.stderr)
        return LEFT_OUT
    except FileNotFoundError as error:
        print(f"cannot run ({error})", file=sys.stderr)
        return LEFT_OUT
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    answer["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    arguments.answer.write_text(json.dumps(answer), encoding="utf-8")
    return 0


def median_parts(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The middle value of each part."""
    return {
        name: statistics.median(run["parts"][name] for run in runs) for name in runs[0]["parts"]
    }


def differences(figures: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, dict[str, float]]:
    """The largest difference of an image's score from captune's: peer -> metric -> difference."""
    found: dict[str, dict[str, float]] = {}
    for contenders in figures.values():
        ours = contenders["captune"][0]["values"]
        for name, runs in contenders.items():
            for metric, values in runs[0]["values"].items():
                if name != "captune":
                    largest = float(np.abs(np.subtract(values, ours[metric])).max())
                    found.setdefault(name, {})[metric] = largest
    return found


def starts(folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds of a bare start of Python, of numpy, of our metrics and of the commands."""
    some = made_up(300, 5)
    files = [folder / "pred.json", folder / "refs.json"]
    for file, captions in zip(files, some.values(), strict=True):
        file.write_text(json.dumps(captions), encoding="utf-8")
    score = ["-m", "captune_metrics", *map(str, files)]
    commands = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import captune_metrics.cider_d": ["-c", "import captune_metrics.cider_d"],
        "python -m captune_metrics, 300 images": score,
        "without intervals": [*score, "--no-interval"],
        "captune score --help": ["-m", "captune", "score", "--help"],
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(times):
        for name, words in commands.items():
            start = time.perf_counter()
            done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
            if done.returncode == 0:
                seconds.setdefault(name, []).append(time.perf_counter() - start)
    return seconds


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        processor = names[0] if names else processor
    return {
        "cores": os.cpu_count(),
        "processor": processor,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "rapidfuzz": version("rapidfuzz"),
        "pycocoevalcap": version("pycocoevalcap") if find_spec("pycocoevalcap") else None,
    }


def say(line: str) -> None:
    """Progress, out of the way of what is printed."""
    print(line, file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The middle value, and the lowest and highest."""
    middle = f"{statistics.median(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(result: dict[str, Any]) -> None:
    """Tables for people, in Markdown."""
    about = result["machine"]
    print(
        f"{result['source']}: {result['images']:,} candidates, {result['references']:,} references;"
        f" {about['cores']} cores ({about['processor']}), load {about['load']:.1f}, Python "
        f"{about['python']}, numpy {about['numpy']}, rapidfuzz {about['rapidfuzz']}, "
        f"pycocoevalcap {about['pycocoevalcap']}; {result['seconds']} s in all"
    )
    print("\n| | | seconds (lowest to highest) | times captune's |\n|---|---|---|---|")
    for task, found in result["tasks"].items():
        own = found["captune"]
        for name, values in found.items():
            ratios = [value / base for value, base in zip(values, own, strict=True)]
            times = "" if name == "captune" else spread(ratios, 1)
            print(f"| {TASKS[task]} | {name} | {spread(values)} | {times} |")
    for name, values in result["processes_s"].items():
        print(f"| the whole process, all of them | {name} | {spread(values)} | |")
    print()
    for name, scores in result["differences"].items():
        largest = ", ".join(f"{metric} {value:.1e}" for metric, value in scores.items())
        print(f"Largest difference of an image's score, captune and {name}: {largest}.")
    for line in result["left_out"]:
        print(f"Left out: {line}.")
    found = {name for contenders in result["tasks"].values() for name in contenders}
    if "torchmetrics" in found:
        print("torchmetrics: the corpus figure only; its ROUGE-L is Google's. It has no CIDEr.")
    if "aac-metrics" in found:
        print(
            "aac-metrics splits ROUGE-L's words at any white space, coco-caption at single spaces."
        )
    show_limit(result)
    show_growth(result["growth"])
    show_reward(result["reward"])
    print("\n| start of | ms (lowest to highest) |\n|---|---|")
    for name, values in result["starts_s"].items():
        print(f"| {name} | {spread([1e3 * value for value in values], 0)} |")


def show_limit(result: dict[str, Any]) -> None:
    """Where captune's time goes, and what no program on numpy could leave out."""
    parts, floor = result["parts"], result["floor"]["parts"]
    print("\n| captune's time goes to | ms |\n|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {1e3 * seconds:.0f} |")
    scoring = sum(parts.values()) - parts["tokenising"]
    least = sum(floor.values())
    bare = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in floor.items())
    print(
        f"\nThe limit: {bare}; {1e3 * least:.0f} ms together. Without tokenising captune takes "
        f"{1e3 * scoring:.0f} ms, {scoring / least:.1f} times that."
    )


def show_growth(growth: Sequence[dict[str, Any]]) -> None:
    """Time and memory as the images grow."""
    print(
        "\n| made-up images, 6 captions each | s | of it tokenising | us an image |"
        " peak MB | MB beside the captions | kB an image |\n|---|---|---|---|---|---|---|"
    )
    for run in growth:
        images, own = run["images"], run["peak"] - run["before"]
        print(
            f"| {images:,} | {run['seconds']:.2f} | {run['parts']['tokenising']:.2f} "
            f"| {1e6 * run['seconds'] / images:.0f} | {run['peak'] / MB:.0f} "
            f"| {own / MB:.0f} | {own / images / 1e3:.1f} |"
        )


def show_reward(reward: dict[str, Any]) -> None:
    """What a training step pays."""
    print("\n| the reward, 5 indexed references a candidate | ms (5 % to 95 %) |\n|---|---|")
    for size in (REWARD_BATCH, 16 * REWARD_BATCH):
        low, middle, high = (1e3 * seconds for seconds in reward[str(size)])
        print(
            f"| {size} candidates, tokenising included | {middle:.1f} ({low:.1f} to {high:.1f}) |"
        )
    for name, seconds in reward["parts"].items():
        print(f"| once: {name} ({reward['indexed']:,} images) | {1e3 * seconds:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
