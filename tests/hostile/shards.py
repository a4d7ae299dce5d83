"""Shards under harm: workers, drivers, nodes of a cluster and a store that are killed, and 500
hostile images among 10,000.

A kill comes at a moment drawn by chance. After it the same command goes on; in the end the rows are
those of a run that nothing happened to, and no shard that was done has been done again.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.hostile import image_files
from tests.hostile.runner import Case, Outcome, Table, process_tree
from tests.shards import toy

from captune.images import UnreadableImage, decode_image
from captune.options.shards import spelled

SHARDS, IMAGES = 12, 60
ROWS, HOSTILE = 10_000, 500
_LARGEST = 2**22  # bytes of a hostile file; the larger ones have a family of their own
LIMIT_S = 900.0


def tables(*, kills: int, tell: Callable[[Outcome], None]) -> list[Table]:
    """A row for kills, and one for hostile images."""
    found = []
    with tempfile.TemporaryDirectory(prefix="captune-chaos-shards-") as place:
        folder = Path(place)
        with pytest.MonkeyPatch.context() as patch:
            toy.install(folder / "site", patch)
            for name, outcomes in (
                ("kill -9: shards", killed(folder / "kills", kills)),
                ("kill -9: nodes of Ray", nodes(folder / "nodes", max(1, kills // 5))),
                ("kill -9: the store", stores(folder / "store", max(1, kills // 4))),
                (f"shards, {HOSTILE} of {ROWS:,} hostile", map(hostile, [folder / "hostile"])),
            ):
                table = Table(name)
                for outcome in outcomes:
                    table.outcomes.append(outcome)
                    tell(outcome)
                found.append(table)
    return found


def killed(folder: Path, kills: int) -> Iterator[Outcome]:
    """So many kills of one job, each followed by a look at what was done before it."""
    chance = random.Random(0)
    toy.write_tars(folder / "in", SHARDS, IMAGES)
    began = time.monotonic()
    assert _driver(folder, "whole").wait(LIMIT_S) == 0
    whole_s = time.monotonic() - began
    done: dict[str, int] = {}
    left = kills
    while left:
        for name in list(done):  # some of it is lost, so that there is something to do
            if chance.random() < 0.5:
                (folder / "out" / name).unlink()
                del done[name]
        driver = _driver(folder, "out")
        for _ in range(min(left, chance.choice((1, 2, 3)))):
            time.sleep(chance.random() * whole_s / 2)
            tree = process_tree(driver.pid)
            if driver.poll() is not None:
                break
            victim = chance.choice(tree[1:] or tree) if chance.random() < 0.6 else driver.pid
            os.kill(victim, signal.SIGKILL)
            left -= 1
            what = "driver" if victim == driver.pid else "worker"
            yield _judged(what, f"kill {kills - left}", _lost(folder, done))
            if victim == driver.pid:
                break
        driver.wait(LIMIT_S)
        _settled(folder / "out")
        done |= {path.name: path.stat().st_mtime_ns for path in _stats(folder)}
    assert _driver(folder, "out").wait(LIMIT_S) == 0
    yield _judged("end", "rows of all shards", _differing(folder))


def nodes(folder: Path, kills: int) -> Iterator[Outcome]:
    """A cluster of two nodes, of which the second is killed, so many times, while a job runs."""
    from ray.cluster_utils import Cluster

    chance = random.Random(1)
    toy.write_tars(folder / "in", 3 * kills, IMAGES)
    assert _driver(folder, "whole").wait(LIMIT_S) == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        driver = _driver(folder, "out", "--engine", "ray", "--address", cluster.address)
        for n in range(kills):
            begun = len(_stats(folder))
            while len(_stats(folder)) == begun and driver.poll() is None:
                time.sleep(0.05)
            time.sleep(chance.random())
            is_over = driver.poll() is not None
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1)
            yield _judged("node", f"kill {n + 1}", "the job was over" if is_over else "")
        status = driver.wait(LIMIT_S)
        yield _judged("status", "of the job", f"status {status}" if status else "")
    finally:
        cluster.shutdown()
    yield _judged("end", "rows of all shards", _differing(folder))


def stores(folder: Path, kills: int) -> Iterator[Outcome]:
    """S3 behind a gate that is killed, so many times, and is back after some seconds."""
    import s3fs
    from moto.server import ThreadedMotoServer

    chance = random.Random(2)
    tars = toy.write_tars(folder / "in", 3 * kills, IMAGES)
    assert _driver(folder, "whole").wait(LIMIT_S) == 0
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    behind, port = server.get_host_and_port()[1], _free_port()
    names = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
    names |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in names.items():
            patch.setenv(name, value)
        patch.delenv("CAPTUNE_OFFLINE", raising=False)
        own = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{behind}")
        own.mkdir("bucket")
        for tar in tars:
            own.put_file(str(tar), f"bucket/in/{tar.name}")
        gate = _gate(port, behind)
        driver = _driver(Path("s3://bucket"), "out")
        for n in range(kills):
            time.sleep(0.5 + 2 * chance.random())
            is_over = driver.poll() is not None
            gate.kill()
            gate.wait()
            time.sleep(2 * chance.random())
            gate = _gate(port, behind)
            yield _judged("store", f"kill {n + 1}", "the job was over" if is_over else "")
        driver.wait(LIMIT_S)
        status = _driver(Path("s3://bucket"), "out").wait(LIMIT_S)  # whatever was given up
        yield _judged("status", "of the job", f"status {status}" if status else "")
        own.invalidate_cache()
        own.get("bucket/out/", str(folder / "out"), recursive=True)
        gate.kill()
    server.stop()
    yield _judged("end", "rows of all shards", _differing(folder))


_GATE = """
import asyncio, sys
async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
async def passed(reader, writer):
    there = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    await asyncio.gather(pump(reader, there[1]), pump(there[0], writer), return_exceptions=True)
async def main():
    server = await asyncio.start_server(passed, "127.0.0.1", int(sys.argv[1]))
    print(flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


def _gate(port: int, behind: int) -> subprocess.Popen[bytes]:
    """A process that passes on what comes to a port."""
    command = [sys.executable, "-c", _GATE, str(port), str(behind)]
    gate = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert gate.stdout is not None
    gate.stdout.readline()
    return gate


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _driver(folder: Path, out: str, *more: str) -> subprocess.Popen[bytes]:
    places = [spelled(f"{folder}/{name}") for name in ("in", out)]
    words = ["classify", places[0], "--labels", "red,green,blue", "--jobs", "2"]
    words += ["--model", "toy:slow", "--out", places[1], *more]
    command = [sys.executable, "-m", "captune", *words]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=nowhere, stderr=nowhere)


def _stats(folder: Path) -> list[Path]:
    return list((folder / "out").glob("*_stats.json"))


def _settled(out: Path) -> None:
    """Wait for workers that lost their driver: they end, and let go."""
    end = time.monotonic() + 30
    while list(out.glob("*.claim")) and time.monotonic() < end:
        time.sleep(0.1)


def _lost(folder: Path, done: dict[str, int]) -> str:
    """What had been done and is gone, or was done again."""
    now = {path.name: path.stat().st_mtime_ns for path in _stats(folder)}
    return ", ".join(name for name, at in done.items() if now.get(name) != at)


def _differing(folder: Path) -> str:
    bad = [path.name for path in folder.glob("out/*.partial")]
    for path in sorted((folder / "whole").glob("*.parquet")):
        other = folder / "out" / path.name
        if not other.is_file() or pq.read_table(path) != pq.read_table(other):
            bad.append(path.name)
    return ", ".join(bad)


def _judged(kind: str, name: str, why: str) -> Outcome:
    return Outcome(Case(kind, name, lambda folder: ()), "lost" if why else "answered", why, 0, 0)


def _is_refused(data: bytes) -> bool:
    try:
        decode_image(data)
    except UnreadableImage:
        return True
    return False


def hostile(folder: Path) -> Outcome:
    """Each of 10,000 images is answered or has a reason."""
    refused = [*image_files.not_images(), *image_files.lies(), *image_files.truncated()]
    contents = [file.content() for file in refused if not file.is_image]
    small = [data for data in contents if len(data) < _LARGEST and _is_refused(data)]
    harm = islice(cycle(small), HOSTILE)
    plain = {name: toy.picture(colour) for name, colour in toy.COLOURS.items()}
    every = ROWS // HOSTILE
    members = [
        (f"{n:06}.png", next(harm) if n % every == 7 else plain[toy.NAMES[n % 3]])
        for n in range(ROWS)
    ]
    for shard in range(10):
        own = members[shard * 1000 : (shard + 1) * 1000]
        toy.write_tar(folder / "in" / f"{shard:05d}.tar", own)
    words = ["classify", str(folder / "in"), "--labels", "red,green,blue", "--jobs", "2"]
    words += ["--model", "toy:colours", "--out", str(folder / "out")]
    status = subprocess.run([sys.executable, "-m", "captune", *words], timeout=LIMIT_S).returncode
    paths = sorted((folder / "out").glob("*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    keys = sorted(row["key"] for row in rows)
    failed = [row for row in rows if row["error"]]
    why = []
    if status != 0 or keys != [name.removesuffix(".png") for name, _ in members]:
        why.append(f"status {status}, {len(rows):,} rows")
    if len(failed) != HOSTILE or any(row["label"] for row in failed):
        why.append(f"{len(failed)} have a reason")
    return _judged("hostile", f"{HOSTILE} of {ROWS:,}", "; ".join(why))
