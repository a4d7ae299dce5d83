"""Captions for validation images and how good they are, while training and after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from captune.captioning.model import Captioner, batch
from captune.captioning.training.data import CaptionedImages, Grids, WordRows, words_of
from captune.metrics.bleu import bleu_of
from captune.metrics.cider import cider_of
from captune.metrics.corpus import Corpus
from captune.metrics.scores import Scores

if TYPE_CHECKING:
    from captune.features import FeatureCache
    from captune.models.decoders import Decoder
    from captune.models.encoders import ImageTextModel

IMAGES = 32  # captioned at once


@dataclass(frozen=True)
class ValidationSet:
    """data: images with their references. rows: token ids of each image's captions.

    clip: the model of CLIPScore, or None to do without. cache: of its features. words: what is
    known of the images, where the bridge reads that.
    """

    data: CaptionedImages
    rows: Sequence[Sequence[Sequence[int]]]
    grids: Grids
    clip: ImageTextModel | None = None
    cache: FeatureCache | None = None
    words: WordRows | None = None

    def first(self, places: Sequence[int]) -> ValidationSet:
        """Some of the images."""
        rows = [self.rows[i] for i in places]
        return dataclasses.replace(self, data=self.data.only(places), rows=rows)

    def seen(self, keys: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """What `Captioner` takes of the images with these keys: grids, and words if there are."""
        found = {"grids": self.grids.grids_of(keys).to(device)}
        if self.words is not None:
            found["words"] = words_of(self.words, keys).to(device)
        return found

    def first_captions(self, places: Sequence[int], decoder: Decoder) -> dict[str, Tensor]:
        """What `Captioner.logits_at_targets` takes of the first captions of these images."""
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
    """captions: image id -> what was written. ended: whether it came to an end by itself."""

    captions: dict[str, str]
    ended: dict[str, bool]


def write_captions(
    captioner: Captioner,
    val: ValidationSet,
    *,
    max_tokens: int,
    keys: Sequence[str] | None = None,
    beams: int = 1,
    advance: Callable[[int], None] = lambda done: None,
) -> Captioned:
    """A caption of each image: greedy, or by beam search.

    keys: of the images to look at instead of the images' own (a test of what they are worth).
    Several processes share the work, and each of them has all captions in the end.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    keys = val.data.keys if keys is None else keys
    state = PartialState()
    written: list[tuple[int, str, bool]] = []
    places = list(range(len(keys)))[state.process_index :: state.num_processes]
    captioner.eval()
    for start in range(0, len(places), IMAGES):
        some = places[start : start + IMAGES]
        seen = val.seen([keys[place] for place in some], captioner.decoder.device)
        found = captioner.write(**seen, beams=beams, max_tokens=max_tokens, scored=False)
        texts = captioner.decoder.decode(found.ids)
        ended = [len(row) < max_tokens for row in found.ids]
        # one line a caption, whatever a model that has learnt little writes
        rows = zip(some, (" ".join(text.split()) for text in texts), ended, strict=True)
        written.extend(rows)
        advance(len(some))
    if state.num_processes > 1:
        written = gather_object(written)
    ids = val.data.ids
    ordered = sorted(written)
    return Captioned(
        {ids[place]: text for place, text, _ in ordered},
        {ids[place]: end for place, _, end in ordered},
    )


@torch.no_grad()
def validation_loss(captioner: Captioner, val: ValidationSet) -> float:
    """Mean next-token loss of the first caption of each image."""
    total, count = 0.0, 0
    captioner.eval()
    for start in range(0, len(val.rows), IMAGES):
        places = [i for i in range(start, min(start + IMAGES, len(val.rows))) if val.rows[i]]
        if not places:
            continue
        given = val.first_captions(places, captioner.decoder)
        logits, wanted = captioner.logits_at_targets(**given)
        total += float(F.cross_entropy(logits.float(), wanted, reduction="sum"))
        count += len(wanted)
    return total / max(1, count)


def score_captions(
    captions: dict[str, str], val: ValidationSet, *, clipscore: bool = True
) -> dict[str, Scores]:
    """CIDEr-D and BLEU-4 against the references, and CLIPScore where there is a model for it."""
    corpus = Corpus(captions, val.data.references)
    scores = {"cider": cider_of(corpus), "bleu_4": bleu_of(corpus)["bleu_4"]}
    if clipscore and val.clip is not None:
        scores["clipscore"] = _clipscore(captions, val, val.clip)
    return scores


def _clipscore(captions: dict[str, str], val: ValidationSet, model: ImageTextModel) -> Scores:
    from captune.metrics.clipscore import clipscore

    images = dict(zip(val.data.ids, val.data.images, strict=True))
    return clipscore(captions, images, model=model, cache=val.cache)


def validation_scores(
    captioner: Captioner, val: ValidationSet, *, select: str, max_tokens: int
) -> dict[str, float]:
    """What a training looks at after each epoch; CLIPScore only where it is what decides."""
    written = write_captions(captioner, val, max_tokens=max_tokens)
    scores = score_captions(written.captions, val, clipscore=select == "clipscore")
    return {
        "loss": validation_loss(captioner, val),
        **{id: score.corpus for id, score in scores.items()},
    }
