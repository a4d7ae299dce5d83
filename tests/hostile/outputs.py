"""Cases of hostile places and files: results, sidecars, sentences, samples, citations, pages."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.hostile.files import ANY, written
from tests.hostile.mutations import ESCAPES, FILES, MARKUP, change_value
from tests.hostile.runner import Case, Said, Wrong
from tests.hostile.seeds import KINDS, seeds

_MINE = "what is mine"  # stands in a file beside the folder that hostile links lead to
_PLACES = ("a pipe", "a socket", "a folder", "a link to itself", "a link to /dev/full")
_SAMPLES = {  # a line of lmms-eval's and one of lm-evaluation-harness's
    "lmms-eval": {"doc_id": 0, "target": ["w20 w22"], "filtered_resps": ["w20"],
                  "input": "", "coco_CIDEr": {"image_id": "image_000", "pred": "w20",
                                              "answer": ["w20 w22"]}},
    "harness": {"doc_id": 0, "doc": {"image_id": "image_000", "caption": ["w20 w22"]},
                "target": "w20", "resps": [["w20"]], "filtered_resps": ["w20"]},
}  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    yield from (*_written(), *_sidecars(), *_sentences(), *_samples(), *_cited(), *_pages())


def _unharmed(folder: Path, said: Said) -> None:
    mine = folder / "mine"
    if mine.exists() and mine.read_text() != _MINE:
        raise Wrong("a file outside the folder was written through a link")
    if list(folder.rglob("*.partial")):
        raise Wrong("left a half-written file")


def _case(kind: str, name: str, make: Callable[[Path], Sequence[str]]) -> Case:
    return Case(kind, name, make, _unharmed, "captioner", always=True)


def _written() -> Iterator[Case]:
    """--to and its like: what lies there already, and one file named twice."""
    base = seeds()
    images, references = str(base / "job" / "images"), str(base / "references.json")
    model = str(base / "model" / "run")
    labels = ["--labels", str(base / "labels.json")]
    caption = ["caption", str(base / "images"), "--model", model, "--device", "cpu"]
    score = ["score", str(base / "candidates.json"), "--references", references]
    ways = {
        "classify": (["classify", images, *labels], ("csv", "jsonl", "json", "parquet")),
        "caption": ([*caption, "--max-tokens", "4"], ("json", "parquet")),
        "prompts": (["prompts", images, *labels, "--truth", "from-name"], ("jsonl",)),
        "score": ([*score, "--metrics", "cider"], ("csv", "parquet")),
        "embed": (["embed", images], ("npz", "parquet", "safetensors")),
    }
    for command, (words, endings) in ways.items():
        for ending in endings:
            for place in _PLACES:

                def make(
                    folder: Path,
                    words: list[str] = words,
                    name: str = f"answers.{ending}",
                    place: str = place,
                ) -> Sequence[str]:
                    path = folder / name
                    path.touch()
                    if place == "a link to /dev/full":
                        path.unlink()
                        path.symlink_to("/dev/full")
                    else:
                        FILES[place](path)
                    return [*words, "--to", name]

                yield _case("written", f"{command}: .{ending} is {place}", make)
    for name, paths in {
        "one file twice": ["a.csv", "./a.csv"],
        "one file by another way": ["a.csv", "../here/a.csv"],
        "below a file": ["/etc/passwd/a.csv"],
        "escapes": [f"{ESCAPES}.csv"],
        "a zero byte": ["a\0.csv"],
        "half a character": ["caf\udce9.csv"],
        "the labels": [str(base / "labels.json")],
    }.items():
        to = [word for path in paths for word in ("--to", path)]
        yield _case("written", name, partial(_words, ["classify", images, *labels, *to]))


def _words(words: list[str], folder: Path) -> Sequence[str]:
    return words


def _sidecars() -> Iterator[Case]:
    """A folder of images whose sidecars are none."""
    base = seeds()
    places = {
        **{name: FILES[name] for name in (
            "a pipe", "a socket", "a folder", "a link to itself", "a link to /dev/zero",
            "20 GB of nothing", "random bytes",
        )},
        "a link to mine": lambda path: (path.unlink(), path.symlink_to("../mine")),
        "a link to nothing": lambda path: (path.unlink(), path.symlink_to("../other")),
    }  # fmt: skip
    for existing in ("skip", "overwrite", "append", "prepend"):
        for name, lay in places.items():

            def make(
                folder: Path, lay: Callable[[Path], Any] = lay, existing: str = existing
            ) -> Sequence[str]:
                images = folder / "images"
                shutil.copytree(base / "images", images)
                (folder / "mine").write_text(_MINE)
                (images / "image_001.txt").touch()
                lay(images / "image_001.txt")
                words = ["caption", "images", "--model", str(base / "model" / "run")]
                words += ["--max-tokens", "4", "--device", "cpu", "--sidecar"]
                return [*words, "--existing", existing, "--prefix", ESCAPES]

            yield _case("sidecars", f"{existing}: {name}", make)


def _laid(name: str, content: Any, words: list[str], folder: Path) -> Sequence[str]:
    path = folder / name
    path.touch()
    written(content)(path)
    return words


def _sentences() -> Iterator[Case]:
    """Files of --texts."""
    contents = ANY | {
        "a line of a megabyte": "x" * 1_000_000,
        "one long and many short": "a\n" * 10_000 + "b" * 100_000,
        "a million lines": "red\n" * 1_000_000,
        "markup": MARKUP,
    }
    for name, content in contents.items():
        words = ["embed", "--texts", "t.txt", "--to", "f.npz", "--to", "f.safetensors"]
        yield _case("sentences", name, partial(_laid, "t.txt", content, words))


def _samples() -> Iterator[Case]:
    """Lines of other evaluations, every value changed by turns."""
    base = seeds()
    for kind, sample in _SAMPLES.items():
        for seed in range(24):

            def make(
                folder: Path, sample: dict[str, Any] = sample, seed: int = seed
            ) -> Sequence[str]:
                path = folder / "samples_coco.jsonl"
                path.write_text(f"{json.dumps(sample)}\n" * 3)
                chance = random.Random(seed)
                for _ in range(1 + seed % 3):
                    change_value(path, chance)
                others = str(base / "candidates.json")
                words = ["compare", path.name, others, "--metrics", "cider", "--json"]
                return [*words, "--references", str(base / "references.json"), "--subset"]

            yield _case("samples", f"{kind}: values changed, {seed}", make)


def _cited() -> Iterator[Case]:
    """Runs with other values, cited."""
    for kind in KINDS:
        for seed in range(8):

            def make(folder: Path, kind: str = kind, seed: int = seed) -> Sequence[str]:
                shutil.copytree(seeds() / "runs" / kind, folder / "run")
                chance = random.Random(f"{kind}{seed}")
                for _ in range(1 + seed % 3):
                    change_value(
                        folder / "run" / chance.choice(("run.json", "metrics.json")), chance
                    )
                return ["cite", "run"]

            yield _case("cited", f"{kind}: values changed, {seed}", make)


def _pages() -> Iterator[Case]:
    """Pages that captune did not write, before `verify`."""
    about = '<script type="application/json" id="about">'
    for name, content in {
        "declarations": "<![" * 1000,
        "open comments": "<!--" * 1_000_000,
        "open elements": "<a b=" * 1_000_000,
        "open scripts": "<script></" * 1_000_000,
        "references": "&" * 5_000_000,
        "data of gigabytes": f"{about}[{'[],' * 2**23}[]]</script>",
        "deep data": f"{about}{'[' * 1_000_000}</script>",
        "runs of pipes": about + json.dumps({"runs": [{"folder": "/dev/zero"}]}) + "</script>",
    }.items():
        yield _case("pages", name, partial(_laid, "p.html", content, ["verify", "p.html"]))
