"""The demonstration: real photos that scientific Python packages ship, seen offline."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from captune.errors import MissingExtra, UserError


@dataclass(frozen=True)
class DemoPhoto:
    """A photo inside an installed package, and the label that a person would give it."""

    package: str
    file: str
    name: str
    label: str


PHOTOS = (
    DemoPhoto("skimage", "data/astronaut.png", "astronaut.png", "astronaut"),
    DemoPhoto("skimage", "data/chelsea.png", "cat.png", "cat"),
    DemoPhoto("skimage", "data/coffee.png", "coffee.png", "cup of coffee"),
    DemoPhoto("skimage", "data/rocket.jpg", "rocket.jpg", "rocket"),
    DemoPhoto("skimage", "data/motorcycle_left.png", "motorcycle.png", "motorcycle"),
    DemoPhoto("skimage", "data/coins.png", "coins.png", "coins"),
    DemoPhoto("skimage", "data/brick.png", "wall.png", "brick wall"),
    DemoPhoto("skimage", "data/camera.png", "photographer.png", "photographer"),
    DemoPhoto("skimage", "data/page.png", "page.png", "page of a book"),
    DemoPhoto("sklearn", "datasets/images/china.jpg", "temple.jpg", "temple"),
    DemoPhoto("sklearn", "datasets/images/flower.jpg", "flower.jpg", "flower"),
    DemoPhoto(
        "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "officer.jpg", "officer in uniform"
    ),
)
# labels that no photo shows: a list that only names what is there would flatter
ABSENT = ("dog", "bicycle", "beach", "pizza", "ship", "horse", "car", "bird")


def gather_photos(folder: Path) -> tuple[Path, Path, Path]:
    """Copy the photos that installed packages ship into `folder`.

    Returns the folder of photos, the labels as a text file and the truth as a CSV.
    Raises MissingExtra where fewer than half of the photos can be found.
    """
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    found = []
    for photo in PHOTOS:
        source = _package_folder(photo.package)
        if source is not None and (source / photo.file).is_file():
            shutil.copyfile(source / photo.file, photos / photo.name)
            found.append(photo)
    if len(found) < len(PHOTOS) / 2:
        raise MissingExtra("the demonstration (it uses photos of scikit-image)", "demo")
    labels = folder / "labels.json"
    names = sorted({photo.label for photo in PHOTOS} | set(ABSENT))
    labels.write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
    truth = folder / "truth.csv"
    rows = "".join(f"{photo.name},{photo.label}\n" for photo in found)
    truth.write_text("filename,label\n" + rows, encoding="utf-8")
    return photos, labels, truth


def why_no_captions() -> str | None:
    """Where the captioner that ships with captune is not there, a sentence; None where it is."""
    from captune.captioning.shipped import lite_captioner

    try:
        lite_captioner()
    except MissingExtra:
        return (
            "the photos are not described in words: the captioner is a package of its own,"
            " captune-lite (pip install 'captune[lite]')"
        )
    except UserError as error:
        return f"the photos are not described in words: {error}"
    return None


def write_page(recognised: Path, described: Path, page: Path) -> None:
    """One page of both runs: each photo with its caption and its labels."""
    from captune.report import classification
    from captune.runs import read_run

    captions = read_run(described)
    classification.write_page(read_run(recognised), page, captions=captions)


def _package_folder(package: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
