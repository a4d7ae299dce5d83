"""JSON forms of captions: COCO, Karpathy's splits, lists and lines of objects, {stem: caption}.

COCO annotations (Chen et al. 2015): `{"images": [{"id", "file_name"}], "annotations":
[{"image_id", "caption"}]}`. Karpathy and Fei-Fei (2015): `{"images": [{"filename", "split",
"sentences": [{"raw"}]}]}`, with `cocoid` for COCO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from captune.captions.file import (
    FILE_KEYS,
    FORMS,
    SAMPLES,
    CaptionCollector,
    filled_lines,
    is_file_name,
    keys_among,
)
from captune.errors import UserError
from captune.json_yaml import json_kind, parse_json
from captune_metrics.display import named, quoted


def is_coco(content: Mapping[str, Any], keys: Sequence[str] = ("images", "annotations")) -> bool:
    """Whether an object is COCO's and not an image called "images" with its captions."""
    lists = (content.get(key) for key in keys)
    return any(isinstance(one, list) and one and isinstance(one[0], Mapping) for one in lists)


def is_karpathy(content: Mapping[str, Any]) -> bool:
    """Whether the captions stand with the images."""
    return is_coco(content, ("images",)) and "sentences" in content["images"][0]


def read_coco(content: Mapping[str, Any], collector: CaptionCollector) -> None:
    """Fill `collector`, images in the order of "images"; those without a caption are left out.

    Raises UserError for annotations of other images, for those that are no captions (objects,
    keypoints), and for an image id that stands for two files.
    """
    annotations = content.get("annotations")
    if not isinstance(annotations, list) or not annotations:
        raise UserError(
            f'{collector.shown} has "images" but no "annotations": it says which images there are,'
            " not their captions; give the captions_*.json of the data set."
        )
    images = content.get("images")
    known = None if images is None else _images(images, collector)
    unknown: dict[str, None] = {}
    for number, annotation in enumerate(annotations, 1):
        try:
            image_id, caption = annotation["image_id"], annotation["caption"]
        except (KeyError, TypeError):
            raise _no_caption(annotation, number, collector) from None
        image_id = collector.id_of(image_id, "annotation", number)
        if known is not None and image_id not in known:
            unknown[image_id] = None
        collector.add(image_id, caption, "annotation", number)
    if unknown:
        raise collector.refuse(
            f'annotations name images that are not in "images": {named(unknown)}; add them'
            " there or take their captions out."
        )
    if known is not None:
        captions = collector.captions
        collector.captions = {id: captions[id] for id in known if id in captions}


def _images(images: Any, collector: CaptionCollector) -> dict[str, None]:
    if not isinstance(images, list):
        raise collector.refuse(f'"images" is {json_kind(images)}, and a list was expected.')
    known: dict[str, None] = {}
    for number, image in enumerate(images, 1):
        if not isinstance(image, Mapping) or "id" not in image:
            raise collector.refuse(f'image {number} of "images" has no "id"; give it one.')
        image_id = collector.id_of(image["id"], "image", number, "id")
        if image_id in known and image.get("file_name") != collector.file_names.get(image_id):
            raise collector.refuse(
                f'image id {quoted(image_id)} appears twice in "images"; keep one of them.'
            )
        known[image_id] = None
        file_name = image.get("file_name")
        if file_name is not None:
            name = collector.id_of(file_name, "image", number, "file_name")
            collector.file_names[image_id] = name
    return known


def _no_caption(annotation: Any, number: int, collector: CaptionCollector) -> Exception:
    if not isinstance(annotation, Mapping):
        return collector.refuse(
            f"annotation {number} is {json_kind(annotation)}, and an object with image_id and"
            " caption was expected."
        )
    missing = next(key for key in ("image_id", "caption") if key not in annotation)
    return collector.refuse(
        f"annotation {number} has no {missing} (it has {named(annotation)}); give the"
        " captions_*.json of the data set."
    )


def read_karpathy(content: Mapping[str, Any], collector: CaptionCollector) -> None:
    """Fill `collector` with the images of its split, or with all; ids are COCO's where given.

    Raises UserError for a split that is not there and for images without name or sentences.
    """
    splits: dict[str, None] = {}
    for number, image in enumerate(content["images"], 1):
        if not isinstance(image, Mapping) or not isinstance(image.get("sentences"), list):
            raise collector.refuse(f"image {number} has no list of sentences; give it one.")
        split = image.get("split")
        splits[str(split)] = None
        if collector.split is not None and split != collector.split:
            continue
        file_name = image.get("filename")
        if file_name is not None:
            file_name = collector.id_of(file_name, "image", number, "filename")
        image_id = image.get("cocoid", file_name)
        image_id = collector.id_of(image_id, "image", number, "cocoid or filename")
        if image_id in collector.captions:
            raise collector.refuse(f"image {quoted(image_id)} appears twice; keep one of them.")
        if file_name is not None:
            collector.name_file(image_id, file_name)
        for sentence in image["sentences"]:
            raw = sentence.get("raw") if isinstance(sentence, Mapping) else sentence
            collector.add(image_id, raw, "image", number)
    if collector.split is not None and not collector.captions:
        raise UserError(
            f"{collector.shown} has no split {quoted(collector.split)}; its splits are"
            f" {named(splits)}."
        )


def read_records(records: Sequence[Any], collector: CaptionCollector) -> str:
    """Fill `collector` from a list of objects; the name of the form. Raises UserError."""
    for number, record in enumerate(records, 1):
        _add(record, collector, "entry", number)
    is_results = {"image_id", "caption"} <= records[0].keys()
    return "COCO results" if is_results else "JSON list"


def read_lines(text: str, collector: CaptionCollector) -> str:
    """Fill `collector` from one object a line; the name of the form. Raises UserError."""
    form = "JSON lines"
    for number, line in filled_lines(text):
        record = parse_json(line, collector.shown, line=number)
        if (
            isinstance(record, dict)
            and "doc_id" in record
            and any(map(record.__contains__, _ANSWERS))
        ):
            form = SAMPLES
            _add_sample(record, collector, number)
        else:
            _add(record, collector, "line", number)
    return form


def _add(record: Any, collector: CaptionCollector, noun: str, number: int) -> None:
    if type(record) is not dict:
        raise collector.refuse(
            f"{noun} {number} is {json_kind(record)}, and an object with an image and a caption"
            f" was expected; give {FORMS}."
        )
    keys = keys_among(tuple(record))
    if keys is None:
        raise collector.refuse(
            f"{noun} {number} has no image and caption (it has {named(record) or 'nothing'});"
            " name them image_id and caption."
        )
    image_id = collector.id_of(record[keys.image], noun, number, keys.image)
    if keys.file is not None and record[keys.file] is not None:
        file_name = collector.id_of(record[keys.file], noun, number, keys.file)
        collector.name_file(image_id, file_name)
    elif keys.file is None and is_file_name(image_id):
        collector.name_file(image_id, image_id)
    for key in keys.captions:
        value = record[key]
        if not isinstance(value, list):
            collector.add(image_id, value, noun, number)
            continue
        if not value:
            raise collector.refuse(f"{noun} {number} has no captions; give it one or take it out.")
        for caption in value:
            collector.add(image_id, caption, noun, number)


# lm-evaluation-harness writes samples_TASK.jsonl, lmms-eval TIME_samples_TASK.jsonl: the data
# set's row in "doc" (lmms-eval leaves keys with "image" out), and lmms-eval's caption tasks the
# image and its references with each metric: {"coco_CIDEr": {"image_id", "pred", "answer"}}
_ANSWERS = ("filtered_resps", "resps")
_DOC_IDS = ("image_id", "img_id", *FILE_KEYS, "image", "img", "question_id", "id")
_DOC_REFERENCES = ("answer", "answers", "captions", "caption", "references", "reference")


def _add_sample(record: Mapping[str, Any], collector: CaptionCollector, number: int) -> None:
    doc = record["doc"] if isinstance(record.get("doc"), Mapping) else {}
    metrics = (one for one in record.values() if isinstance(one, Mapping) and "pred" in one)
    scored: Mapping[str, Any] = next((one for one in metrics if "image_id" in one), {})
    known = (scored.get("image_id"), *(doc.get(key) for key in _DOC_IDS if _is_id(key, doc)))
    image = next((id for id in known if id is not None), record["doc_id"])
    image_id = collector.id_of(image, "line", number, "doc_id")
    texts = (text for text in (doc.get(key) for key in _DOC_IDS) if isinstance(text, str))
    file_name = next(filter(is_file_name, (*texts, image_id)), None)
    if file_name is not None:
        collector.name_file(image_id, collector.id_of(file_name, "line", number, "file name"))
    captions = next(filter(None, map(_texts, map(record.get, _ANSWERS))), None)
    if captions is None:
        raise collector.refuse(
            f"line {number}: its filtered_resps hold no text, so the task writes no captions; give"
            " the samples of one that does."
        )
    for caption in captions:
        # the last batch of several processes repeats rows, and so does each filter
        if caption not in collector.captions.get(image_id, ()):
            collector.add(image_id, caption, "line", number)
    given = (scored.get("answer"), *map(doc.get, _DOC_REFERENCES), record.get("target"))
    references = next(filter(None, map(_texts, given)), [])
    # lm-evaluation-harness writes a list of targets as Python prints it
    if references and not references[0].startswith(("['", '["')):
        collector.references[image_id] = references


def _is_id(key: str, doc: Mapping[str, Any]) -> bool:
    """Whether a row names its image there; "image" may be what is left of its pixels."""
    value = doc.get(key)
    if isinstance(value, str):
        return is_file_name(value) if key in ("image", "img") else value != ""
    return type(value) is int


def _texts(value: Any) -> list[str] | None:
    """The texts of nested lists, in their order; None for anything else."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return None
    found = [_texts(one) for one in value]
    return None if None in found else [text for texts in found if texts for text in texts]


def read_stems(content: Mapping[str, object], collector: CaptionCollector) -> str:
    """Fill `collector`; the name of the form.

    A list may hold `{"caption": ...}` objects too, as coco-caption's scorers are called with.
    Raises UserError for what is neither a caption nor a list of them.
    """
    form = '{"stem": "caption"}'
    for number, (stem, value) in enumerate(content.items(), 1):
        image_id = collector.id_of(stem, "entry", number)
        if isinstance(value, str):
            collector.add(image_id, value, "entry", number)
            continue
        if not isinstance(value, list):
            raise _unknown(content, stem, value, collector)
        form = '{"stem": ["caption", ...]}'
        if not value:
            raise collector.refuse(
                f"image {quoted(stem)} has no captions; give it one or take it out."
            )
        for position, item in enumerate(value, 1):
            caption = item.get("caption") if isinstance(item, Mapping) else item
            if not isinstance(caption, str):
                raise collector.refuse(
                    f"caption {position} of image {quoted(stem)} is {json_kind(caption)}, and text"
                    " was expected."
                )
            collector.add(image_id, caption, "entry", number)
    return form


def _unknown(
    content: Mapping[str, object], stem: str, value: object, collector: CaptionCollector
) -> Exception:
    values = content.values()
    # {"version": 1, "data": []} is some other file, {"a": null} a caption that is not there
    is_caption = any(isinstance(item, str) for item in values) or not any(
        isinstance(item, list | Mapping) for item in values
    )
    if value is None or (is_caption and not isinstance(value, Mapping)):
        return collector.refuse(
            f"the caption of image {quoted(stem)} is {json_kind(value)}, and text was expected."
        )
    return UserError(
        f"{collector.shown} is JSON of no known form (an object with {named(content)}, the value of"
        f" {quoted(stem)} being {json_kind(value)}); give {FORMS}."
    )
