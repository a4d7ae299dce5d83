"""Prompt templates: how a label becomes the sentence that a photo is compared with."""

from __future__ import annotations

import re
from collections.abc import Sequence

from captune.errors import UserError
from captune.images import printable

DEFAULT_TEMPLATE = "a photo of a {}"
_PLACE = re.compile(r"\{\}|\{object\}")

# The ImageNet templates of Radford et al. 2021, in the order of their reference notebook.
OPENAI_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

# What greedy forward selection kept of them for ImageNet (same notebook).
OPENAI_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

# The templates that the assignment compares: three of its own, and CLIP's.
HW3 = (
    "This is a photo of {object}",
    "This is not a photo of {object}",
    "No {object}, no score.",
    "a photo of a {}",
)

NAMED_SETS = {"openai-80": OPENAI_80, "openai-7": OPENAI_7, "hw3": HW3}


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
