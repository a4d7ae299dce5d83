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
    """A photo inside an installed package; the label and the captions that people would give it."""

    package: str
    file: str
    name: str
    label: str
    captions: tuple[str, ...]


PHOTOS = (
    DemoPhoto(
        "skimage",
        "data/astronaut.png",
        "astronaut.png",
        "astronaut",
        (
            "A smiling woman in an orange space suit stands in front of a flag.",
            "A female astronaut holds her helmet beside a model of a space shuttle.",
            "A woman with short blond hair poses in an orange suit.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/chelsea.png",
        "cat.png",
        "cat",
        (
            "A close up of a brown striped cat with green eyes.",
            "The face of a cat looking to the side.",
            "A cat lies on a white blanket.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/coffee.png",
        "coffee.png",
        "cup of coffee",
        (
            "A cup of coffee on a red saucer with a spoon.",
            "A small red cup of coffee stands on a wooden table.",
            "An espresso on a table.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/rocket.jpg",
        "rocket.jpg",
        "rocket",
        (
            "A white rocket stands on a launch pad at night.",
            "A rocket between tall metal towers against a dark blue sky.",
            "Lights shine around a rocket before it is launched.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/motorcycle_left.png",
        "motorcycle.png",
        "motorcycle",
        (
            "A red motorcycle is parked in a garage.",
            "A red and black motorbike stands in front of shelves and a wooden bench.",
            "A motorcycle on a concrete floor.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/coins.png",
        "coins.png",
        "coins",
        (
            "Four rows of old coins on a dark background.",
            "A collection of silver coins in a black and white photo.",
            "Many round coins lie side by side.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/brick.png",
        "wall.png",
        "brick wall",
        (
            "A wall of gray bricks.",
            "Rows of long bricks with light mortar between them.",
            "A close up of a brick wall in black and white.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/camera.png",
        "photographer.png",
        "photographer",
        (
            "A man in a black coat looks through a camera on a tripod.",
            "A photographer takes a picture in a park.",
            "A man with a camera stands on a field of grass.",
        ),
    ),
    DemoPhoto(
        "skimage",
        "data/page.png",
        "page.png",
        "page of a book",
        (
            "A page of a book with black text on white paper.",
            "Printed text under a headline.",
            "A paragraph about images and a line of code.",
        ),
    ),
    DemoPhoto(
        "sklearn",
        "datasets/images/china.jpg",
        "temple.jpg",
        "temple",
        (
            "A red temple with green roofs stands above a lake.",
            "A Chinese tower among trees beside the water.",
            "A tall old building with many roofs.",
        ),
    ),
    DemoPhoto(
        "sklearn",
        "datasets/images/flower.jpg",
        "flower.jpg",
        "flower",
        (
            "An orange flower in front of dark green leaves.",
            "A close up of an orange dahlia.",
            "A round flower with many petals.",
        ),
    ),
    DemoPhoto(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "officer.jpg",
        "officer in uniform",
        (
            "An old woman in a navy uniform stands in front of a flag.",
            "An officer with glasses and a black hat.",
            "A woman in a dark uniform with medals looks at the camera.",
        ),
    ),
)
# labels that no photo shows: a list that only names what is there would flatter
ABSENT = ("dog", "bicycle", "beach", "pizza", "ship", "horse", "car", "bird")


@dataclass(frozen=True)
class Material:
    """photos: a folder. labels: a JSON list. truth: a CSV. references: captions by people, JSON."""

    photos: Path
    labels: Path
    truth: Path
    references: Path


def gather_photos(folder: Path) -> Material:
    """Copy the photos that installed packages ship into `folder`, with what people say of them.

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
    names = sorted({photo.label for photo in PHOTOS} | set(ABSENT))
    rows = "".join(f"{photo.name},{photo.label}\n" for photo in found)
    captions = {Path(photo.name).stem: list(photo.captions) for photo in found}
    return Material(
        photos,
        _written(folder / "labels.json", json.dumps(names, indent=1) + "\n"),
        _written(folder / "truth.csv", "filename,label\n" + rows),
        _written(folder / "references.json", json.dumps(captions, indent=1) + "\n"),
    )


def steps(material: Material, folder: Path, *, captions: bool) -> dict[str, list[str]]:
    """The commands of the demonstration, as a user would type them, by their verbs.

    captions: with those that need the captioner that ships. The page comes last.
    """
    photos, labels, truth = map(str, (material.photos, material.labels, material.truth))
    runs = {verb: str(folder / verb) for verb in ("classify", "prompts")}
    asked = ["--labels", labels, "--truth", truth]
    found = {
        "classify": ["classify", photos, *asked, "--top5", "3", "--out", runs["classify"]],
        "prompts": ["prompts", photos, *asked, "--out", runs["prompts"]],
    }
    if captions:
        runs |= {verb: str(folder / verb) for verb in ("caption", "score", "explain")}
        # a dozen photos are too few to say how rare a word is: the counts of COCO do
        against = ["--references", str(material.references), "--df", "coco-val2017"]
        found |= {
            "caption": ["caption", photos, "--out", runs["caption"]],
            "score": [
                *("score", runs["caption"], *against),
                *("--photos", photos, "--out", runs["score"]),
            ],
            "explain": ["explain", photos, "--out", runs["explain"]],
        }
    title = "captune: five jobs on a dozen photos" if captions else "captune: a dozen photos"
    page = str(folder / "report.html")
    found["report"] = ["report", *runs.values(), "--title", title, "--out", page]
    return found


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


def _written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


def _package_folder(package: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
