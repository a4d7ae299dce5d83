"""One caption file -> its captions: which form it is, found by what it holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from captune.captions.caption_file import FORMS, KARPATHY, CaptionFile, Gathering
from captune.captions.coco import is_coco, is_karpathy, read_coco, read_karpathy
from captune.captions.records import read_lines, read_records
from captune.captions.stems import read_stems
from captune.captions.tables import read_table
from captune.files import (
    MOST_MEMORY,
    decode_text,
    json_cost,
    json_kind,
    parse_json,
    read_bytes,
)

_JSON_LINES = (".jsonl", ".ndjson")


def read_file(name: str, gathering: Gathering) -> CaptionFile:
    """The captions of one file. Raises UserError as `read_captions`."""
    data = read_bytes(name)
    sha256 = hashlib.sha256(data).hexdigest()
    text = decode_text(data, name)
    del data
    if not text or text.isspace():
        raise gathering.refuse(f"is empty; give {FORMS}.")
    form = _read_text(text, Path(name).suffix.lower(), gathering)
    if gathering.split is not None and form != KARPATHY:
        raise gathering.refuse(f"has no splits ({form}); leave out #split={gathering.split}.")
    return gathering.finished(form, sha256)


def _read_text(text: str, ending: str, gathering: Gathering) -> str:
    """Fill `gathering`; the name of the form."""
    start = re.match(r"\s*(.)", text)
    first = start[1] if start else ""
    if first == "{" and (ending in _JSON_LINES or _is_json_lines(text)):
        read_lines(text, gathering)
        return "JSON lines"
    if first in "{[" or ending in (".json", *_JSON_LINES):
        return _read_json(parse_json(text, gathering.shown), gathering)
    return read_table(text, gathering)


def _is_json_lines(text: str) -> bool:
    """Whether the first line is an object of its own and something follows."""
    match = re.match(r"\s*(\{[^\n]*\})[^\S\n]*\n\s*\S", text)
    if match is None or json_cost(match[1]) > MOST_MEMORY:
        return False
    try:
        return isinstance(json.loads(match[1]), dict)
    except (ValueError, RecursionError):
        return False


def _read_json(content: object, gathering: Gathering) -> str:
    if isinstance(content, list):
        if not content:
            raise gathering.refuse(f"is an empty list; give {FORMS}.")
        return read_records(content, gathering)
    if not isinstance(content, Mapping):
        raise gathering.refuse(f"holds {json_kind(content)}, no captions; give {FORMS}.")
    if is_karpathy(content):
        read_karpathy(content, gathering)
        return KARPATHY
    if is_coco(content):
        read_coco(content, gathering)
        return "COCO annotations"
    return read_stems(content, gathering)
