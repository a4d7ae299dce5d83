"""`{"stem": "caption"}` and `{"stem": ["caption", ...]}`: the assignment's form."""

from __future__ import annotations

from collections.abc import Mapping

from captune.captions.caption_file import FORMS, Gathering
from captune.files import json_kind, named, quoted


def read_stems(content: Mapping[str, object], gathering: Gathering) -> str:
    """Fill `gathering`; the name of the form.

    A list may hold `{"caption": ...}` objects too, as coco-caption's scorers are called with.
    Raises UserError for what is neither a caption nor a list of them.
    """
    form = '{"stem": "caption"}'
    for number, (stem, value) in enumerate(content.items(), 1):
        image_id = gathering.id_of(stem, "entry", number)
        if isinstance(value, str):
            gathering.add(image_id, value, "entry", number)
            continue
        if not isinstance(value, list):
            raise _unknown(content, stem, value, gathering)
        form = '{"stem": ["caption", ...]}'
        if not value:
            raise gathering.refuse(
                f"image {quoted(stem)} has no captions; give it one or take it out."
            )
        for position, item in enumerate(value, 1):
            caption = item.get("caption") if isinstance(item, Mapping) else item
            if not isinstance(caption, str):
                raise gathering.refuse(
                    f"caption {position} of image {quoted(stem)} is {json_kind(caption)}, and text"
                    " was expected."
                )
            gathering.add(image_id, caption, "entry", number)
    return form


def _unknown(
    content: Mapping[str, object], stem: str, value: object, gathering: Gathering
) -> Exception:
    values = content.values()
    # {"version": 1, "data": []} is some other file, {"a": null} a caption that is not there
    is_caption = any(isinstance(item, str) for item in values) or not any(
        isinstance(item, list | Mapping) for item in values
    )
    if value is None or (is_caption and not isinstance(value, Mapping)):
        return gathering.refuse(
            f"the caption of image {quoted(stem)} is {json_kind(value)}, and text was expected."
        )
    return gathering.refuse(
        f"is JSON of no known form (an object with {named(content)}, the value of"
        f" {quoted(stem)} being {json_kind(value)}); give {FORMS}."
    )
