"""Prompt templates: how a label becomes the sentence that an image is compared with."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files

from captune.errors import UserError
from captune_metrics.display import printable

DEFAULT_TEMPLATE = "a photo of a {}"
_PLACE = re.compile(r"\{\}|\{object\}")
_DENIES = re.compile(
    r"\b(?:no|not|never|without|none|neither|nor|cannot)\b|n['’]t\b", re.IGNORECASE
)
_TO_BE = re.compile(r"\b(?:is|are|was|were)\b", re.IGNORECASE)

# each set has its source beside it
NAMED_SETS: dict[str, tuple[str, ...]] = {
    name: tuple(one["templates"])
    for name, one in json.loads(
        files("captune.zeroshot").joinpath("prompt_sets.json").read_text(encoding="utf-8")
    ).items()
}


def expand(templates: Sequence[str]) -> list[str]:
    """Templates and names of sets -> templates, each once, in the order given.

    A template marks the place of the label with `{}` or `{object}`, once or more.
    Raises UserError for a template without such a place.
    """
    if isinstance(templates, str):
        templates = [templates]
    expanded: dict[str, None] = {}
    for template in templates:
        if template in NAMED_SETS:
            expanded.update(dict.fromkeys(NAMED_SETS[template]))
        elif _PLACE.search(template):
            expanded[template] = None
        else:
            raise UserError(
                f'the prompt "{printable(template)}" has no place for the label; write {{}} or'
                f" {{object}} where it goes, or name a set ({', '.join(NAMED_SETS)})."
            )
    return list(expanded)


def fill(template: str, name: str) -> str:
    """The template with the name in its place; braces inside the name are plain text."""
    return name.join(_PLACE.split(template))


def negate(template: str) -> str | None:
    """The template that denies what this one says, or None when it denies already.

    "This is a photo of {}" -> "This is not a photo of {}"; "a photo of a {}." -> "not a photo of a
    {}.". The first is, are, was or were takes the "not"; without one it comes first.
    """
    if _DENIES.search(template):
        return None
    if verb := _TO_BE.search(template):
        return f"{template[: verb.end()]} not{template[verb.end() :]}"
    opening, second = template[:1], template[1:2]
    if opening.isupper() and not second.isupper():
        return f"Not {opening.lower()}{template[1:]}"
    return f"not {template}"
