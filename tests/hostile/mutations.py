"""Ways to spoil a file of JSON, of lines, or any file: what folders from elsewhere may hold."""

from __future__ import annotations

import copy
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def _content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def _sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(20 * 2**30)


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _random(path: Path) -> None:
    path.write_bytes(random.Random(path.name).randbytes(4000))


# what may lie in the place of any file
FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": _pipe,
    "a link to /dev/zero": _link("/dev/zero"),
    "empty": _content(b""),
    "cut": _cut,
    "gone": lambda path: path.unlink(),
    "a folder": _folder,
    "20 GB of nothing": _sparse,
    "random bytes": _random,
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name))[0],
    "a link to /proc/self/mem": _link("/proc/self/mem"),
    "a link to /etc/passwd": _link("/etc/passwd"),
    "a link to /dev/urandom": _link("/dev/urandom"),
    "a socket": _socket,
    "a link to /proc/self/environ": _link("/proc/self/environ"),
}
# and in the place of a text
TEXTS: dict[str, Callable[[Path], None]] = {
    "nested 100,000 deep": _content(b"[" * 100_000),
    "objects 100,000 deep": _content(b'{"a":' * 100_000),
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
    "300 MB of blanks": lambda path: path.write_bytes(b" " * 300_000_000) and None,
    "a line of 200 MB": lambda path: path.write_bytes(b'{"a": "' + b"x" * 200_000_000) and None,
    "a million small lines": lambda path: path.write_bytes(b"{}\n" * 1_000_000) and None,
    "a million keys": lambda path: (
        path.write_text(json.dumps({str(n): n for n in range(1_000_000)})) and None
    ),
}


def npz_of(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """An .npz whose arrays say a shape and hold a few bytes."""
    import io
    import struct
    import zipfile

    about = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    about += b" " * (63 - (10 + len(about)) % 64) + b"\n"
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(about)) + about + bytes(64)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("maps.npy", "words.npy"):
            file.writestr(name, array)
    return buffer.getvalue()


def packed_npz() -> bytes:
    """An .npz of 4 GB of zeros, packed to a few megabytes."""
    import io
    import struct
    import zipfile

    shape = (1, 32768, 32768)
    about = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    about += b" " * (63 - (10 + len(about)) % 64) + b"\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        with packed.open("maps.npy", "w", force_zip64=True) as file:
            file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(about)) + about)
            for _ in range(4096):
                file.write(bytes(2**20))
        packed.writestr("words.npy", b"")
    return buffer.getvalue()


def pickled_npz() -> bytes:
    """An .npz whose words are pickled objects that would run code."""
    import io
    import zipfile

    about = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    about += b" " * (63 - (10 + len(about)) % 64) + b"\n"
    import struct

    evil = b"cos\nsystem\n(S'touch PWNED'\ntR."
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(about)) + about + evil
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in ("maps.npy", "words.npy"):
            file.writestr(name, array)
    return buffer.getvalue()
