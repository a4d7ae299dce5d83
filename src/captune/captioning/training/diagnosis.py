"""What went wrong in a training, each as a sentence with a number."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captune.captioning.attention import CrossAttentionLayer
from captune.captioning.model import Captioner
from captune.captioning.training.evaluation import (
    Captioned,
    ValidationSet,
    score_captions,
    write_captions,
)
from captune.files import printable
from captune.statistics import Sums, paired_bootstrap
from captune.text import percent, shorten

UNIFORM = 0.99  # of the largest entropy: nobody looks anywhere
SAME = 0.1  # of CIDEr: as good with another image
REPEATS = 0.05  # share of captions: more than a slip
_IMAGES = 16  # whose attention is looked at
_SHUFFLED = 200  # images that are captioned from another's grid
_GRAM = 3  # words


@dataclass(frozen=True)
class Finding:
    """figure: the number that the sentence rests on. wrong: whether it is a warning."""

    about: str
    figure: float
    sentence: str
    wrong: bool


def diagnose(
    captioner: Captioner,
    val: ValidationSet,
    written: Captioned,
    *,
    leaked: Sequence[str],
    max_tokens: int,
    seed: int,
) -> list[Finding]:
    """All checks of a trained captioner, over what it wrote for the validation images."""
    found = [leak(leaked, len(val.data)), repetition(written)]
    if captioner.bridge.attending:
        found.insert(0, attention(captioner, val))
    if len(val.data) > 2:
        found.insert(0, image_dependence(captioner, val, written, max_tokens, seed))
    return found


def leak(leaked: Sequence[str], images: int) -> Finding:
    """Validation images that were trained on, byte for byte."""
    share = len(leaked) / max(1, images)
    named = ", ".join(printable(id) for id in leaked[:3]) + (" ..." if len(leaked) > 3 else "")
    said = (
        f"{len(leaked):,} of {images:,} validation images are among the training images, byte for"
        f" byte ({named}): the scores flatter the model; take them out of one side"
        if leaked
        else f"none of {images:,} validation images is among the training images"
    )
    return Finding("leak", share, said, bool(leaked))


def repetition(written: Captioned) -> Finding:
    """Captions that say the same words again at once, or never come to an end."""
    stuck = [
        id
        for id, text in written.captions.items()
        if not written.ended[id] or repeats(text.split())
    ]
    share = len(stuck) / max(1, len(written.captions))
    said = f"{percent(share)} of the captions repeat themselves or do not end"
    if share > REPEATS:
        caption = shorten(written.captions[stuck[0]], 60)
        said += f' (as of {printable(stuck[0])}: "{caption}"); train longer'
    return Finding("repetition", share, said, share > REPEATS)


def repeats(words: Sequence[str]) -> bool:
    """Whether one to three words come three times in a row."""
    return any(
        words[i : i + n] == words[i + n : i + 2 * n] == words[i + 2 * n : i + 3 * n]
        for n in range(1, _GRAM + 1)
        for i in range(len(words) - 3 * n + 1)
    )


def image_dependence(
    captioner: Captioner, val: ValidationSet, written: Captioned, max_tokens: int, seed: int
) -> Finding:
    """CIDEr with the right images against CIDEr with another image each, over the same images."""
    chance = random.Random(f"shuffle/{seed}")  # noqa: S311
    size = min(_SHUFFLED, len(val.data))
    some = val.first(sorted(chance.sample(range(len(val.data)), size)))
    others = shuffled(len(some.data), chance)
    wrong = write_captions(
        captioner, some, max_tokens=max_tokens, keys=[some.data.keys[i] for i in others]
    )
    own = {id: written.captions[id] for id in some.data.ids}
    right = score_captions(own, some, clipscore=False)["cider"]
    other = score_captions(wrong.captions, some, clipscore=False)["cider"]
    a, b = (Sums.mean(list(scores.per_image.values())) for scores in (other, right))
    (gain,) = paired_bootstrap([(a, b)], resamples=2000, seed=seed)
    low, high = gain.interval
    blind = not low > 0
    said = (
        f"CIDEr {right.corpus:.3f} with the right images, {other.corpus:.3f} with those of others"
        f" (gain {gain.difference:+.3f}, 95 % {low:+.3f} to {high:+.3f}, {size:,} images)"
    )
    if blind and right.corpus - other.corpus <= SAME * right.corpus:
        said = f"the captions do not depend on the image: {said}"
    elif blind:
        said = f"so few images do not show that the captions depend on them: {said}"
    return Finding("image dependence", float(gain.difference), said, blind)


def shuffled(count: int, chance: random.Random) -> list[int]:
    """A place for each of `count` that is not its own: a cycle through all of them at random."""
    order = list(range(count))
    chance.shuffle(order)
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [following[place] for place in range(count)]


@torch.no_grad()
def attention(captioner: Captioner, val: ValidationSet) -> Finding:
    """Entropy of the cross-attention over image tokens, of the head that is least spread out."""
    some = val.first(range(min(_IMAGES, len(val.data))))
    entropies = attention_entropies(captioner, some)  # [layers, heads]
    least = float(entropies.min())
    uniform = least > UNIFORM
    said = (
        f"attention over the image has {percent(least)} of the entropy of looking everywhere"
        f" alike in the most selective of its {entropies.numel()} heads"
        f" ({percent(float(entropies.mean()))} on average)"
    )
    if uniform:
        said = f"no head looks at any place in particular: {said}; the grid may hold one vector"
    return Finding("attention", least, said, uniform)


def attention_entropies(captioner: Captioner, val: ValidationSet) -> Tensor:
    """[layers, heads], 0..1: mean entropy over the words of the first captions, of log(tokens)."""
    captioner_layers = captioner.bridge.attending
    seen: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def keep(place: int) -> Any:
        def hook(layer: CrossAttentionLayer, args: tuple[Any, ...]) -> None:
            hidden, keys, _, tokens = args
            seen[place] = hidden, keys, tokens

        return hook

    places = [i for i, rows in enumerate(val.rows) if rows]
    given = val.first_captions(places, captioner.decoder)
    hooks = [
        layer.register_forward_pre_hook(keep(place)) for place, layer in enumerate(captioner_layers)
    ]
    captioner.eval()
    try:
        captioner.logits_at_targets(**given)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    real = given["mask"].bool()  # [images, n]: words, not padding
    for place, layer in enumerate(captioner_layers):
        weights = layer.attention_map(*seen[place]).float()  # [images, heads, n, tokens]
        # of the image alone: what is known of it in words stands behind its tokens
        weights = weights[..., : captioner.grid.tokens]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        entropy = torch.special.entr(weights).sum(-1) / math.log(max(2, weights.shape[-1]))
        found.append(entropy.transpose(1, 2)[real].mean(0))  # [words, heads] -> [heads]
    return torch.stack(found)


def as_json(findings: Sequence[Finding]) -> list[Mapping[str, Any]]:
    """For metrics.json."""
    return [
        {"about": f.about, "figure": f.figure, "wrong": f.wrong, "sentence": f.sentence}
        for f in findings
    ]
