"""One table of bad input: what is made, what is asked, and the one sentence that comes back.

Each row runs twice: through the library's own functions, and through the command line.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import features

from captune.cli import main
from captune.errors import UserError
from captune.images import UnreadableImage, find_images, open_image
from captune.zeroshot.labels import read_labels, read_truth
from captune.zeroshot.prompts import expand
from tests.image_factory import broken_cases, encoded, heic, jpeg, picture, readable_cases

OVER = "30000 x 30000 pixels, over the limit of 100 megapixels (CAPTUNE_MAX_MEGAPIXELS)"


@dataclass(frozen=True)
class Row:
    """What lies in the folder `images` of an empty place, what is asked there, what must come back.

    files: name -> bytes, relative to `images`. prepare: whatever else has to be made there.
    images: names of the images that are used. skipped: name -> reason.
    error: a part of the only sentence; nothing was done, and the exit status is 2.
    """

    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    prepare: Callable[[Path], None] = lambda here: None
    sources: tuple[str, ...] = ("images",)
    labels: str = "red,blue"
    prompts: tuple[str, ...] = ()
    truth: str | None = None
    images: tuple[str, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    def __str__(self) -> str:
        return self.name


BROKEN = {case.file: case for case in broken_cases()}
GOOD = {"good.jpg": jpeg()}


def beside_a_good_one(name: str, file: str) -> Row:
    case = BROKEN[file]
    assert case.reason is not None
    skipped = {case.file: case.reason}
    return Row(name, {**GOOD, case.file: case.data}, images=("good.jpg",), skipped=skipped)


def loops(here: Path) -> None:
    (here / "images" / "loop").symlink_to(here / "images", target_is_directory=True)
    (here / "images" / "a.jpg").symlink_to(here / "images" / "b.jpg")
    (here / "images" / "b.jpg").symlink_to(here / "images" / "a.jpg")


def file(name: str, content: str) -> Callable[[Path], None]:
    return lambda here: (here / name).write_text(content, encoding="utf-8") and None


ENDLESS = "too many levels of symbolic links"
ODD_NAMES = ("new\nline.jpg", "\N{GRINNING FACE}.jpg", "two  spaces .jpg", "'\"`$(x).jpg")
READABLE = {c.file: c.data for c in readable_cases() if Path(c.file).suffix}
ROWS = [
    # folders and paths
    Row("empty folder", error="no images in 'images': it is empty"),
    Row("folder of texts", {"a.txt": b"x"}, error="none with an image's ending"),
    Row("missing path", sources=("nowhere",), error="'nowhere' does not exist; give a folder"),
    Row("one of two missing", GOOD, sources=("images", "x"), error="'x' does not exist"),
    Row("empty pattern", GOOD, sources=("images/*.gif",), error="matches nothing"),
    Row("loop of links", GOOD, loops, images=("good.jpg",),
        skipped={"a.jpg": ENDLESS, "b.jpg": ENDLESS}),
    Row("hostile names", dict.fromkeys(ODD_NAMES, jpeg()), images=tuple(sorted(ODD_NAMES))),
    Row("name that is not UTF-8", {"caf\udce9.jpg": jpeg()}, images=("caf\udce9.jpg",)),
    Row("brackets in a name", {"a [1].jpg": jpeg(), "a 1.jpg": jpeg()},
        sources=("images/a [1].jpg",), images=("a [1].jpg",)),
    # files
    beside_a_good_one("text renamed .jpg", "text.jpg"),
    beside_a_good_one("truncated JPEG", "half.jpg"),
    beside_a_good_one("0 bytes", "nothing.jpg"),
    beside_a_good_one("web page", "error.jpg"),
    beside_a_good_one("PostScript", "page.jpg"),
    beside_a_good_one("PNG bomb", "bomb.png"),
    beside_a_good_one("truncated PNG", "half.png"),
    Row("only a bomb", {"bomb.png": BROKEN["bomb.png"].data}, skipped={"bomb.png": OVER},
        error=OVER),
    Row("named file of texts", {"a.txt": b"hello"}, sources=("images/a.txt",),
        skipped={"a.txt": "not an image: text"}, error="not an image: text"),
    Row("odd but readable", READABLE, images=tuple(sorted(READABLE))),
    # labels
    Row("no labels", GOOD, labels=",", error="there are no labels"),
    Row("labels file missing", GOOD, labels="l.txt", error="l.txt does not exist"),
    Row("labels file empty", GOOD, file("l.txt", "\n"), labels="l.txt",
        error="l.txt: there are no labels"),
    Row("labels doubled", GOOD, labels="red,blue,red", error='"red" appears more than once'),
    Row("labels with braces", GOOD, labels="{},{object},{0}", images=("good.jpg",)),
    Row("10,000 labels", GOOD, file("l.txt", "\n".join(f"name {n}" for n in range(10_000))),
        labels="l.txt", images=("good.jpg",)),
    Row("JSON with doubled keys", GOOD, file("labels.json", '{"7": "a", "7": "b"}'),
        labels="labels.json",
        error='labels.json: class id "7" appears twice; keep one of them.'),
    Row("JSON that is none", GOOD, file("l.json", "{'0': 'cat'}"), labels="l.json",
        error="l.json is not valid JSON at line 1, column 2"),
    # prompts
    Row("template without a place", GOOD, prompts=("a photo",),
        error='the prompt "a photo" has no place for the label; write {} or {object}'),
    Row("misspelt set", GOOD, prompts=("openai80",), error="or name a set (openai-80"),
    # truth
    Row("truth missing", GOOD, truth="t.csv", error="t.csv does not exist; give a CSV"),
    Row("truth of other images", GOOD, file("t.csv", "filename,label\nx.jpg,red\n"), truth="t.csv",
        error="t.csv: none of its rows names one of these images"),
    Row("truth with an unknown label", GOOD, file("t.csv", "filename,label\ngood.jpg,green\n"),
        truth="t.csv", error='"green" (line 2) is not among the 2 labels'),
    Row("names without truth", GOOD, truth="from-name", error="no image is called <class id>_<n>"),
]  # fmt: skip
if features.check("avif"):
    ROWS.append(Row("AVIF", {"a.avif": encoded(picture(), "AVIF")}, images=("a.avif",)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def lay_out(row: Row, here: Path) -> None:
    for name, data in row.files.items():
        (here / "images" / name).write_bytes(data)
    row.prepare(here)


def check_sentence(sentence: str, row: Row) -> None:
    assert row.error is not None
    assert row.error in sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_library(row: Row, here: Path):
    lay_out(row, here)
    try:
        labels = read_labels(row.labels)
        expand(row.prompts)
        found = find_images(row.sources)
        if row.truth is not None:
            read_truth(row.truth, found.images, labels)
    except UserError as error:
        check_sentence(str(error), row)
        return
    skipped = {item.path: item.reason for item in found.skipped}
    images = []
    for image in found.images:
        try:
            assert open_image(image.path).mode == "RGB"
            images.append(image.name)
        except UnreadableImage as refusal:
            skipped[image.name] = refusal.reason
    assert images == list(row.images)
    assert skipped == row.skipped
    assert bool(images) == (row.error is None)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_command_line(row: Row, here: Path, colours, capsys):
    lay_out(row, here)
    words = ["classify", *row.sources, "--labels", row.labels, "--csv", "answers.csv", "--json"]
    words += [word for prompt in row.prompts for word in ("--prompt", prompt)]
    words += [] if row.truth is None else ["--truth", row.truth]
    status = main(words)
    out, err = capsys.readouterr()
    if row.error is not None:
        assert status == 2
        check_sentence(err.removeprefix("captune classify: ").rstrip("\n"), row)
        assert not (here / "answers.csv").exists()
        return
    assert status == 0, err
    answer = json.loads(out)
    assert answer["images"] == len(row.images)
    given = {f"images/{name}": reason for name, reason in row.skipped.items()}
    assert {item["path"]: item["reason"] for item in answer["skipped"]} == given
    assert err.count("\n") <= len(row.skipped)
    text = (here / "answers.csv").read_bytes().decode("utf-8", "surrogateescape")
    assert text.startswith("filename,label\n")
    for name in row.images:
        assert name.replace('"', '""') in text


def test_forbidden_folder(here: Path, colours, capsys, monkeypatch):
    lay_out(Row("", {"good.jpg": jpeg()}), here)
    (here / "images" / "closed").mkdir()
    scan = os.scandir

    def refuse(folder="."):
        # root, who often runs tests, may read everything
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert main(["classify", "images", "--labels", "red,blue", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == 1
    assert answer["skipped"] == [{"path": "images/closed", "reason": "no permission to read it"}]


def test_heic_without_its_extra(here: Path, colours, capsys, monkeypatch):
    pytest.importorskip("pillow_heif")
    data = heic()
    lay_out(Row("", {"good.jpg": jpeg(), "phone.heic": data}), here)
    words = ["classify", "images", "--labels", "red,blue", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (here / "images" / "phone.heic").write_bytes(data + b"\0")  # not in the cache
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == [
        {"path": "images/phone.heic", "reason": "HEIC needs an extra: pip install 'captune[heic]'"}
    ]


def test_all_of_it_at_once(here: Path, colours, capsys):
    """The good ones are answered in order, the bad ones named, whatever lies between them."""
    chance = random.Random(1)
    files = {case.file: case.data for case in broken_cases()}
    files |= {f"good {chance.random()}.jpg": jpeg(seed) for seed in range(40)}
    lay_out(Row("", files), here)
    assert main(["classify", "images", "--labels", "red,blue", "--json", "--batch-size", "7"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["images"] == 40
    assert {item["path"]: item["reason"] for item in answer["skipped"]} == {
        f"images/{case.file}": case.reason for case in broken_cases()
    }
