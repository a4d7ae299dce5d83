"""What the shipped captioner learns from, in one folder: python packages/captune-lite/gather.py OUT

Reads Flickr8k (--flickr8k: images/, captions_train.json, captions_val.json) and a little COCO
(--coco: images/, captions_train.json). Writes links to the images and

    OUT/val/         those to the validation images alone
    OUT/train.json   all training images of both    OUT/val.json    Flickr8k's validation images
    OUT/fit.json     nine in ten of train.json      OUT/fold.json   the others
    OUT/views/       of each training image itself and two crops in other light
    OUT/views.json   the views, each with the captions of its image

Settings are chosen on the fold, so that the validation images decide once.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageEnhance

SHARE, SEED = 10, 0
QUALITY = 93  # of JPEG


class View(NamedTuple):
    """A random crop. smallest: its area as a fraction of the image; light: 0.2 is at most 20 %."""

    seed: int
    smallest: float
    may_mirror: bool
    light: float


VIEWS = (View(0, 0.75, True, 0.15), View(7_000_003, 0.65, False, 0.2))


def main(words: list[str] | None = None) -> int:
    """Read, link, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--flickr8k", type=Path, required=True, metavar="DIR")
    parser.add_argument("--coco", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args(words)
    flickr, coco, out = arguments.flickr8k, arguments.coco, arguments.out
    train = [
        *read(flickr / "captions_train.json", flickr / "images", "flickr8k"),
        *read(coco / "captions_train.json", coco / "images", "coco"),
    ]
    val = read(flickr / "captions_val.json", flickr / "images", "flickr8k")
    for folder, images in (("images", [*train, *val]), ("val", val)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        for image in images:
            link = out / folder / image["name"]
            link.unlink(missing_ok=True)
            link.symlink_to(image["path"].resolve())
    held = set(random.Random(SEED).sample(range(len(train)), len(train) // SHARE))  # noqa: S311
    write(out / "train.json", train)
    write(out / "val.json", val)
    write(out / "fit.json", [image for i, image in enumerate(train) if i not in held])
    write(out / "fold.json", [image for i, image in enumerate(train) if i in held])
    (out / "views").mkdir(exist_ok=True)
    write(
        out / "views.json",
        [one for i, image in enumerate(train) for one in views(image, i, out / "views")],
    )
    return 0


def views(image: dict[str, Any], number: int, folder: Path) -> list[dict[str, Any]]:
    """Write the views of an image; each with the captions of the image."""
    names = [f"{view}-{image['name']}" for view in range(1 + len(VIEWS))]
    link = folder / names[0]
    link.unlink(missing_ok=True)
    link.symlink_to(image["path"].resolve())
    words = {word for caption in image["captions"] for word in caption.lower().split()}
    for view, name in zip(VIEWS, names[1:], strict=True):
        if not (folder / name).exists():
            with Image.open(image["path"]) as opened:
                made = crop(opened.convert("RGB"), view, number, words)
            made.save(folder / name, quality=QUALITY)
    return [{**image, "name": name} for name in names]


def crop(image: Image.Image, view: View, number: int, words: set[str]) -> Image.Image:
    """One view. words: of its captions; one that names a side is not mirrored."""
    rng = random.Random(view.seed + number)  # noqa: S311
    side = rng.uniform(view.smallest, 1) ** 0.5
    aspect = rng.uniform(0.92, 1.08)
    width, height = image.size
    wide, high = int(min(width, width * side * aspect)), int(min(height, height * side / aspect))
    left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
    made = image.crop((left, top, left + wide, top + high))
    if view.may_mirror and words.isdisjoint({"left", "right"}) and rng.random() < 0.5:
        made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Color, ImageEnhance.Contrast):
        made = enhance(made).enhance(rng.uniform(1 - view.light, 1 + view.light))
    return made


def read(captions: Path, images: Path, prefix: str) -> list[dict[str, Any]]:
    """Images with their captions, in the order of the file."""
    known = json.loads(captions.read_text(encoding="utf-8"))
    own: dict[Any, list[str]] = {image["id"]: [] for image in known["images"]}
    for annotation in known["annotations"]:
        own[annotation["image_id"]].append(annotation["caption"])
    return [
        {
            "name": f"{prefix}-{Path(image['file_name']).name}",
            "path": images / image["file_name"],
            "captions": own[image["id"]],
        }
        for image in known["images"]
    ]


def write(path: Path, images: list[dict[str, Any]]) -> None:
    """COCO's form of annotations."""
    captions = [(i, caption) for i, image in enumerate(images) for caption in image["captions"]]
    content = {
        "images": [{"id": i, "file_name": image["name"]} for i, image in enumerate(images)],
        "annotations": [
            {"id": number, "image_id": i, "caption": caption}
            for number, (i, caption) in enumerate(captions)
        ],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
