"""The demonstration: real photos that scientific Python packages ship, seen offline."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
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


_CONTENT = json.loads(files("captune").joinpath("demo.json").read_text(encoding="utf-8"))
PHOTOS = tuple(
    DemoPhoto(**{**one, "captions": tuple(one["captions"])}) for one in _CONTENT["images"]
)
# labels that no photo shows: a list that only names what is there would flatter
ABSENT: tuple[str, ...] = tuple(_CONTENT["absent"])


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
