"""Captions for validation images and how good they are, while training and after it.

`trainer.py` chooses the epoch by them, and stops early.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import functional as F

from captune.captioning.agreement import features_of
from captune.captioning.bridge import CrossAttentionLayer
from captune.captioning.caption import caption_words
from captune.captioning.dataset import CaptionDataset
from captune.captioning.model import CaptionModel, Trainable, batch
from captune.captioning.rerank import Reranker, write
from captune.captioning.training.batches import Grids, TagRows, padded_tags
from captune.features.batching import AdaptiveBatches
from captune.features.cache import FeatureCache
from captune.features.pipeline import Encoding
from captune.models.decoders import Decoder
from captune.models.encoders import ImageTextModel
from captune.runs.metrics import Finding
from captune.runs.records import Candidate
from captune.text import as_sentence, percent, signed
from captune_metrics.bleu_n import bleu_of
from captune_metrics.cider_d import cider_of
from captune_metrics.corpus import Corpus
from captune_metrics.display import printable, shorten
from captune_metrics.resampling import Sums, paired_bootstrap
from captune_metrics.scores import Scores

CAPTIONED_AT_ONCE = 32  # captioned at once
_UNIFORM = 0.99  # of the largest entropy: nobody looks anywhere
_SAME = 0.1  # of CIDEr: as good with another image
REPEATS = 0.05  # share of captions: more than a slip
EACH = "each"
LEAK = "leak"
_IMAGES = 16  # whose attention is looked at
SHUFFLED = 200  # images that are captioned from another's grid
_GRAM = 3  # words


@dataclass(frozen=True)
class ValidationSet:
    """data: images with their references. rows: token ids of each image's captions.

    clip: the model of CLIPScore, or None to do without. cache: of its features. tags: of the
    images, where the bridge reads them. max_tokens: of a caption that is written for them.
    batches: of images; what memory has room for in one epoch holds for the next.
    """

    data: CaptionDataset
    rows: Sequence[Sequence[Sequence[int]]]
    grids: Grids
    clip: ImageTextModel | None = None
    cache: FeatureCache | None = None
    tags: TagRows | None = None
    max_tokens: int = 60
    batches: AdaptiveBatches = field(
        default_factory=lambda: AdaptiveBatches(CAPTIONED_AT_ONCE), compare=False
    )

    def first(self, places: Sequence[int]) -> ValidationSet:
        """Some of the images."""
        rows = [self.rows[i] for i in places]
        return dataclasses.replace(self, data=self.data.only(places), rows=rows)

    def seen(self, keys: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """What a model takes of the images with these keys: grids, and tags if there are."""
        found = {"grids": self.grids.grids_of(keys).to(device)}
        if self.tags is not None:
            found["tags"] = padded_tags(self.tags, keys).to(device)
        return found

    def first_captions(self, places: Sequence[int], decoder: Decoder) -> dict[str, Tensor]:
        """What `Trainable.logits_at_targets` takes of the first captions of these images."""
        ids, mask, targets = batch(
            [self.rows[place][0] for place in places],
            start=decoder.start_id,
            pad=decoder.pad_id,
            device=decoder.device,
        )
        seen = self.seen([self.data.keys[place] for place in places], decoder.device)
        return {"ids": ids, "mask": mask, "targets": targets, **seen}


@dataclass(frozen=True)
class Captioned:
    """captions: image id -> what was written. ended: whether it came to an end by itself.

    features: what the captioner knows of it (agreement.features_of), where that was asked for.
    candidates: what it was chosen among, by a reranker.
    """

    captions: dict[str, str]
    ended: dict[str, bool]
    features: dict[str, list[float]] = field(default_factory=dict)
    candidates: dict[str, list[Candidate]] = field(default_factory=dict)


def write_captions(
    model: Trainable,
    val: ValidationSet,
    *,
    instead: Sequence[int] | None = None,
    beams: int = 1,
    scored: bool = False,
    reranker: Reranker | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Captioned:
    """A caption of each image: greedy, or by beam search.

    instead: of each image the place of another to look at (a test of what images are worth).
    scored: with their features. reranker: chooses them among candidates.
    Several processes share the work, and each of them has all captions in the end.
    """
    shown = range(len(val.data)) if instead is None else instead
    state = PartialState()
    written: list[tuple[int, str, bool, list[float], list[Candidate]]] = []
    places = list(range(len(shown)))[state.process_index :: state.num_processes]
    model.eval()

    def add(some: Sequence[int]) -> None:
        looked = val.data.only([shown[place] for place in some])
        seen = val.seen(looked.keys, model.decoder.device)
        found = write(
            model,
            looked.images,
            reranker=reranker,
            cache=val.cache,
            beams=beams,
            max_tokens=val.max_tokens,
            scored=scored,
            **seen,
        )
        texts = model.decoder.decode(found.ids)
        ended = [len(row) < val.max_tokens for row in found.ids]
        # one line a caption, whatever a model that has learnt little writes
        lines = map(as_sentence, texts)
        features = [
            features_of(caption_words(model.decoder, ids, chosen), sum(chosen) / len(chosen))
            if chosen
            else []
            for ids, chosen in zip(found.ids, found.log_probabilities, strict=True)
        ]
        among = found.candidates or [[] for _ in some]
        written.extend(zip(some, lines, ended, features, among, strict=True))
        advance(len(some))

    val.batches.each(places, add)
    if state.num_processes > 1:
        written = gather_object(written)
    ids = val.data.ids
    ordered = sorted(written, key=lambda one: one[0])
    return Captioned(
        {ids[place]: text for place, text, *_ in ordered},
        {ids[place]: end for place, _, end, *_ in ordered},
        {ids[place]: features for place, _, _, features, _ in ordered},
        {ids[place]: among for place, *_, among in ordered},
    )


@torch.no_grad()
def validation_loss(model: Trainable, val: ValidationSet) -> float:
    """Mean next-token loss of the first caption of each image."""
    model.eval()

    def losses(some: Sequence[int]) -> tuple[float, int]:
        given = val.first_captions(some, model.decoder)
        logits, wanted = model.logits_at_targets(**given)
        return float(F.cross_entropy(logits.float(), wanted, reduction="sum")), len(wanted)

    places = [place for place, rows in enumerate(val.rows) if rows]
    parts = val.batches.each(places, losses)
    return sum(loss for loss, _ in parts) / max(1, sum(count for _, count in parts))


def score_captions(
    captions: dict[str, str], val: ValidationSet, *, clipscore: bool = True
) -> dict[str, Scores]:
    """CIDEr-D and BLEU-4 against the references, and CLIPScore where there is a model for it."""
    corpus = Corpus(captions, val.data.references)
    scores = {"cider": cider_of(corpus), "bleu_4": bleu_of(corpus)["bleu_4"]}
    if clipscore and val.clip is not None:
        from captune.clipscore import clipscore as clipscore_of

        images = dict(zip(val.data.ids, val.data.images, strict=True))
        how = Encoding(val.cache)
        scores["clipscore"] = clipscore_of(captions, images, model=val.clip, how=how)
    return scores


def validation_scores(
    model: Trainable, val: ValidationSet, say: Callable[[str], None], *, select: str
) -> dict[str, Any]:
    """What a training looks at after each epoch; CLIPScore only where it is what decides.

    EACH: the score that decides, of each image, where it is one of captions. say: is told how far
    it is, as it takes a minute.
    """
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        say(f"scoring: {done:,} of {len(val.data):,} images")

    written = write_captions(model, val, advance=advance)
    scores = score_captions(written.captions, val, clipscore=select == "clipscore")
    return {
        "loss": validation_loss(model, val),
        **{id: score.corpus for id, score in scores.items()},
        **({EACH: list(scores[select].per_image.values())} if select in scores else {}),
    }


def diagnose(
    model: Trainable,
    val: ValidationSet,
    written: Captioned,
    *,
    leaked: Sequence[str],
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Finding]:
    """All checks of a trained model, over what it wrote for the validation images.

    advance: is told of each image that is captioned from another's grid.
    """
    found = [leak(leaked, len(val.data)), repetition(written)]
    if isinstance(model, CaptionModel) and model.bridge.cross_attention_layers:
        found.insert(0, attention(model, val))
    if len(val.data) > 2:
        found.insert(0, image_dependence(model, val, written, seed, advance))
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
    return Finding(LEAK, share, said, bool(leaked))


def repetition(written: Captioned) -> Finding:
    """Captions without a word, that say the same words again at once, or never come to an end."""
    stuck = [
        id
        for id, text in written.captions.items()
        if not text.strip() or not written.ended[id] or repeats(text.split())
    ]
    share = len(stuck) / max(1, len(written.captions))
    empty = "" if all(map(str.strip, written.captions.values())) else "are empty, "
    said = f"{percent(share)} of the captions {empty}repeat themselves or do not end"
    is_common = share > REPEATS
    if is_common:
        caption = shorten(written.captions[stuck[0]], 60)
        said += f' (for example {printable(stuck[0])}: "{caption}"); train longer'
    return Finding("repetition", share, said, is_common, is_common)


def repeats(words: Sequence[str]) -> bool:
    """Whether one to three words come three times in a row."""
    return any(
        words[i : i + n] == words[i + n : i + 2 * n] == words[i + 2 * n : i + 3 * n]
        for n in range(1, _GRAM + 1)
        for i in range(len(words) - 3 * n + 1)
    )


def image_dependence(
    model: Trainable,
    val: ValidationSet,
    written: Captioned,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> Finding:
    """CIDEr with the right images against CIDEr with another image each, over the same images."""
    chance = random.Random(f"shuffle/{seed}")  # noqa: S311
    size = min(SHUFFLED, len(val.data))
    some = val.first(sorted(chance.sample(range(len(val.data)), size)))
    others = deranged(len(some.data), chance)
    wrong = write_captions(model, some, instead=others, advance=advance)
    own = {id: written.captions[id] for id in some.data.ids}
    right = score_captions(own, some, clipscore=False)["cider"]
    other = score_captions(wrong.captions, some, clipscore=False)["cider"]
    a, b = (Sums.mean(list(scores.per_image.values())) for scores in (other, right))
    (gain,) = paired_bootstrap([(a, b)], resamples=2000, seed=seed)
    low, high = gain.interval
    blind = not low > 0
    said = (
        f"CIDEr {right.corpus:.3f} with the right images, {other.corpus:.3f} with those of others"
        f" (gain {signed(gain.difference)}, 95 % {signed(low)} to {signed(high)}, {size:,} images)"
    )
    if low == high == 0:
        said = (
            f"CIDEr is {right.corpus:.3f} with the right images and with those of others, no"
            f" difference in any of {size:,} images"
        )
    is_shown = blind and right.corpus - other.corpus <= _SAME * right.corpus
    if is_shown:
        said = f"the captions do not depend on the image: {said}"
    elif blind:
        said = f"with {size:,} images we cannot show that the captions depend on the image: {said}"
    return Finding("image dependence", float(gain.difference), said, blind, is_shown)


def deranged(count: int, chance: random.Random) -> list[int]:
    """A place for each of `count` that is not its own: a cycle through all of them at random."""
    order = list(range(count))
    chance.shuffle(order)
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [following[place] for place in range(count)]


@torch.no_grad()
def attention(model: CaptionModel, val: ValidationSet) -> Finding:
    """Entropy of the cross-attention over image tokens, of the head that is least spread out."""
    some = val.first(range(min(_IMAGES, len(val.data))))
    entropies = attention_entropies(model, some)  # [layers, heads]
    least = float(entropies.min())
    uniform = least > _UNIFORM
    said = (
        f"the most selective of {entropies.numel()} attention heads has {percent(least)} of the"
        f" maximum entropy over the image ({percent(float(entropies.mean()))} on average)"
    )
    if uniform:
        said = (
            "attention maps of this captioner show no place, because its attention is almost"
            f" uniform: {said}; the patch tokens may be all alike"
        )
    return Finding("attention", least, said, uniform)


def attention_entropies(model: CaptionModel, val: ValidationSet) -> Tensor:
    """[layers, heads], 0..1: mean entropy over the words of the first captions, of log(tokens)."""
    layers = model.bridge.cross_attention_layers
    seen: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def keep(place: int) -> Any:
        def hook(layer: CrossAttentionLayer, args: tuple[Any, ...]) -> None:
            hidden, keys, _, tokens = args
            seen[place] = hidden, keys, tokens

        return hook

    places = [i for i, rows in enumerate(val.rows) if rows]
    given = val.first_captions(places, model.decoder)
    before = model.places_before(given.get("tags"))
    hooks = [layer.register_forward_pre_hook(keep(place)) for place, layer in enumerate(layers)]
    model.eval()
    try:
        model.logits_at_targets(**given)
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    real = given["mask"].bool()  # [images, n]: words, not padding
    for place, layer in enumerate(layers):
        weights = layer.attention_map(*seen[place]).float()  # [images, heads, n, tokens]
        # of the image alone: its tags stand behind its tokens
        weights = weights[:, :, before:, : model.grid.tokens]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
        entropy = torch.special.entr(weights).sum(-1) / math.log(max(2, weights.shape[-1]))
        found.append(entropy.transpose(1, 2)[real].mean(0))  # [words, heads] -> [heads]
    return torch.stack(found)
