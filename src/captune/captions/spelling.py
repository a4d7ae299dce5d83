"""The ways in which people spell one image: id, path, file name, with and without ending, number.

COCO calls one image 139, "000000000139.jpg" (2017) and "COCO_val2014_000000000139.jpg" (2014).
"""

from __future__ import annotations

import re

from captune.images.naming import plain_path, without_ending

_NUMBER = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?0*([0-9]+)(?:\.0+)?")


def as_spelled(text: str) -> str:
    """To the letter."""
    return text


def last_parts(text: str, count: int) -> str:
    """a/b/c.jpg -> b/c.jpg for two, c.jpg for one."""
    path = plain_path(text)
    return "/".join(path.split("/")[-count:]) if "/" in path else path


def number_of(text: str) -> str | None:
    """val/COCO_val2014_000000000139.jpg -> "139"; None for what is no number."""
    match = _NUMBER.fullmatch(last_parts(without_ending(text), count=1))
    return match[1] if match else None
