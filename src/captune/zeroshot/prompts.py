"""Prompt templates: how a label becomes the sentence that an image is compared with.

And does the model read "not"? Templates that deny the class ("This is not a photo of {object}")
score almost as well as those that name it, although a reader who understood them would answer with
any class but the right one. `probe_negation` shows why: it asks the same images with both, and
measures how little the word "not" changes. (Known of CLIP from Singh et al. 2024, "Learn 'No' to
say 'Yes' better", and Alhamoud et al. 2025, "Vision-language models do not understand negation".)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from captune.errors import UserError
from captune.runs.metrics import NegationProbe
from captune.statistics import wilson
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.models.encoders import Floats
    from captune.zeroshot.calibration import Integers

DEFAULT_TEMPLATE = "a photo of a {}"
_PLACE = re.compile(r"\{\}|\{object\}")
PROBED_LOGITS = 2_000_000  # of each of the two templates at once: 8 MB
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


def probe_negation(
    template: str,
    negated: str,
    image_features: Floats,
    text_features: Floats,
    negated_features: Floats,
    logits: Callable[[Floats, Floats], Floats],
    truth: Integers | None = None,
) -> NegationProbe:
    """Measures what "not" does to the answers about n images and m classes.

    image_features [n, d]; text_features and negated_features [m, d], one row a class, of the
    template and of its negation (see `negate`); logits: `ImageTextModel.logits`; truth [n], -1
    where unknown (where any is known, only those images are probed).
    """
    from captune.models.encoders import normalise  # pages fill templates without torch

    rows = np.arange(len(image_features))
    if truth is not None and (truth >= 0).any():
        rows = np.flatnonzero(truth >= 0)
    else:
        truth = None
    images, classes = len(rows), len(text_features)
    same = right = wins = elsewhere = 0
    at_once = max(1, PROBED_LOGITS // classes)
    for start in range(0, images, at_once):
        part = rows[start : start + at_once]
        plain = logits(image_features[part], text_features)
        denied = logits(image_features[part], negated_features)
        answer = plain.argmax(axis=1)
        asked = answer if truth is None else truth[part]
        same += int((denied.argmax(axis=1) == answer).sum())
        right += int((denied.argmax(axis=1) == asked).sum())
        higher = denied > plain
        won = int(higher[np.arange(len(part)), asked].sum())
        wins += won
        elsewhere += int(higher.sum()) - won
    plain_texts, denied_texts = normalise(text_features), normalise(negated_features)
    others = max(classes - 1, 0)
    # the sum over all pairs is the squared length of the sum, so no [m, m] matrix is needed
    pairs = float((plain_texts.sum(axis=0, dtype=np.float64) ** 2).sum()) - classes
    return NegationProbe(
        template=template,
        negated=negated,
        images=images,
        **_share("same_answer", same, images),
        **_share("right_answer", None if truth is None else right, images),
        **_share("denial_wins", wins, images),
        denial_wins_elsewhere=elsewhere / (images * others) if images * others else None,
        text_cosine=float((plain_texts * denied_texts).sum(axis=1).mean()),
        class_cosine=pairs / (classes * others) if others else None,
    )


def _share(name: str, count: int | None, images: int) -> dict[str, Any]:
    none = (None, None, None)
    values = none if count is None else (count / max(images, 1), *wilson(count, images))
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
