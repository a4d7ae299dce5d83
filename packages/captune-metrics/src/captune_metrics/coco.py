"""COCO's caption files: an index of images and their captions, as pycocotools has it.

No drawing, no masks, no download: what caption scores need, and nothing that is compiled.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from captune_metrics.display import named, printable
from captune_metrics.errors import MismatchedImages, UserError
from captune_metrics.files import LARGEST_TEXT, read_bytes, require_text

Annotation = dict[str, Any]


class COCO:
    """Annotations of captions; the names and the order of things are those of pycocotools.

    annotation_file: a JSON file with `images` and `annotations`; None for an index to be filled:
        set `dataset`, then call `createIndex`.
    Raises UserError for a file that cannot be read or is none of these.
    """

    def __init__(self, annotation_file: str | Path | None = None) -> None:
        self.dataset: dict[str, Any] = {}
        self.anns: dict[Any, Annotation] = {}
        self.imgs: dict[Any, dict[str, Any]] = {}
        self.imgToAnns: dict[Any, list[Annotation]] = defaultdict(list)
        if annotation_file is not None:
            content = read_json(annotation_file)
            if not isinstance(content, dict):
                raise UserError(
                    f"{printable(annotation_file)} holds no COCO annotations; expected an"
                    " object with images and annotations"
                )
            self.dataset = content
            self.createIndex()

    def createIndex(self) -> None:
        """Index `dataset`. Raises UserError for entries without the keys of COCO."""
        annotations = self.dataset.get("annotations", [])
        images = self.dataset.get("images", [])
        check_entries("annotation", annotations, ("image_id", "id", "caption"))
        check_entries("image", images, ("id",))
        self.anns = {annotation["id"]: annotation for annotation in annotations}
        self.imgs = {image["id"]: image for image in images}
        self.imgToAnns = defaultdict(list)
        for annotation in annotations:
            self.imgToAnns[annotation["image_id"]].append(annotation)

    def getImgIds(self, imgIds: Iterable[Any] = ()) -> list[Any]:
        """The ids of all images, or those of `imgIds` that there are."""
        wanted = _as_list(imgIds)
        return [id for id in self.imgs if id in wanted] if wanted else list(self.imgs)

    def getAnnIds(self, imgIds: Iterable[Any] = ()) -> list[Any]:
        """The ids of the annotations of these images, of all where none is named."""
        wanted = _as_list(imgIds)
        if not wanted:
            return [annotation["id"] for annotation in self.dataset.get("annotations", [])]
        return [ann["id"] for image in wanted for ann in self.imgToAnns.get(image, [])]

    def loadAnns(self, ids: Iterable[Any]) -> list[Annotation]:
        """The annotations with these ids."""
        return [self.anns[id] for id in _as_list(ids)]

    def loadImgs(self, ids: Iterable[Any]) -> list[dict[str, Any]]:
        """The images with these ids."""
        return [self.imgs[id] for id in _as_list(ids)]

    def loadRes(self, resFile: str | Path | Sequence[Mapping[str, Any]]) -> COCO:
        """Results, a list of `{"image_id": ..., "caption": ...}` or a file of one, as annotations.

        Its images are those of the results. Raises MismatchedImages for images that are not among
        these, UserError for what is no list of results.
        """
        is_list = isinstance(resFile, list | tuple)
        where = "results" if is_list else printable(resFile)
        content = resFile if is_list else read_json(resFile)  # type: ignore[arg-type]
        if not isinstance(content, list | tuple):
            raise UserError(f'{where}: expected a list of {{"image_id": ..., "caption": ...}}')
        check_entries("result", content, ("image_id", "caption"))
        strange = [entry["image_id"] for entry in content if entry["image_id"] not in self.imgs]
        if strange:
            raise MismatchedImages(
                f"{where}: {named(dict.fromkeys(strange), 'image')} not among the annotated ones;"
                " take their results out"
            )
        results = COCO()
        its = {entry["image_id"] for entry in content}
        results.dataset = {
            "images": [image for id, image in self.imgs.items() if id in its],
            "annotations": [
                {**deepcopy(dict(entry)), "id": number} for number, entry in enumerate(content, 1)
            ],
        }
        results.createIndex()
        return results


def read_json(path: str | Path) -> Any:
    """A JSON file. Raises UserError where it cannot be read or is no JSON."""
    shown = printable(path)
    data = read_bytes(path, LARGEST_TEXT)
    require_text(data, shown)
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise UserError(f"{shown} is not UTF-8 text (byte {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{shown} is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers too long; nested too deeply
        raise UserError(f"{shown} cannot be read ({printable(error)})") from None


def check_entries(noun: str, entries: Any, keys: Sequence[str]) -> None:
    """Raises UserError unless each entry of a list has these keys, and its caption is text."""
    if not isinstance(entries, list | tuple):
        raise UserError(f"{noun}s: expected a list, got {type(entries).__name__}")
    for number, entry in enumerate(entries, 1):
        lacking = [key for key in keys if not isinstance(entry, Mapping) or key not in entry]
        if lacking:
            raise UserError(f"{noun} {number} has no {' and no '.join(lacking)}")
        if "caption" in keys and not isinstance(entry["caption"], str):
            raise UserError(f"{noun} {number}: its caption is not text")
        for key in keys:
            if key != "caption" and not isinstance(entry[key], str | int):
                raise UserError(f"{noun} {number}: its {key} is neither text nor a number")


def _as_list(ids: Any) -> list[Any]:
    """One id, or several."""
    return list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else [ids]
