"""COCO annotations, and Karpathy's splits of COCO and Flickr: lists of images with their captions.

COCO (Chen et al. 2015): `{"images": [{"id", "file_name"}], "annotations": [{"image_id",
"caption"}]}`. Karpathy and Fei-Fei (2015): `{"images": [{"filename", "split", "sentences":
[{"raw"}]}]}`, with `cocoid` for COCO.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captune.captions.caption_file import Gathering
from captune.files import json_kind, named, quoted


def is_coco(content: Mapping[str, Any]) -> bool:
    """Whether an object is COCO's and not an image called "images" with its captions."""
    return any(_is_list_of_objects(content.get(key)) for key in ("images", "annotations"))


def is_karpathy(content: Mapping[str, Any]) -> bool:
    """Whether the captions stand with the images."""
    images: Any = content.get("images")
    return _is_list_of_objects(images) and "sentences" in images[0]


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def read_coco(content: Mapping[str, Any], gathering: Gathering) -> None:
    """Fill `gathering`, images in the order of "images"; those without a caption are left out.

    Raises UserError for annotations of other images, for those that are no captions (objects,
    keypoints), and for an image id that stands for two files.
    """
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not annotations:
        raise gathering.refuse(
            'has "images" but no "annotations": it says which images there are, not their'
            " captions; give the captions_*.json of the data set."
        )
    images = content.get("images")
    known = None if images is None else _images(images, gathering)
    unknown: dict[str, None] = {}
    for number, annotation in enumerate(annotations, 1):
        try:
            image_id, caption = annotation["image_id"], annotation["caption"]
        except (KeyError, TypeError):
            raise _no_caption(annotation, number, gathering) from None
        image_id = gathering.id_of(image_id, "annotation", number)
        if known is not None and image_id not in known:
            unknown[image_id] = None
        gathering.add(image_id, caption, "annotation", number)
    if unknown:
        raise gathering.refuse(
            f'annotations name images that are not in "images": {named(unknown)}; add them'
            " there or take their captions out."
        )
    if known is not None:
        captions = gathering.captions
        gathering.captions = {id: captions[id] for id in known if id in captions}


def _images(images: Any, gathering: Gathering) -> dict[str, None]:
    if not isinstance(images, list):
        raise gathering.refuse(f'"images" is {json_kind(images)}, and a list was expected.')
    known: dict[str, None] = {}
    for number, image in enumerate(images, 1):
        if not isinstance(image, Mapping) or "id" not in image:
            raise gathering.refuse(f'image {number} of "images" has no "id"; give it one.')
        image_id = gathering.id_of(image["id"], "image", number, "id")
        if image_id in known and image.get("file_name") != gathering.file_names.get(image_id):
            raise gathering.refuse(
                f'image id {quoted(image_id)} appears twice in "images"; keep one of them.'
            )
        known[image_id] = None
        file_name = image.get("file_name")
        if file_name is not None:
            name = gathering.id_of(file_name, "image", number, "file_name")
            gathering.file_names[image_id] = name
    return known


def _no_caption(annotation: Any, number: int, gathering: Gathering) -> Exception:
    if not isinstance(annotation, Mapping):
        return gathering.refuse(
            f"annotation {number} is {json_kind(annotation)}, and an object with image_id and"
            " caption was expected."
        )
    missing = next(key for key in ("image_id", "caption") if key not in annotation)
    return gathering.refuse(
        f"annotation {number} has no {missing} (it has {named(annotation)}); give the"
        " captions_*.json of the data set."
    )


def read_karpathy(content: Mapping[str, Any], gathering: Gathering) -> None:
    """Fill `gathering` with the images of its split, or with all; ids are COCO's where given.

    Raises UserError for a split that is not there and for images without name or sentences.
    """
    splits: dict[str, None] = {}
    for number, image in enumerate(content["images"], 1):
        if not isinstance(image, Mapping) or not isinstance(image.get("sentences"), list):
            raise gathering.refuse(f"image {number} has no list of sentences; give it one.")
        split = image.get("split")
        splits[str(split)] = None
        if gathering.split is not None and split != gathering.split:
            continue
        file_name = image.get("filename")
        if file_name is not None:
            file_name = gathering.id_of(file_name, "image", number, "filename")
        image_id = image.get("cocoid", file_name)
        image_id = gathering.id_of(image_id, "image", number, "cocoid or filename")
        if image_id in gathering.captions:
            raise gathering.refuse(f"image {quoted(image_id)} appears twice; keep one of them.")
        if file_name is not None:
            gathering.name_file(image_id, file_name)
        for sentence in image["sentences"]:
            raw = sentence.get("raw") if isinstance(sentence, Mapping) else sentence
            gathering.add(image_id, raw, "image", number)
    if gathering.split is not None and not gathering.captions:
        raise gathering.refuse(
            f"has no split {quoted(gathering.split)}; its splits are {named(splits)}."
        )
