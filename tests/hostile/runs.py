"""Cases of hostile run folders: real ones of every job, spoiled, and given to what reads them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.hostile.mutations import (
    FILES,
    MARKUP,
    TEXTS,
    change_value,
    npz_of,
    packed_npz,
    pickled_npz,
)
from tests.hostile.runner import Case, Said, Wrong
from tests.hostile.seeds import KINDS, seeds
from tests.image_factory import encoded, picture
from tests.pages.page_reader import Outline

REPORTED = ("run.json", "metrics.json", "records.jsonl")
_JPEG = "/9j/4AAQ"  # how every one begins in base64
_VALUES = 12  # files of each kind with a changed value


def cases() -> Iterator[Case]:
    """All of them."""
    yield from special()
    for kind in KINDS:
        for name, file, spoil in _spoiled(kind):
            for reader in _readers(kind):
                yield _case(kind, name, file, spoil, reader)
        for seed in range(_VALUES):
            yield _changed(kind, seed)


def _spoiled(kind: str) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """Everything that may lie in the place of a file of a run."""
    files = list(REPORTED)
    if kind == "explain":
        files.append("maps/image_000.npz")
    if kind == "tune":
        files += ["adapter/run.json", "adapter/metrics.json", "adapter/records.jsonl"]
    if kind == "faithful":
        files.append("explain.json")
    for file in files:
        for name, spoil in FILES.items():
            yield name, file, spoil
        if file.endswith(("json", "jsonl")):
            for name, spoil in TEXTS.items():
                yield name, file, spoil


def _readers(kind: str) -> list[Callable[[Path], list[str]]]:
    """Commands that read a run of this kind, given its folder."""
    base = seeds()
    references = str(base / "references.json")
    readers = [lambda run: ["report", str(run), "--out", "page.html"]]
    if kind == "score":
        readers.append(lambda run: ["rank", str(run), "--out", "gallery"])
        readers.append(lambda run: ["verify", str(run / "metrics.json")])
    if kind == "caption":
        readers.append(lambda run: ["score", str(run), "--references", references])
        readers.append(
            lambda run: [
                "compare",
                str(run),
                str(base / "runs" / "caption"),
                "--references",
                references,
            ]
        )
    if kind == "tune":
        readers.append(
            lambda run: ["caption", str(base / "images" / "image_000.png"), "--model", str(run)]
        )
    return readers


def _case(
    kind: str,
    name: str,
    file: str,
    spoil: Callable[[Path], object],
    reader: Callable[[Path], list[str]],
) -> Case:
    def make(folder: Path) -> Sequence[str]:
        run = folder / "run"
        shutil.copytree(seeds() / "runs" / kind, run)
        spoil(run / file)
        return [*reader(run), "--json"]

    words = reader(Path("run"))
    verb = " ".join(word for word in words[:2] if not word.startswith(("/", "run")))
    return Case(f"{kind} run", f"{file} is {name}, {verb}", make, clean_page, "captioner")


def _changed(kind: str, seed: int) -> Case:
    def make(folder: Path) -> Sequence[str]:
        run = folder / "run"
        shutil.copytree(seeds() / "runs" / kind, run)
        chance = random.Random(f"{kind}{seed}")
        readers = _readers(kind)
        for _ in range(1 + seed % 3):
            change_value(run / chance.choice(REPORTED), chance)
        return [*readers[seed % len(readers)](run), "--json"]

    return Case(f"{kind} run", f"values changed, {seed}", make, clean_page, "captioner")


def clean_page(folder: Path, said: Said) -> None:
    """Whatever the run says, the page has captune's own elements alone."""
    for page in (*folder.glob("*.html"), *folder.glob("gallery/*.html")):
        text = page.read_text(encoding="utf-8")
        parsed = Outline()
        parsed.feed(text)
        if parsed.handlers or any(
            "alert(" in script for kind, script in parsed.scripts if not kind
        ):
            raise Wrong(f"{page.name}: markup of the run is an element: {parsed.handlers[:3]}")
        loads = [address for address in parsed.loads if address and not address.startswith("data:")]
        if loads:
            raise Wrong(f"{page.name}: loads {loads[0][:100]}")
        if "root:x:0:0" in text:
            raise Wrong(f"{page.name}: shows /etc/passwd")
        if "\u202e" in text:
            raise Wrong(f"{page.name}: turns the order of its text")
    if (folder / "PWNED").exists():
        raise Wrong("code of the run was run")


def special() -> Iterator[Case]:
    """Attacks that need more than one spoiled file."""
    for name, data in (
        ("claims 54 GB", lambda: npz_of((54, 1024, 262144))),
        ("claims minus one", lambda: npz_of((-1, 3, 3))),
        ("claims 2^62", lambda: npz_of((2**31, 2**31))),
        ("is 1 GB, packed", packed_npz),
        ("is pickled", pickled_npz),
        ("is no archive", lambda: b"PK\3\4" + bytes(500)),
    ):

        def spoil(path: Path, data: Callable[[], bytes] = data) -> None:
            path.write_bytes(data())

        yield _case("explain", name, "maps/image_000.npz", spoil, _readers("explain")[0])
    for kind in ("classify", "caption", "explain", "score", "compare", "tune"):
        yield _elsewhere(kind)
        yield _strange_image(kind)
        yield _marked(kind)
    for first, second in (("tune", "compare"), ("classify", "caption"), ("score", "classify")):
        yield _over_another(first, second)


def _elsewhere(kind: str) -> Case:
    """A run whose root is the whole disk shows one of the user's own images."""

    def make(folder: Path) -> Sequence[str]:
        own = folder / "private"
        own.mkdir()
        (own / "own.png").write_bytes(encoded(picture(64, 64, 5), "PNG"))
        run = folder / "run"
        shutil.copytree(seeds() / "runs" / kind, run)
        for place in (run, *(run / name for name in ("adapter", "lora"))):
            if (place / "run.json").exists():
                about = json.loads((place / "run.json").read_text())
                about["root"] = "/"
                (place / "run.json").write_text(json.dumps(about))
                lines = (place / "records.jsonl").read_text().splitlines()
                records = [json.loads(line) | {"path": str(own / "own.png")[1:]} for line in lines]
                (place / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
        return ["report", str(run), "--out", "page.html", "--json"]

    def check(folder: Path, said: Said) -> None:
        page = folder / "page.html"
        if page.exists() and _JPEG in page.read_text():
            raise Wrong("an image outside the run's folder is on its page")

    return Case("somebody's own images", f"root is / in a {kind} run", make, check, "captioner")


def _strange_image(kind: str) -> Case:
    """The images of a run are pipes, devices and bombs."""

    def make(folder: Path) -> Sequence[str]:
        from tests.hostile.image_bytes import animated_webp

        run = folder / "run"
        shutil.copytree(seeds() / "runs" / kind, run)
        images = run / "images"
        images.mkdir()
        import os

        os.mkfifo(images / "0.jpg")
        (images / "1.jpg").symlink_to("/dev/zero")
        (images / "2.jpg").write_bytes(animated_webp(frames=3))
        about = json.loads((run / "run.json").read_text())
        about["root"] = str(images)
        (run / "run.json").write_text(json.dumps(about))
        lines = (run / "records.jsonl").read_text().splitlines()
        records = [json.loads(line) | {"path": f"{n % 3}.jpg"} for n, line in enumerate(lines)]
        (run / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
        return ["report", str(run), "--out", "page.html", "--json"]

    return Case(
        "images of a run", f"pipes and bombs in a {kind} run", make, clean_page, "captioner"
    )


def _marked(kind: str) -> Case:
    """Every text of a run is markup and escapes."""

    def make(folder: Path) -> Sequence[str]:
        run = folder / "run"
        shutil.copytree(seeds() / "runs" / kind, run)
        lines = (run / "records.jsonl").read_text().splitlines()
        records = [_with_markup(json.loads(line)) for line in lines]
        (run / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
        return ["report", str(run), "--out", "page.html"]

    return Case(
        "text of a run", f"markup in every text of a {kind} run", make, clean_page, "captioner"
    )


def _with_markup(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: item if key in ("path", "maps", "id", "image", "truth") else _with_markup(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_with_markup(item) for item in value]
    if isinstance(value, str):
        return f"{value} {MARKUP} \u202egnp \x1b[31m"
    return value


def _over_another(first: str, second: str) -> Case:
    """A run of another job in --out is not replaced without a word."""

    def make(folder: Path) -> Sequence[str]:
        from tests.hostile.seeds import commands

        shutil.copytree(seeds() / "runs" / first, folder / "run")
        return [*commands(seeds())[second], "--out", str(folder / "run"), "--json"]

    def check(folder: Path, said: Said) -> None:
        if said.status == 0:
            raise Wrong(f"a {first} was replaced by a {second}")
        if json.loads((folder / "run" / "run.json").read_text())["kind"] != first:
            raise Wrong(f"a {first} was spoiled")

    return Case(
        "over another run", f"{second} over a {first}", make, check, "captioner", always=True
    )
