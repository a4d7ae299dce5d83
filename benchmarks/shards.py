"""Shards in, shards out: what the engines cost beside the bare loop, and how they scale.

    python benchmarks/shards.py                     about 20 minutes on 2 busy cores
    python benchmarks/shards.py --quick             shards of 200, a first look
    python benchmarks/shards.py --parts engines     some of engines,store,fixed,memory,driver,scale
    python benchmarks/shards.py --parts memory --images 20000

A made-up encoder of about two milliseconds an image reads generated JPEGs of 224 to 256 pixels from
tars. Each way is a driver of its own, pinned to as many cores as it has jobs, with OMP_NUM_THREADS
at 1. The model notes the time, the processor time and the memory of its process with each batch:
rates are of the time in which all workers of a way are at work, without start and end. Processor
time says what a way costs where other processes take turns on the cores; the time of day does not.

store: a store that sleeps 100 ms before each request. fixed: what a shard takes whatever its size,
from shards of 10 and of 1,000 images. memory: a tiny encoder; the same thousand images in each tar.
driver: how much the driver alone takes with a shard, and with a million of them. scale: arithmetic
for 10 million and a billion images from --gpu-rate, --image-kb and the figures measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

PARTS = ("engines", "store", "fixed", "memory", "driver", "scale")
WAYS = ("bare", "bare", "local", "local", "ray", "ray")  # with one and two jobs in turn
LATENCY_S = 0.1
# of a shard on a store with both sides there, as the parts store and driver measure them
REQUESTS, DRIVER_KB, DRIVER_MB = 9, 0.61, 316
MB = 1e6


def main() -> int:
    """Measure and print, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller shards, one round")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of the parts")
    parser.add_argument("--rounds", type=int, help="of engines and store (2)")
    parser.add_argument("--images", type=int, default=100_000, help="of the part memory")
    parser.add_argument("--gpu-rate", type=float, default=500.0, help="images a second (500)")
    parser.add_argument("--image-kb", type=float, default=100.0, help="of an image file (100)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument("--measured", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measured:
        told = json.loads(arguments.measured)
        print(json.dumps({"bare": bare, "driver": driver}.get(told["way"], sharded)(told)))
        return 0
    size, rounds = (200, 1) if arguments.quick else (1000, 2)
    rounds = arguments.rounds or rounds
    parts = arguments.parts.split(",")
    result: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count(), "size": size}
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as name:
        folder = Path(name)
        install(folder / "site")
        if {"engines", "store"} & set(parts):
            write_tars(folder / "in", 6, size, (224, 256))
            (folder / "half").mkdir()
            for path in sorted((folder / "in").iterdir())[:3]:
                os.link(path, folder / "half" / path.name)
        if "engines" in parts:
            result["engines"] = engines(folder, rounds)
        if "store" in parts:
            result["store"] = of_store(folder, rounds, size)
        if "fixed" in parts:
            result["fixed"] = fixed(folder)
        if "memory" in parts:
            write_tars(folder / "many", arguments.images // 1000, 1000, (64, 72))
            run = drive(folder, "memory", inputs="many", jobs=2, model="tiny")
            result["memory"] = {**run, "images": arguments.images}
        if "driver" in parts:
            counts = (10_000, 100_000) if arguments.quick else (10_000, 100_000, 1_000_000)
            result["driver"] = [drive(folder, "driver", jobs=n) for n in counts]
        if "scale" in parts:
            result["scale"] = [
                scale(images, size, gpus, arguments.gpu_rate, arguments.image_kb)
                for images, size in ((10**7, 1000), (10**9, 10_000))
                for gpus in (1, 8, 64)
            ]
    result["load_after"] = os.getloadavg()[0]
    print(json.dumps(result)) if arguments.json else show(result)
    return 0


# -- the measured processes ----------------------------------------------------------------------


def sharded(told: dict[str, Any]) -> dict[str, Any]:
    """`captune embed` by an engine: what its driver and its workers noted."""
    from captune.options.recognition import EmbedOptions
    from captune.shards.driver import drive
    from captune.shards.engines import run_local, run_ray
    from captune.shards.manifest import Report, Work
    from captune.shards.shard import Shard

    name, jobs = told["way"].replace("memory", "local"), told["jobs"]
    if name == "ray":
        import ray

        ray.init(include_dashboard=False, log_to_driver=False, num_cpus=jobs)
    peaks: list[int] = []
    options = EmbedOptions(
        images=[told["inputs"]],
        out=Path(told["out"]),
        engine=name,
        jobs=jobs,
        model=f"made:{told['model']},{told['folder']}",
    )
    engine = run_ray if name == "ray" else run_local

    def noting(work: Work, missing: Sequence[Shard], options: Any) -> Iterator[Report]:
        for report in engine(work, missing, options):
            yield report
            peaks.append(peak_bytes())

    tally = drive("embed", options, noting)
    if tally.failures or tally.errors:
        raise SystemExit(f"{told}: {tally}")
    return {
        "shards": tally.done,
        "rows": tally.rows,
        "tenth": peaks[len(peaks) // 10 - 1] if len(peaks) > 9 else peaks[0],
        "end": peaks[-1],
    }


def bare(told: dict[str, Any]) -> dict[str, Any]:
    """What anybody would write: a tar, Pillow, batches of 32, one thread, one file of vectors."""
    import io
    import tarfile

    import numpy as np
    import torch
    from PIL import Image

    encoder = made_model(told["model"], Path(told["folder"])).image
    for path in sorted(Path(told["inputs"]).glob("*.tar")):
        vectors: list[Any] = []
        batch: list[Any] = []
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                image = Image.open(io.BytesIO(file.read())).convert("RGB")
                batch.append(encoder.transform(image))
                if len(batch) == 32:
                    vectors.append(encoder.encode(torch.stack(batch)))
                    batch.clear()
        if batch:
            vectors.append(encoder.encode(torch.stack(batch)))
        np.save(f"{told['out']}-{path.stem}.npy", torch.cat(vectors).numpy())
    return {}


def driver(told: dict[str, Any]) -> dict[str, Any]:
    """The driver with so many shards of a store, and an engine that at once says all is done."""
    from captune.options.recognition import EmbedOptions
    from captune.options.shards import PLAN
    from captune.shards import driver as of_shards
    from captune.shards.manifest import DONE, Report

    jobs, out = told["jobs"], Path(told["out"])
    before, began = peak_bytes(), time.process_time()
    found: dict[str, Any] = {}

    def engine(_work: Any, shards: Sequence[Any], _options: Any) -> Iterator[Any]:
        found["begun_s"] = time.process_time() - began
        return (Report(shard.stem, DONE, 1000) for shard in shards)

    options = EmbedOptions(images=[f"memory://in/{{0000000..{jobs - 1:07d}}}.tar"], out=out)
    of_shards.drive("embed", options, engine)
    used = {"peak": peak_bytes() - before, "seconds": time.process_time() - began}
    return {"shards": jobs, **used, **found, "plan": (out / PLAN).stat().st_size}


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# -- what they compute with: a backend `made:NAME,NOTES` and a store `slow://` -------------------


def install(site: Path) -> None:
    """Let the processes that start from here know the model and the store."""
    about = site / "made_models-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: made-models\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[captune.models]\nmade = shards\n[fsspec.specs]\nslow = shards:SlowStore\n"
    )
    others = [str(site), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, others))


def load(spec: Any, *_: Any, **__: Any) -> Any:
    """As a backend of captune's models."""
    name, _, notes = spec.name.partition(",")
    return made_model(name, Path(notes))


def fetch(*_: Any, **__: Any) -> list[Path]:
    """There is nothing to fetch."""
    return []


def made_model(name: str, notes: Path) -> Any:
    """`small`, some 200 million multiply-adds an image that read 1 MB of weights, or `tiny`."""
    import numpy as np
    import torch
    from PIL import Image
    from torch import nn

    from captune.models.encoders import ImageEncoder, ImageTextModel, SimilarityScale, TextEncoder

    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, wide, times = (64, 512, 30) if name == "small" else (8, 192, 0)

    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(wide, wide), nn.Linear(wide, 512)
            self.images = 0

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            tokens = pixels.flatten(1).reshape(len(pixels), -1, wide)
            for _ in range(times):
                tokens = self.layer(tokens).relu_()
            found: torch.Tensor = self.last(tokens.mean(1))
            self.images += len(pixels)
            noted = time.monotonic(), time.process_time(), self.images, peak_bytes()
            with (notes / f"{os.getpid()}.notes").open("a") as file:
                file.write(json.dumps(noted) + "\n")
            return found

    def transform(image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.resize((side, side)), dtype=np.float32) / 255
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    cpu, dtype = torch.device("cpu"), torch.float32
    image = ImageEncoder(
        Made().eval().requires_grad_(False), transform, str(side), name, 512, cpu, dtype
    )
    text = TextEncoder(nn.Embedding(2, 512), lambda texts: {}, name, 512, cpu, dtype)
    return ImageTextModel(f"made:{name}", name, None, image, text, SimilarityScale(100.0))


class SlowStore(LocalFileSystem):  # type: ignore[misc]
    """Files of this machine as a store that takes 100 ms for each request, and counts them."""

    protocol = "slow"
    root_marker = "/"

    def __init__(self, **named: Any) -> None:
        super().__init__(auto_mkdir=True, **named)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return "/" + str(path).removeprefix("slow://").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"slow://{self._strip_protocol(name)}"


_inside = threading.local()


def _asked(name: str) -> Callable[..., Any]:
    plain = getattr(LocalFileSystem, name)

    def ask(self: SlowStore, *args: Any, **named: Any) -> Any:
        if getattr(_inside, "a_request", False):  # what a local file system asks itself
            return plain(self, *args, **named)
        time.sleep(LATENCY_S)
        if (notes := os.environ.get("SLOW_NOTES")) is not None:
            with (Path(notes) / "requests").open("a") as file:
                file.write(name + "\n")
        _inside.a_request = True
        try:
            return plain(self, *args, **named)
        finally:
            _inside.a_request = False

    return ask


for _name in ("info", "ls", "cat_file", "get_file", "put_file", "pipe_file", "rm_file", "exists"):
    setattr(SlowStore, _name, _asked(_name))


def write_tars(folder: Path, count: int, images: int, sides: tuple[int, int]) -> None:
    """`count` tars, all of the same generated images under the names of one tar."""
    import tarfile

    from synthetic import write_images

    folder.mkdir()
    first = folder / "00000.tar"
    with tempfile.TemporaryDirectory(dir=folder.parent) as loose, tarfile.open(first, "w") as tar:
        for path in write_images(Path(loose), images, sides):
            tar.add(path, path.name)
    for number in range(1, count):
        os.link(first, folder / f"{number:05d}.tar")


# -- the parts -----------------------------------------------------------------------------------


def drive(
    folder: Path,
    way: str,
    *,
    inputs: str = "in",
    jobs: int = 1,
    model: str = "small",
    to: str = "",
    size: int = 0,
) -> dict[str, Any]:
    """One measured process, or `jobs` bare ones, and what the workers noted."""
    notes = Path(tempfile.mkdtemp(dir=folder))
    address = inputs if "://" in inputs else str(folder / inputs)
    told = {"way": way, "folder": str(notes), "inputs": address, "jobs": jobs, "model": model}
    words = [sys.executable, __file__, "--measured"]
    told["out"] = f"{to}{notes / 'out'}"
    cores = sorted(os.sched_getaffinity(0))[: 1 if way in ("driver", "bare") else jobs]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SLOW_NOTES": str(notes)}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    started = time.monotonic()
    if way == "bare":  # as many processes as jobs, each with its core
        chosen = sorted(os.sched_getaffinity(0))[:jobs]
        runs = [_start([*words, json.dumps(told)], environment, [core]) for core in chosen]
    else:
        runs = [_start([*words, json.dumps(told)], environment, cores)]
    said = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise SystemExit(f"the measured process {told} failed")
    result = json.loads(said[0].splitlines()[-1])
    found = _at_work(notes, size)
    asked = notes / "requests"
    result["requests"] = Counter(asked.read_text().split()) if asked.exists() else {}
    return {**result, **found, "whole_s": time.monotonic() - started}


def _start(words: list[str], environment: dict[str, str], cores: list[int]) -> Any:
    return subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def _at_work(notes: Path, size: int) -> dict[str, Any]:
    """Of the time in which all workers computed: images a second, processor ms an image, peaks.

    between_s: from the last batch of a shard of `size` images to the first one of the next.
    """
    every = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(notes.glob("*.notes"))
    ]
    if not every:
        return {}
    start, end = max(lines[0][0] for lines in every), min(lines[-1][0] for lines in every)
    images, used = 0, 0.0
    for lines in every:
        inside = [line for line in lines if start <= line[0] <= end]
        images += inside[-1][2] - inside[0][2]
        used += inside[-1][1] - inside[0][1]
    return {
        "rate": images / (end - start),
        "cpu_ms": 1000 * used / images,
        "between_s": [
            after[0] - before[0]
            for lines in every
            for before, after in pairwise(lines)
            if size and before[2] % size == 0
        ],
        "workers": [
            {"tenth": lines[len(lines) // 10][3], "end": lines[-1][3], "images": lines[-1][2]}
            for lines in every
        ],
    }


def engines(folder: Path, rounds: int) -> dict[str, Any]:
    """Way and jobs -> rates and processor milliseconds an image, by round."""
    from limits import in_turn

    ways = [(way, 1 + number % 2) for number, way in enumerate(WAYS)]
    found: dict[str, Any] = defaultdict(lambda: {"rate": [], "cpu_ms": []})
    for number in range(rounds):
        for way, jobs in in_turn(ways, 2 * number):
            inputs = "in" if jobs == 2 and way != "bare" else "half"  # three shards a job
            run = drive(folder, way, inputs=inputs, jobs=jobs)
            for figure in ("rate", "cpu_ms"):
                found[f"{way} {jobs}"][figure].append(run[figure])
            told = f"{run['rate']:.0f} images/s, {run['cpu_ms']:.2f} ms, {run['whole_s']:.0f} s"
            print(f"{way} {jobs}: {told}", file=sys.stderr, flush=True)
    return found


def of_store(folder: Path, rounds: int, size: int) -> dict[str, Any]:
    """The engine local with shards here, in a slow store, and with both sides there."""
    found: dict[str, Any] = defaultdict(lambda: {"rate": [], "between_s": []})
    slow = f"slow://{folder / 'in'}/{{00000..00002}}.tar"
    for _ in range(rounds):
        for name, inputs, to in (("here", "half", ""), ("in", slow, ""), ("both", slow, "slow://")):
            run = drive(folder, "local", inputs=inputs, to=to, size=size)
            found[name]["rate"].append(run["rate"])
            found[name]["between_s"] += run["between_s"][1:]  # not before it is warm
            found[name]["requests"] = {
                kind: n / run["shards"] for kind, n in run["requests"].items()
            }
            print(f"store, {name}: {run['rate']:.0f} images/s", file=sys.stderr, flush=True)
    return found


def scale(images: int, size: int, gpus: int, rate: float, image_kb: float) -> dict[str, float]:
    """What a job needs, where no GPU waits."""
    shards = images / size
    seconds = images / rate / gpus
    return {
        "images": images,
        "size": size,
        "gpus": gpus,
        "gpu_seconds": images / rate,
        "hours": seconds / 3600,
        "terabytes": images * image_kb * 1e3 / 1e12,
        "gbit": 8e-9 * gpus * rate * image_kb * 1e3,
        "shards": shards,
        "requests": REQUESTS * shards,
        "requests_s": REQUESTS * shards / seconds,
        "driver_mb": DRIVER_MB + DRIVER_KB * shards / 1e3,
    }


def fixed(folder: Path) -> dict[str, float]:
    """Milliseconds of a shard of no images, and of an image: of the processor, and of the day."""
    found = {}
    for size, count in ((10, 200), (1000, 3)):
        write_tars(folder / f"of-{size}", count, size, (64, 72))
        found[size] = drive(folder, "local", inputs=f"of-{size}", model="tiny")
    times = {size: (run["cpu_ms"], 1000 / run["rate"]) for size, run in found.items()}
    # size * time of an image = shard + size * image
    image = [(1000 * big - 10 * small) / 990 for small, big in zip(*times.values(), strict=True)]
    shard = [10 * (small - one) for small, one in zip(times[10], image, strict=True)]
    write_tars(folder / "usual", 2, 500, (224, 256))
    usual = drive(folder, "local", inputs="usual", model="tiny")
    return {
        "usual_cpu_ms": usual["cpu_ms"],
        "shard_cpu_ms": shard[0],
        "shard_ms": shard[1],
        "image_cpu_ms": image[0],
        "image_ms": image[1],
    }


# -- the tables ----------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    """The tables of the parts that were measured."""
    from limits import ratios, spread

    size = result["size"]
    print(f"{result['cores']} cores, load {result['load']:.1f} to {result['load_after']:.1f}\n")
    if found := result.get("engines"):
        print("| way | images/s | processor ms an image | over the bare loop, ms a shard |", end="")
        print(" kept at 2, time | kept at 2, processor |\n|---|---|---|---|---|---|")
        bare_ms = statistics.median(found["bare 1"]["cpu_ms"])
        for name, run in found.items():
            over = size * (statistics.median(run["cpu_ms"]) - bare_ms)
            kept = ["", ""]
            if name.endswith("2"):
                one = found[f"{name[:-1]}1"]
                kept[0] = spread([r / 2 for r in ratios(run["rate"], one["rate"])])
                kept[1] = spread(ratios(one["cpu_ms"], run["cpu_ms"]))
            print(
                f"| {name} | {spread(run['rate'], 0)} | {spread(run['cpu_ms'])} | {over:,.0f}"
                f" | {kept[0]} | {kept[1]} |"
            )
    if found := result.get("store"):
        print("\n| shards | images/s | of the local rate | s between shards", end="")
        print(" | requests a shard |\n|---|---|---|---|---|")
        for name, run in found.items():
            of_local = spread(ratios(run["rate"], found["here"]["rate"]))
            asked = ", ".join(f"{kind} {n:.1f}" for kind, n in sorted(run["requests"].items()))
            print(
                f"| {name} | {spread(run['rate'], 0)} | {of_local} | {spread(run['between_s'])}"
                f" | {asked} |"
            )
    if run := result.get("fixed"):
        print(
            f"\nA shard of any size: {run['shard_cpu_ms']:.1f} ms of the processor,"
            f" {run['shard_ms']:.0f} ms of the day; an image of the tiny encoder:"
            f" {run['image_cpu_ms']:.2f} ms and {run['image_ms']:.2f} ms; with an image of 224 to"
            f" 256 pixels {run['usual_cpu_ms']:.2f} ms of the processor"
        )
    if run := result.get("memory"):
        print(f"\n| {run['images']:,} images | MB at a tenth | MB at the end | ratio |")
        print("|---|---|---|---|")
        named = [("driver", run), *((f"worker {i}", one) for i, one in enumerate(run["workers"]))]
        for name, one in named:
            tenth, end = one["tenth"], one["end"]
            print(f"| {name} | {tenth / MB:.0f} | {end / MB:.0f} | {end / tenth:.3f} |")
        print(f"{run['rate']:.0f} images/s")
    if runs := result.get("driver"):
        print("\n| shards | driver's memory, MB | of a shard, kB | plan, MB | seconds | begun, s |")
        print("|---|---|---|---|---|---|")
        for run in runs:
            print(
                f"| {run['shards']:,} | {run['peak'] / MB:.0f}"
                f" | {run['peak'] / run['shards'] / 1e3:.2f}"
                f" | {run['plan'] / MB:.1f} | {run['seconds']:.1f} | {run['begun_s']:.1f} |"
            )
    if rows := result.get("scale"):
        print("\n| images | of a shard | GPUs | GPU seconds | hours | TB read | Gbit/s", end="")
        print(" | shards | requests | of them a second | driver, MB |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for one in rows:
            print(
                f"| {one['images']:,} | {one['size']:,} | {one['gpus']} | {one['gpu_seconds']:,.0f}"
                f" | {one['hours']:,.1f} | {one['terabytes']:,.0f} | {one['gbit']:.1f}"
                f" | {one['shards']:,.0f} | {one['requests']:,.0f} | {one['requests_s']:.1f}"
                f" | {one['driver_mb']:.0f} |"
            )


if __name__ == "__main__":
    sys.exit(main())
