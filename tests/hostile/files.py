"""Cases of hostile caption, label, truth and box files, and of options that name them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.hostile.mutations import ESCAPES, FILES, MARKUP, TEXTS
from tests.hostile.runner import Case, Said, Wrong
from tests.hostile.seeds import seeds

Lay = Callable[[Path], object]


def cases() -> Iterator[Case]:
    """All of them."""
    yield from (*_captions(), *_labels(), *_truth(), *_boxes(), *_others(), *_typed())


def written(content: Any) -> Lay:
    """What lays `content`, bytes, text or JSON, in the place of a file."""
    if callable(content):
        return content
    if isinstance(content, bytes):
        return lambda path: path.write_bytes(content)
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda path: path.write_bytes(text.encode("utf-8", "surrogatepass"))


# in the place of any of these files
ANY: dict[str, Any] = {
    **{name: FILES[name] for name in (
        "a pipe", "a link to /dev/zero", "empty", "a folder", "20 GB of nothing", "random bytes",
        "a link to itself", "a link to /proc/self/mem", "a link to /dev/urandom",
    )},
    **{name: TEXTS[name] for name in (
        "nested 100,000 deep", "objects 100,000 deep", "NaN", "doubled keys", "UTF-16", "a list",
        "nothing (null)", "a million keys", "300 MB of blanks", "a line of 200 MB", "escapes",
    )},
}  # fmt: skip


def _case(kind: str, name: str, file: str, lay: Lay, words: Sequence[str]) -> Case:
    """words: in which FILE stands for the file that is laid."""

    def make(folder: Path) -> Sequence[str]:
        path = folder / file
        path.touch()
        lay(path)
        return [str(path) if word == "FILE" else word for word in words]

    return Case(kind, name, make, _unharmed, "captioner")


def _unharmed(folder: Path, said: Said) -> None:
    if list(folder.rglob("PWNED")):
        raise Wrong("code of the file was run")
    for path in folder.glob("*.csv"):
        rows = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:]
        cells = [cell for row in rows for cell in row.split(",")]
        evil = [cell for cell in cells if cell.lstrip('"').startswith(("=cmd", "@SUM", "+cmd"))]
        if evil and path.name == "answers.csv":
            raise Wrong(f"a cell that a spreadsheet computes: {evil[0][:60]}")


def _captions() -> Iterator[Case]:
    references = str(seeds() / "references.json")
    score = ["score", "FILE", "--references", references, "--metrics", "cider,bleu", "--json"]
    for name, content in ANY.items():
        yield _case("captions", f"candidates: {name}", "c.json", written(content), score)
    stems = sorted(json.loads((seeds() / "references.json").read_text()))
    long = " ".join(["word"] * 1_000_000)
    texts: dict[str, Any] = {
        "markup": dict.fromkeys(stems, MARKUP),
        "escapes": dict.fromkeys(stems, ESCAPES),
        "formulas": dict.fromkeys(stems, "=cmd|'/c calc'!A0"),
        "a million words": dict.fromkeys(stems, long),
        "a word of a megabyte": dict.fromkeys(stems, "x" * 1_000_000),
        "half characters": '{"a": "\\ud83d"}',
        "combining": dict.fromkeys(stems, "e" + "\u0301" * 10_000),
        "dots": dict.fromkeys(stems, "." * 200_000),
        "apostrophes": dict.fromkeys(stems, "'" * 200_000),
        "dashes": dict.fromkeys(stems, "a-" * 100_000),
        "digits": dict.fromkeys(stems, "1," * 100_000 + "1/2 " * 50_000),
        "at signs": dict.fromkeys(stems, "a@" * 100_000),
        "brackets": dict.fromkeys(stems, "<" * 100_000 + "(" * 100_000),
        "an id of a megabyte": {"x" * 1_000_000: "a"},
        "100,000 images": {str(n): "a" for n in range(100_000)},
        "100,000 captions of one": {stems[0]: ["a b"] * 100_000},
        "ids of escapes": {ESCAPES: "a"},
        "no captions": dict.fromkeys(stems, ""),
    }
    for name, content in texts.items():
        yield _case("captions", f"texts: {name}", "c.json", written(content), score)
    tables = {
        "formulas.csv": "image,caption\n" + "".join(f"{s},=1+1\n" for s in stems),
        "an open quote.csv": 'image,caption\na,"' + "x" * 5_000_000,
        "a million commas.csv": "image,caption\n" + "," * 1_000_000,
        "a million columns.csv": ",".join(f"c{n}" for n in range(1_000_000)) + "\n1",
        "zero bytes.csv": b"image,caption\na,\0b\n",
        "doubled.csv": "image,image,caption\na,b,c\n",
        "lone carriage returns.csv": "image,caption\r" + "a,b\r" * 1000,
        "markup.jsonl": json.dumps({"image": stems[0], "caption": MARKUP}) + "\n",
        "half a line.jsonl": '{"image": "a", "caption": ',
        "deep.jsonl": "[" * 100_000,
        "a BOM inside.jsonl": '\ufeff{"image": "a", "caption": "b"}\n\ufeff{"image": 1}',
    }
    for name, content in tables.items():
        yield _case("captions", f"tables: {name}", name, written(content), score)
    compare = ["compare", "FILE", str(seeds() / "candidates.json"), "--references", references]
    for name in ("markup", "escapes", "formulas", "apostrophes"):
        yield _case("captions", f"compared: {name}", "c.json", written(texts[name]),
                    [*compare, "--csv", "answers.csv", "--out", "run"])  # fmt: skip
    own = ["score", str(seeds() / "candidates.json"), "--references", "FILE", "--json"]
    for name in ("a pipe", "a link to /dev/zero", "20 GB of nothing", "nested 100,000 deep"):
        yield _case("captions", f"references: {name}", "r.json", written(ANY[name]), own)
    for name, content in texts.items():
        if "million" not in name and "100,000" not in name:
            yield _case("captions", f"as references: {name}", "r.json", written(content), own)


def _labels() -> Iterator[Case]:
    images = str(seeds() / "job" / "images")
    asked = ["classify", images, "--labels", "FILE", "--csv", "answers.csv", "--out", "run"]
    for name, content in ANY.items():
        for ending in ("json",) if name in TEXTS else ("json", "txt"):
            yield _case("labels", f"{ending}: {name}", f"l.{ending}", written(content), asked)
    hostile = (
        "red =cmd|'/c calc'!A0",
        "=cmd red",
        "@SUM(1+1)*cmd green",
        "+cmd blue",
        "-cmd white",
    )
    for name, content in {
        "markup": [MARKUP, "red"],
        "escapes": [ESCAPES.replace("\r\n", ""), "red \x1b]52;c;aGk=\x07", "green \u202egnp"],
        "formulas": list(hostile),
        "formulas as ids": {f"={n}": name for n, name in enumerate(hostile)},
        "a megabyte": ["red " + "x" * 1_000_000, "green"],
        "100,000": [f"red {n}" for n in range(100_000)],
        "braces": ["{}", "{0.__class__}", "{object}", "%s"],
        "one letter 9 times": [" " * n + "red" for n in range(9)],
        "prompts of escapes": {"red": [f"a {ESCAPES}"], "green": ["{}"]},
        "10,000 prompts": {"red": [f"a {n}" for n in range(10_000)], "green": ["x"]},
        "ids of markup": {MARKUP: "red", "1": "green"},
        "line separators": ["red\u2028x", "green\u2029y", "blue\x85z"],
        "invisible": ["red", "red\u200b", "red\u2060", "\u00adred"],
    }.items():
        yield _case("labels", name, "l.json", written(content), asked)
        yield _case("labels", f"{name}, for people", "l.json", written(content),
                    ["classify", images, "--labels", "FILE"])  # fmt: skip
    yield _case(
        "labels", "text of escapes", "l.txt", written("red \x1b[31m\ngreen \u202e\n"), asked
    )
    yield _case("labels", "null bytes", "l.txt", written(b"red\0green\n"), asked)
    typed = "red \x1b]52;c;aGk=\x07,green \u202ex,=cmd|'/c calc'!A0"
    yield _case("labels", "typed escapes", "l.txt", written(""),
                ["classify", images, "--labels", typed, "--csv", "answers.csv"])  # fmt: skip
    yield _case("labels", "typed prompt of escapes", "l.txt", written(""), [
        "prompts", images, "--labels", "red,green,blue,white", "--prompt", "\x1b[31m{} \u202e",
        "--prompt", "=cmd {}", "--truth", "from-name", "--csv", "answers.csv", "--out", "run",
    ])  # fmt: skip


def _truth() -> Iterator[Case]:
    images = str(seeds() / "job" / "images")
    asked = ["classify", images, "--labels", "red,green", "--truth", "FILE", "--json"]
    for name in ("a pipe", "a link to /dev/zero", "20 GB of nothing", "random bytes", "a folder",
                 "a line of 200 MB", "300 MB of blanks", "UTF-16"):  # fmt: skip
        yield _case("truth", name, "t.csv", written(ANY[name]), asked)
    for name, content in {
        "escapes": f"filename,label\n\x1b[31m.png,{MARKUP}\n",
        "a million rows": "filename,label\n" + "x.png,red\n" * 1_000_000,
        "formulas": "filename,label\n0_0.png,=1+1\n",
        "an open quote": 'filename,label\n"' + "x" * 3_000_000,
    }.items():
        yield _case("truth", name, "t.csv", written(content), asked)


def _boxes() -> Iterator[Case]:
    base = seeds()
    asked = [
        "faithful", str(base / "model" / "run"), "--images", str(base / "images"), "--captions",
        str(base / "references.json"), "--boxes", "FILE", "--quick", "--out", "run", "--json",
        "--device", "cpu", "--max-tokens", "4",
    ]  # fmt: skip
    names = sorted(path.name for path in (base / "images").iterdir())
    images = [
        {"id": n, "file_name": name, "width": 18, "height": 18} for n, name in enumerate(names)
    ]
    categories = [{"id": 0, "name": "w20"}, {"id": 1, "name": "w22"}]

    def of(*boxes: Any, **changed: Any) -> dict[str, Any]:
        annotations = [
            {"image_id": n % len(names), "category_id": 0, "bbox": b} for n, b in enumerate(boxes)
        ]
        return {"images": images, "annotations": annotations, "categories": categories} | changed

    for name, content in {
        "2^70 wide": of([0, 0, 2**70, 2**70]),
        "1e308": of([1e308, 1e308, 1e308, 1e308]),
        "minus": of([-5, -5, -1, -1]),
        "NaN": '{"images": [], "annotations": [{"bbox": [NaN]}], "categories": []}',
        "texts": of(["a", "b", "c", "d"]),
        "of no size": of([1, 1, 0, 0]),
        "20,000 of one image": of(*[[1, 1, 2 + n / 10_000, 3] for n in range(20_000)]),
        "images without width": of([1, 1, 1, 1], images=[{"id": 1, "width": 0, "height": -1}]),
        "images of 1e-300": of(
            [1, 1, 1, 1], images=[image | {"width": 1e-300} for image in images]
        ),
        "categories of markup": of([0, 0, 9, 9], categories=[{"id": 0, "name": MARKUP}]),
        "a pipe": FILES["a pipe"],
        "a link to /dev/zero": FILES["a link to /dev/zero"],
        "deep": TEXTS["objects 100,000 deep"],
        "a list": [],
    }.items():
        yield _case("boxes", name, "b.json", written(content), asked)


def _others() -> Iterator[Case]:
    """What else names a file: configs of a tune, frequencies of a score, a published study."""
    base = seeds()
    job = base / "job"
    tune = [
        "tune", str(job / "images"), "--captions", str(job / "train.jsonl"), "--val-captions",
        str(job / "val.jsonl"), "--epochs", "1", "--out", "run", "--json", "--config", "FILE",
    ]  # fmt: skip
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    for name, content in {
        "a pipe": FILES["a pipe"],
        "a link to /dev/zero": FILES["a link to /dev/zero"],
        "a billion laughs": laughs,
        "python objects": "!!python/object/apply:os.system ['touch PWNED']",
        "deep": "[" * 50_000,
        "absurd numbers": "epochs: " + "9" * 5000,
        "endless epochs": "batch: -1",
        "escapes": '"\\e[31m": 3',
    }.items():
        yield _case("configs", name, "c.yaml", written(content), tune)
        yield _case("studies", name, "s.yaml", written(content), [
            "report", str(base / "runs" / "classify"), "--out", "page.html", "--published", "FILE",
        ])  # fmt: skip
    score = [
        "score", str(base / "candidates.json"), "--references", str(base / "references.json"),
        "--df", "FILE", "--metrics", "cider", "--json",
    ]  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", bytes(50_000_000))
    import gzip

    for name, content in {
        "a pipe": FILES["a pipe"], "a link to /dev/zero": FILES["a link to /dev/zero"],
        "empty": b"", "random bytes": FILES["random bytes"], "packed zeros": packed.getvalue(),
        "5 GB of zeros, packed": lambda path: _gzip_bomb(path),
        "a pickle": b"cos\nsystem\n(S'touch PWNED'\ntR.",
        "a gzip of JSON": gzip.compress(b'{"images": -1}'), "deep": TEXTS["nested 100,000 deep"],
    }.items():  # fmt: skip
        yield _case("frequencies", name, "d.json.gz", written(content), score)
        yield _case("frequencies", f"{name}, by another name", "d.npz", written(content), score)
    page = ["verify", "FILE"]
    for name, content in {
        "a pipe": FILES["a pipe"], "a link to /dev/zero": FILES["a link to /dev/zero"],
        "empty": b"", "random bytes": FILES["random bytes"], "markup": MARKUP,
        "20 GB of nothing": FILES["20 GB of nothing"],
    }.items():  # fmt: skip
        yield _case("pages", name, "p.html", written(content), page)


def _gzip_bomb(path: Path) -> None:
    import gzip

    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1250):
            file.write(bytes(4_000_000))


def _typed() -> Iterator[Case]:
    """Paths that cannot be, in every place where one is typed."""
    base = seeds()
    images, model = str(base / "images"), str(base / "model" / "run")
    captions, refs = str(base / "candidates.json"), str(base / "references.json")
    run = str(base / "runs" / "score")
    places: dict[str, list[str]] = {
        "images": ["classify", "PATH", "--labels", "a,b"],
        "labels": ["classify", images, "--labels", "PATH"],
        "truth": ["classify", images, "--labels", "a,b", "--truth", "PATH"],
        "csv": ["classify", images, "--labels", "red,blue", "--csv", "PATH"],
        "out": ["classify", images, "--labels", "red,blue", "--out", "PATH"],
        "model": ["caption", images, "--model", "PATH"],
        "decoder": ["caption", images, "--model", model, "--decoder", "PATH", "--device", "cpu"],
        "predictions": ["caption", images, "--model", model, "--predictions", "PATH"],
        "candidates": ["score", "PATH", "--references", refs],
        "references": ["score", captions, "--references", "PATH"],
        "images of a score": ["score", captions, "--references", refs, "--images", "PATH"],
        "frequencies": ["score", captions, "--references", refs, "--df", "PATH"],
        "verify": ["verify", "PATH"],
        "rank": ["rank", "PATH"],
        "gallery": ["rank", run, "--out", "PATH"],
        "report": ["report", "PATH", "--out", "page.html"],
        "page": ["report", run, "--out", "PATH"],
        "figures": ["report", run, "--out", "page.html", "--figures", "PATH"],
        "study": ["report", run, "--out", "page.html", "--published", "PATH"],
        "config": ["tune", "--config", "PATH", "--out", "run"],
        "runs": ["app", "PATH", "--shared", "--name", "a.b", "--host", "192.0.2.1"],
        "embed": ["embed", images, "--to", "PATH"],
        "boxes": ["faithful", model, "--images", images, "--captions", refs, "--boxes", "PATH",
                  "--quick", "--out", "run", "--device", "cpu"],
    }  # fmt: skip
    paths = {
        "of nobody": "~nobody-of-that-name/x.json",
        "too long a name": "x" * 300 + ".json",
        "too long": "x/" * 3000 + "x.json",
        "below a file": "/etc/passwd/x.json",
        "a device": "/dev/full",
        "of escapes": "\x1b[31m\u202ex.json",
        "bytes that are no text": "caf\udce9.json",
    }
    for place, words in places.items():
        for name, path in paths.items():
            yield Case(
                "typed paths",
                f"{place}: {name}",
                lambda folder, w=words, p=path: [p if word == "PATH" else word for word in w],
                _unharmed,
                "captioner",
            )
    for host in ("x..y", "a" * 300, "caf\udce9", "\u202ex", "::1%\x1b"):
        words = ["app", "--host", host, "--shared", "--name", "a.b"]
        yield Case("typed paths", f"host: {host[:20]!a}", lambda folder, w=words: w, _unharmed)
