"""`captune app` under load: 32 clients, 500 requests. Are any lost, does memory grow?

    python benchmarks/app.py
    python benchmarks/app.py --clients 8 --requests 100

Each client is a page of its own: it drops two images, then asks again and again to recognise other
labels in them, over HTTP as the page does. One request in ten is a mistake, whose answer has to be
a sentence. The images are made here; the model is lite.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

WORDS = (
    *("cat", "dog", "car", "tree", "house", "boat", "bird", "flower"),
    *("cup", "book", "lamp", "chair", "road", "hill", "lake", "face"),
)
MISTAKES = {
    "red, red": "more than once",
    "": "there are no labels",
}
_LONGEST_S = 600


@dataclass
class Answers:
    """What came back. wrong: answers that were not what the request asks for."""

    seconds: list[float] = field(default_factory=list)
    sentences: int = 0
    wrong: list[str] = field(default_factory=list)
    lost: int = 0
    memory_mb: list[tuple[int, float]] = field(default_factory=list)


class Client:
    """One page: its session, its images."""

    def __init__(self, address: str, number: int) -> None:
        """address: with the token, as the app prints it."""
        base = address.partition("?")[0]
        self.http = httpx.Client(base_url=base, timeout=_LONGEST_S, trust_env=False)
        page = self.http.get(address, follow_redirects=True).raise_for_status().text
        config = json.loads(page.split("window.gradio_config = ", 1)[1].split(";</script>", 1)[0])
        self._session = secrets.token_hex(6)
        self._ids = {part["props"].get("elem_id"): part["id"] for part in config["components"]}
        self._events = config["dependencies"]
        self.images = self._drop(number)

    def recognise(self, labels: str) -> str:
        """Press the button; what the page shows then."""
        data = [labels, "", "lite", False, False, self.images]
        return " ".join(self.ask("classify", "click", data))

    def _drop(self, number: int) -> str:
        chance = random.Random(number)
        files = []
        for n in range(2):
            colour = tuple(chance.randrange(256) for _ in range(3))
            buffer = BytesIO()
            Image.new("RGB", (320, 240), colour).save(buffer, "JPEG")
            files.append(("files", (f"{number}-{n}.jpg", buffer.getvalue(), "image/jpeg")))
        paths = self.http.post("gradio_api/upload", files=files).raise_for_status().json()
        dropped = [
            {"path": path, "orig_name": f"{n}.jpg", "meta": {"_type": "gradio.FileData"}}
            for n, path in enumerate(paths)
        ]
        said = list(self.ask("drop-classify", "upload", [dropped, ""]))
        found = re.search(r'"data": ?\["([\w-]{20,})"', " ".join(said))
        assert found is not None, said
        return found[1]

    def event_of(self, element: str, event: str) -> int:
        """Its number."""
        target = [self._ids[element], event]
        return int(next(one["id"] for one in self._events if target in map(list, one["targets"])))

    def ask(self, element: str, event: str, data: Sequence[Any]) -> Iterator[str]:
        """The messages that an event of an element brings, as JSON."""
        asked = {"data": data, "fn_index": self.event_of(element, event)}
        asked |= {"session_hash": self._session, "trigger_id": self._ids[element]}
        event_id = self.http.post("gradio_api/queue/join", json=asked).raise_for_status().json()
        where = {"session_hash": self._session}
        with self.http.stream("GET", "gradio_api/queue/data", params=where) as stream:
            for line in stream.iter_lines():
                if not line.startswith("data: "):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message.get("event_id") not in (None, event_id["event_id"]):
                    continue
                yield json.dumps(message.get("output", {}), ensure_ascii=False)
                if message["msg"] == "process_completed":
                    assert message["success"], message
                    return


def load(address: str, pid: int, *, clients: int, requests: int) -> Answers:
    """Ask so many times, from so many clients at once."""
    answers, lock = Answers(), threading.Lock()
    with ThreadPoolExecutor(clients) as pool:
        pages = list(pool.map(lambda n: Client(address, n), range(clients)))
        left = iter(range(requests))

        def go_on(page: Client) -> None:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                labels, expected = _request(number)
                began = time.monotonic()
                try:
                    said = page.recognise(labels)
                except (httpx.HTTPError, AssertionError) as error:
                    with lock:
                        answers.lost += 1
                        answers.wrong.append(f"{type(error).__name__}: {error}"[:200])
                    continue
                with lock:
                    answers.seconds.append(time.monotonic() - began)
                    answers.sentences += "refusal" in said
                    if expected not in said or "a bug in captune" in said:
                        answers.wrong.append(said[:200])
                    if len(answers.seconds) % 50 == 0:
                        answers.memory_mb.append((len(answers.seconds), memory_mb(pid)))

        list(pool.map(go_on, pages))
    return answers


def _request(number: int) -> tuple[str, str]:
    """Labels, and what the answer has to hold."""
    if number % 10 == 9:
        return list(MISTAKES.items())[number // 10 % len(MISTAKES)]
    chosen = random.Random(number).sample(WORDS, 6)
    return ", ".join(chosen), "The same on a command line"


def memory_mb(pid: int) -> float:
    """What a process holds in memory."""
    import psutil

    return float(psutil.Process(pid).memory_info().rss) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "captune", "app", str(Path(folder) / "runs"), "--json"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, env=dict(os.environ), text=True)
        assert server.stdout is not None
        try:
            address = json.loads(server.stdout.readline())["url"]
            began = time.monotonic()
            found = load(address, server.pid, clients=asked.clients, requests=asked.requests)
            took = time.monotonic() - began
        finally:
            server.terminate()
            server.wait(60)
    found.seconds.sort()
    many = len(found.seconds)
    print(f"{asked.clients} clients, {asked.requests} requests in {took:.1f} s")
    print(f"answered {many}, lost {found.lost}, wrong {len(found.wrong)}")
    print(f"mistakes answered with a sentence: {found.sentences}")
    median, most = found.seconds[many // 2], found.seconds[many * 95 // 100]
    print(f"median {median:.2f} s, 95 % below {most:.2f} s")
    for number, megabytes in found.memory_mb:
        print(f"after {number} requests: {megabytes:.0f} MB")
    for sentence in found.wrong[:5]:
        print(sentence)


if __name__ == "__main__":
    main()
