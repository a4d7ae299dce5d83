"""Cases of hostile images: each alone, in odd places and names, and all of them at once."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.hostile import image_files
from tests.hostile.image_bytes import animated_webp, flat_png
from tests.hostile.image_files import File
from tests.hostile.runner import Case, Lost, Said, Wrong
from tests.image_factory import jpeg

LABELS = ("--labels", "red,green,blue")
COMMON = (*LABELS, "--no-cache", "--json")


def cases() -> Iterator[Case]:
    """All of them."""
    yield from map(alone, files())
    yield from (*places(), *names(), *together())


def files() -> Iterator[File]:
    """Every image file."""
    yield from image_files.bombs()
    yield from image_files.costly()
    yield from image_files.lies()
    yield from image_files.not_images()
    yield from image_files.readable()
    yield from image_files.truncated()
    yield from image_files.flipped()


def alone(file: File) -> Case:
    """One file, named itself."""

    def make(folder: Path) -> Sequence[str]:
        (folder / file.name).write_bytes(file.content())
        return ["classify", str(folder / file.name), *COMMON]

    def check(folder: Path, said: Said) -> None:
        every_file(1, said)
        if said.status != 0 and file.is_image:
            raise Wrong(f"an image that is refused: {said.err.strip()}")

    return Case(file.kind, file.name, make, check, always=True)


def every_file(count: int, said: Said) -> None:
    """Each file is answered or named; nobody but captune speaks."""
    if said.status == 0:
        found = said.json()
        answered = found["images"] + len(found["skipped"])
        if answered != count:
            raise Lost(f"{count} files, {found['images']} answered, {found['skipped']} skipped")
    others = [line for line in said.err.splitlines() if not line.startswith("captune")]
    if others:
        raise Wrong(f"somebody else speaks: {others[0][:200]}")


def places() -> Iterator[Case]:
    """What lies in a folder of images and is no file, and what is a strange one."""

    def pipe(place: Path) -> None:
        os.mkfifo(place)

    def local_socket(place: Path) -> None:
        kept = Path.cwd()
        # its name may have a hundred bytes at the most
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(os.path.relpath(place, kept) if len(str(place)) > 100 else str(place))

    def link(target: str) -> Callable[[Path], None]:
        return lambda place: place.symlink_to(target)

    def sparse(place: Path) -> None:
        with place.open("wb") as file:
            file.write(jpeg())
            file.truncate(50 * 2**30)

    def deep(place: Path) -> None:
        for _ in range(60):
            place = place / ("d" * 50)
        place.mkdir(parents=True)

    def forbidden(place: Path) -> None:
        place.write_bytes(jpeg())
        place.chmod(0)

    strange: dict[str, Callable[[Path], None]] = {
        "a pipe": pipe,
        "a socket": local_socket,
        "a folder": Path.mkdir,
        "a link to itself": lambda place: place.symlink_to(place.name),
        "a link to nothing": link("nowhere"),
        "a link to its folder": link("."),
        "50 GB of nothing": sparse,
        "folders 60 deep": deep,
        "a forbidden file": forbidden,
        "a link to a pipe": lambda place: (os.mkfifo(f"{place}.pipe"),
        place.symlink_to(f"{place}.pipe"))[0],
        **{
            f"a link to {device}": link(device)
            for device in (
                "/dev/zero", "/dev/urandom", "/dev/null", "/dev/full", "/dev/stdin", "/dev/fd/0",
                "/proc/self/mem", "/proc/self/environ", "/proc/cpuinfo", "/proc/self/fd/1",
                "/proc/self/maps", "/proc/kcore", "/sys/kernel/uevent_seqnum",
                "/proc/self/root/dev/zero", "/dev", "/etc/passwd",
            )
        },
    }  # fmt: skip
    for name, lay in strange.items():
        yield from (_beside_a_good_one(name, lay), _itself(name, lay))


def _beside_a_good_one(name: str, lay: Callable[[Path], None]) -> Case:
    def make(folder: Path) -> Sequence[str]:
        (folder / "images").mkdir()
        (folder / "images" / "good.png").write_bytes(jpeg())
        lay(folder / "images" / "strange.jpg")
        return ["classify", str(folder / "images"), *COMMON]

    def check(folder: Path, said: Said) -> None:
        if said.status != 0:
            raise Lost(f"the good one beside it: {said.err.strip()}")
        found = said.json()
        if found["images"] + len(found["skipped"]) < 1 + (name not in _WITHOUT_A_WORD):
            raise Lost(f"{name}: {found['images']} answered, {found['skipped']} skipped")

    return Case("in odd places", f"{name}, beside a good one", make, check, always=True)


# folders are walked into and have no images
_WITHOUT_A_WORD = {
    "a folder", "a link to its folder", "folders 60 deep", "a link to /dev",
}  # fmt: skip


def _itself(name: str, lay: Callable[[Path], None]) -> Case:
    def make(folder: Path) -> Sequence[str]:
        lay(folder / "strange.jpg")
        return ["classify", str(folder / "strange.jpg"), *COMMON]

    def check(folder: Path, said: Said) -> None:
        if said.status == 0 and name not in ("a forbidden file", "a link to /dev/stdin"):
            raise Wrong(f"answered: {said.out[:200]}")

    return Case("in odd places", f"{name}, itself", make, check)


NAMES = (
    b"new\nline.jpg", b"car\rriage.jpg", b"colour\x1b[31m.jpg", b"clipboard\x1b]52;c;aGk=\x07.jpg",
    b"bell\x07.jpg", b"back\x08\x08space.jpg", b"delete\x7f.jpg", b"\xc2\x9b31m.jpg",
    "turned \u202egpj.exe.jpg".encode(), "isolated \u2066x\u2069.jpg".encode(),
    "zero\u200bwidth\ufeff.jpg".encode(), "lines\u2028and\u2029.jpg".encode(),
    "\N{GRINNING FACE}.jpg".encode(), "e\u0301.jpg".encode(), "\u00e9.jpg".encode(),
    b"caf\xe9.jpg", b"\xff\xfe\xfd.jpg", b"\xed\xa0\x80.jpg", b"\xc0\xaf.jpg",
    b"a" * 250 + b".jpg", "\u732b".encode() * 80 + b".jpg", b" .jpg", b"two  spaces .jpg",
    b"--help.jpg", b"-rf.jpg", b"--out.jpg", b"=1+1.jpg", b"@SUM(1).jpg", b"+1.jpg", b"-1.jpg",
    b"\t=1.jpg", b"%s%n%x.jpg", b"{{7*7}}.jpg", b"${jndi}.jpg", b"$(id).jpg", b"`id`.jpg",
    b"'\"<>&.jpg", b"<img src=x onerror=alert(1)>.jpg", b"a;b,c|d.jpg", b"[red]x[_red].jpg",
    b":dog:.jpg", b"con.jpg", b"nul.jpg", b"a.exe.jpg", b"*.jpg", b"[!a]?.jpg", b"~.jpg",
    b"~root.jpg", b"#split=test.jpg", b"\\..\\..\\x.jpg", b"x..jpg",
)  # fmt: skip


def names() -> Iterator[Case]:
    """A good image under every name, in answers for programs and for people."""
    for name in NAMES:
        for ways in (("--json",), ("--csv", "answers.csv", "--out", "run")):
            yield _named(name, ways)


def _named(name: bytes, ways: Sequence[str]) -> Case:
    def make(folder: Path) -> Sequence[str]:
        (folder / "images").mkdir()
        Path(os.fsdecode(bytes(folder / "images") + b"/" + name)).write_bytes(jpeg())
        return ["classify", "images", *LABELS, "--no-cache", *ways]

    def check(folder: Path, said: Said) -> None:
        if said.status != 0:
            raise Lost(said.err.strip())
        if "--json" in ways:
            every_file(1, said)
            return
        text = (folder / "answers.csv").read_bytes().decode("utf-8", "surrogateescape")
        rows = list(csv.reader(io.StringIO(text, newline="")))
        if len(rows) != 2:
            raise Wrong(f"a table of {len(rows)} rows")
        (record,) = (folder / "run" / "records.jsonl").read_bytes().splitlines()
        if os.fsencode(json.loads(record)["path"]) != name:
            raise Wrong(f"a record of {json.loads(record)['path']!r}")

    shown = ascii(os.fsdecode(name))
    return Case("names", f"{shown[:60]} {ways[0]}", make, check, always=True)


def together() -> Iterator[Case]:
    """Folders of them, with many workers: memory, and whether each is answered or named."""
    for workers in (16, 4, 2, 1):
        yield _herd("animated WebP, 8 of 100 megapixels", workers, _webps)
    yield _herd("PNG, 16 of 100 megapixels", 16, _pngs)
    for workers in (1, 16):
        yield Case(
            "all at once", f"every file, {workers} workers", lambda folder,
            n=workers: _all(folder, n),
            _all_found, limit_s=900, always=True, is_alone=True,
        )  # fmt: skip


def _webps(folder: Path) -> None:
    for n in range(8):
        (folder / f"{n}.webp").write_bytes(animated_webp(frames=1 + n))


def _pngs(folder: Path) -> None:
    data = flat_png(9_990, 9_990, 16, 6)
    for n in range(16):
        (folder / f"{n}.png").write_bytes(data)


def _herd(name: str, workers: int, lay: Callable[[Path], None]) -> Case:
    def make(folder: Path) -> Sequence[str]:
        (folder / "images").mkdir()
        lay(folder / "images")
        (folder / "images" / "good.png").write_bytes(jpeg())
        return ["classify", "images", *COMMON, "--workers", str(workers)]

    def check(folder: Path, said: Said) -> None:
        if said.status != 0:
            raise Lost(said.err.strip())
        every_file(len(list((folder / "images").iterdir())), said)

    return Case(
        "many at once", f"{name}, {workers} workers", make, check,
        limit_s=240, always=True, is_alone=True,
    )  # fmt: skip


def _all(folder: Path, workers: int) -> Sequence[str]:
    (folder / "images").mkdir()
    for number, file in enumerate(files()):
        # names of two kinds may be the same
        (folder / "images" / f"{number:03} {file.name}").write_bytes(file.content())
    words = ["classify", "images", *COMMON, "--workers", str(workers), "--csv", "answers.csv"]
    return [*words, "--out", "run"]


def _all_found(folder: Path, said: Said) -> None:
    if said.status != 0:
        raise Lost(said.err.strip())
    every_file(len(list((folder / "images").iterdir())), said)
    rows = (folder / "answers.csv").read_text().count("\n") - 1
    if rows != said.json()["images"]:
        raise Lost(f"{said.json()['images']} answered, {rows} rows")
