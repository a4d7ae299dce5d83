"""Run folders from elsewhere, and broken ones: links, pipes, bombs, and mutations of good runs."""

from __future__ import annotations

import hashlib
import json
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from captune.runs.signature import FIELD, signature_of
from tests.report_runs import (
    caption_run,
    classify_run,
    compare_run,
    explain_run,
    faithful_run,
    images,
    score_run,
    tune_run,
)

NAMES = [f"{n}.jpg" for n in range(6)]
CAPTIONS = {name: f"a caption of {name}" for name in NAMES}
OTHER = {name: f"another of {name}" for name in NAMES}
JSON_FILES = ("run.json", "metrics.json", "records.jsonl")


def good_runs(folder: Path) -> dict[str, Path]:
    """A run of every job that the reports know, of the same images; signed by the test's key."""
    root = images(folder / "images", NAMES)
    return {
        "classify": classify_run(folder / "classify", root, NAMES),
        "tune": tune_run(folder / "tune", root, {"adapter": CAPTIONS, "lora": OTHER}),
        "caption": caption_run(folder / "caption", root, CAPTIONS),
        "score": score_run(folder / "score", root, CAPTIONS),
        "compare": compare_run(folder / "compare", root, CAPTIONS, OTHER),
        "explain": explain_run(folder / "explain", root, CAPTIONS),
        "faithful": faithful_run(folder / "faithful", root),
    }


def sign_again(run: Path) -> None:
    """Make a changed run one of this machine's again."""
    about = json.loads((run / "run.json").read_text())
    digests = {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest()
        for name in ("metrics.json", "records.jsonl")
    }
    about[FIELD] = signature_of(about, digests)
    (run / "run.json").write_text(json.dumps(about))


def from_elsewhere(run: Path, root: str | Path | None = None) -> None:
    """Make a run one that another machine wrote, its images below `root`."""
    about = json.loads((run / "run.json").read_text())
    about.pop(FIELD, None)
    if root is not None:
        about["root"] = str(root)
    (run / "run.json").write_text(json.dumps(about))


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _hole(path: Path) -> None:
    """5 GB, of which the disk holds none."""
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


def _circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


# what may lie in the place of any file of a run
PLACES: dict[str, Callable[[Path], None]] = {
    "a pipe": _pipe,
    "an endless device": _device,
    "a folder": _folder,
    "a file of 5 GB": _hole,
    "a link to itself": _circle,
    "nothing": Path.unlink,
    "no bytes": lambda path: path.write_bytes(b""),
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "deep brackets": lambda path: path.write_text('{"a":' + "[" * 100_000),
    "a list as deep as Python reads": lambda path: path.write_text("[" * 900 + "]" * 900),
    "many small lists": lambda path: path.write_text('{"a":[' + "[]," * 9_000_000 + "0]}"),
    "a number of 5,000 digits": lambda path: path.write_text('{"images":' + "9" * 5000 + "}"),
}


def zip_bomb(path: Path, *, gigabytes: int = 54) -> None:
    """An .npz that packs zeros a thousand times smaller, and claims more than any machine has."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1, 1), np.float32))
    header["shape"] = (1, 1, gigabytes * 2**28)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("maps.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(2**22))
        with archive.open("words.npy", "w") as file:
            np.lib.format.write_array(file, np.array(["a"]), allow_pickle=False)


def header_bomb(path: Path, *, gigabytes: int = 54) -> None:
    """As `zip_bomb`, of arrays that are not packed: the header alone lies."""
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1, 1), np.float32))
    header["shape"] = (1, 1, gigabytes * 2**28)
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("maps.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.write(bytes(64))
        with archive.open("words.npy", "w") as file:
            np.lib.format.write_array(file, np.array(["a"]), allow_pickle=False)


STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 0.5, -0.5, 1e308, -1e308, 5e-324, 10**30, -(10**400)),
    *(float("nan"), float("inf"), "", "x", "\ud83d", "a\0b", "../../../etc/passwd", "/etc/passwd"),
    *(
        "</script><img src=x onerror=alert(1)>",
        "$\\frac{",
        "{}",
        "{0.__class__}",
        "\x1b]52;c;eA==\a",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": None},
        [1, 2],
        [2, 1],
        ["x"],
        {"": ""},
        "9" * 5000,
        "y" * 100_000,
    ),
)


def mutations(run: Path, count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(file, what was done to it, its new text): one change a time, of any value in it."""
    chance = random.Random(seed)
    for _ in range(count):
        name = chance.choice(JSON_FILES)
        text = (run / name).read_text()
        lines = text.splitlines() if name == "records.jsonl" else [text]
        number = chance.randrange(len(lines))
        content = json.loads(lines[number])
        place, told = _change(content, chance)
        lines[number] = json.dumps(content)
        yield name, f"line {number + 1}, {place}: {told}", "\n".join(lines) + "\n"


def _change(content: Any, chance: random.Random) -> tuple[str, str]:
    """Change a value somewhere in a JSON object or list; where, and how."""
    places = list(_places(content, ""))
    holder, key, place = chance.choice(places)
    how = chance.randrange(6)
    if how == 0:
        del holder[key]
        return place, "taken out"
    if how == 1 and isinstance(holder, list):
        holder.append(holder[key])
        return place, "doubled"
    if how == 2 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
        return place, "renamed"
    value = chance.choice(STRANGE)
    holder[key] = value
    return place, f"is {value!r:.60}"


def _places(content: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    items = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    for key, value in items:
        yield content, key, f"{path}/{key}"
        if isinstance(value, dict | list):
            yield from _places(value, f"{path}/{key}")
