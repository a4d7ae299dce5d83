"""A miniature of the assignment's data, of real images: python benchmarks/miniature.py FOLDER

Out of the images that captune is developed with (--data) it writes what `captune reproduce dlcv-hw3
--data FOLDER --lite --epochs 2` reads: 500 images of 50 classes to recognise, 200 images with five
captions each to train on and 100 to be judged by, and a bike, a girl, sheep, skis and an umbrella.
The images are copied, and their licences go with them: nothing of it is to be passed on.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "data"
# the assignment's five pictures, by what people call what is on them
PICTURES = {
    "bike": r"\b(bikes?|bicycles?)\b",
    "girl": r"\bgirl\b",
    "sheep": r"\bsheep\b",
    "ski": r"\bski(s|ing|er|ers)?\b",
    "umbrella": r"\bumbrellas?\b",
}


def main() -> int:
    """Read the words, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder to write; it must not be there yet")
    parser.add_argument("--data", type=Path, default=SHARED, help="where the images are")
    parser.add_argument("--train", type=int, default=200, help="images to train on")
    parser.add_argument("--val", type=int, default=100, help="images to be judged by")
    parser.add_argument("--classes", type=int, default=50, help="classes to recognise")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    asked = parser.parse_args()
    if asked.folder.exists():
        parser.error(f"{asked.folder} is there already; name a new folder")
    write_recognition(asked.data / "caltech-sample", asked.folder / "p1_data", asked.classes)
    chance = random.Random(asked.seed)
    captions = asked.folder / "p2_data"
    for part, count in (("train", asked.train), ("val", asked.val)):
        write_captions(asked.data / "flickr8k", captions, part, count, chance)
    named = write_pictures(asked.data / "coco-mini", asked.folder / "p3_data" / "images")
    print(f"{asked.folder}: {asked.classes} classes, {asked.train} images to train on and")
    print(f"{asked.val} to be judged by; pictures: {', '.join(named)}")
    print(f"captune reproduce dlcv-hw3 --data {asked.folder} --lite --epochs 2 --out RUN")
    return 0


def write_recognition(source: Path, target: Path, classes: int) -> None:
    """`val/<class id>_<n>.jpg` and `id2label.json`."""
    labels = json.loads((source / "id2label.json").read_text(encoding="utf-8"))
    kept = dict(list(labels.items())[:classes])
    images = target / "val"
    images.mkdir(parents=True)
    for path in sorted((source / "images").iterdir()):
        if path.name.partition("_")[0] in kept:
            shutil.copyfile(path, images / path.name)
    write_json(target / "id2label.json", kept)


def write_captions(
    source: Path, target: Path, part: str, count: int, chance: random.Random
) -> None:
    """`images/PART/` and `PART.json` with nothing in it but what the assignment's has."""
    content = json.loads((source / f"captions_{part}.json").read_text(encoding="utf-8"))
    images = chance.sample(sorted(content["images"], key=lambda one: one["id"]), count)
    ids = {image["id"] for image in images}
    folder = target / "images" / part
    folder.mkdir(parents=True)
    for image in images:
        shutil.copyfile(source / "images" / image["file_name"], folder / image["file_name"])
    written = {
        "annotations": [
            {key: one[key] for key in ("caption", "id", "image_id")}
            for one in content["annotations"]
            if one["image_id"] in ids
        ],
        "images": [{key: image[key] for key in ("file_name", "id")} for image in images],
    }
    write_json(target / f"{part}.json", written)


def write_pictures(source: Path, target: Path) -> list[str]:
    """For each of the five the image that most people call so; the names of those there are."""
    said: dict[str, list[str]] = {}
    for part in ("train", "val"):
        content = json.loads((source / f"captions_{part}.json").read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for one in content["annotations"]:
            said.setdefault(names[one["image_id"]], []).append(one["caption"].lower())
    target.mkdir(parents=True)
    found = []
    for name, pattern in PICTURES.items():
        calls = {
            file: sum(bool(re.search(pattern, text)) for text in texts)
            for file, texts in sorted(said.items())
        }
        best = max(calls, key=calls.__getitem__)
        if calls[best]:
            shutil.copyfile(source / "images" / best, target / f"{name}.jpg")
            found.append(name)
    return found


def write_json(path: Path, content: Any) -> None:
    """As the assignment's files are written: one line."""
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
