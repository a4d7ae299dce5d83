"""Ways to spoil a file of JSON, of lines, or any file: what folders from elsewhere may hold."""

from __future__ import annotations

import copy
import io
import json
import os
import random
import socket
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

# marks that must never be an element of a page, nor reach a terminal as they are
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}${7*7}"
ESCAPES = "\x1b[31mred\x1b]52;c;aGk=\x07\x9b2J\u202egnp\u2066x\r\n\x08"

VALUES: dict[str, Any] = {
    "nothing": None, "true": True, "minus one": -1, "1e308": 1e308, "2^70": 2**70,
    "no text": "", "markup": MARKUP, "escapes": ESCAPES, "a megabyte": "x" * 1_000_000,
    "a path": "/etc/passwd", "a path up": "../../../../etc/passwd", "a zero byte": "a\0b",
    "half a character": "\ud83d", "a list": [], "lists": [[["x"]] * 3], "an object": {},
    "a million": [0] * 1_000_000, "formula": "=cmd|'/c calc'!A0",
}  # fmt: skip


def places_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value; of a list the first two."""
    if path:
        yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places_in(value, (*path, key))
    elif isinstance(content, list):
        for number, value in enumerate(content[:2]):
            yield from places_in(value, (*path, number))


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in one place."""
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


def without(content: Any, path: tuple[Any, ...]) -> Any:
    """A copy without a value."""
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return changed


def change_value(path: Path, chance: random.Random) -> str:
    """Change a value drawn by chance of a JSON file or of a line of one; says what was done."""
    lines = path.name.endswith("jsonl")
    texts = path.read_text(encoding="utf-8").splitlines() if lines else [path.read_text()]
    number = chance.randrange(len(texts))
    content = json.loads(texts[number])
    place = chance.choice(sorted(places_in(content), key=repr))
    if chance.random() < 0.15:
        what, changed = "gone", without(content, place)
    else:
        what, value = chance.choice(sorted(VALUES.items()))
        changed = with_value(content, place, value)
    texts[number] = json.dumps(changed)
    path.write_text("\n".join(texts) + "\n")
    return f"{path.name} {'.'.join(map(str, place))}: {what}"


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    kept = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(kept)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


def _circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(20 * 2**30)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _random(path: Path) -> None:
    path.write_bytes(random.Random(path.name).randbytes(4000))


# what may lie in the place of any file
FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": _pipe,
    "a link to /dev/zero": _link("/dev/zero"),
    "empty": _content(b""),
    "cut": _cut,
    "gone": Path.unlink,
    "a folder": _folder,
    "20 GB of nothing": _sparse,
    "random bytes": _random,
    "a link to itself": _circle,
    "a link to /proc/self/mem": _link("/proc/self/mem"),
    "a link to /etc/passwd": _link("/etc/passwd"),
    "a link to /dev/urandom": _link("/dev/urandom"),
    "a socket": _socket,
    "a link to /proc/self/environ": _link("/proc/self/environ"),
}
# and in the place of a text
TEXTS: dict[str, Callable[[Path], object]] = {
    "nested 100,000 deep": _content(b"[" * 100_000),
    "objects 100,000 deep": _content(b'{"a":' * 100_000),
    "a list as deep as Python reads": _content(b"[" * 900 + b"]" * 900),
    "nine million lists": lambda path: path.write_bytes(b'{"a":[' + b"[]," * 9_000_000 + b"0]}"),
    "NaN": _content(b'{"schema": NaN, "images": NaN, "image_id": "a", "caption": NaN}'),
    "a number of 5,000 digits": _content(b'{"schema": ' + b"9" * 5000 + b"}"),
    "doubled keys": _content(b'{"schema": 1, "schema": 2}'),
    "UTF-16": _content('{"schema": 1}'.encode("utf-16")),
    "Latin-1": _content('{"schema": "\u00e9"}'.encode("latin-1")),
    "a list": _content(b"[]"),
    "a number": _content(b"3"),
    "nothing (null)": _content(b"null"),
    "a text": _content(b'"schema"'),
    "escapes": _content(json.dumps({ESCAPES: ESCAPES}).encode()),
    "300 MB of blanks": lambda path: path.write_bytes(b" " * 300_000_000),
    "a line of 200 MB": lambda path: path.write_bytes(b'{"a": "' + b"x" * 200_000_000),
    "a million small lines": lambda path: path.write_bytes(b"{}\n" * 1_000_000),
    "a million keys": lambda path: (
        path.write_text(json.dumps({str(n): n for n in range(1_000_000)})) and None
    ),
}


def npz_of(
    shape: tuple[int, ...],
    content: Iterable[bytes] = (bytes(64),),
    dtype: str = "<f4",
    packing: int = zipfile.ZIP_STORED,
) -> bytes:
    """An .npz whose maps say a shape and hold anything; its words are as they must be."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing) as packed:
        with packed.open("maps.npy", "w", force_zip64=True) as file:
            about = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
            for piece in content:
                file.write(piece)
        with packed.open("words.npy", "w") as file:
            np.lib.format.write_array(file, np.array(["a"]), allow_pickle=False)
    return buffer.getvalue()


def packed_npz() -> bytes:
    """An .npz of 1 GB of zeros, packed to a megabyte."""
    zeros = (bytes(2**20) for _ in range(1024))
    return npz_of((1, 16384, 16384), zeros, packing=zipfile.ZIP_DEFLATED)


def pickled_npz() -> bytes:
    """An .npz whose maps are pickled objects that would run code."""
    return npz_of((1,), (b"cos\nsystem\n(S'touch PWNED'\ntR.",), "|O")
