"""Captions that need no captioner, to hold one against: those of images that look alike.

How much two images look alike is the cosine of their patch grids' means, less the mean of all train
images. For `lite` a grid's mean is the pooled vector of the whole image; it is what the captioner
itself is shown. Taking the common part away makes the baselines a little stronger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.captioning.dataset import CaptionDataset
from captune.captioning.training.batches import Grids
from captune.models.encoders import GridShape
from captune_metrics import CiderD, Corpus, DocumentFrequency, bleu_of, cider_of, ptb, rouge_l_of
from captune_metrics.scores import Scores

NEIGHBOURS = 10
_IMAGES = 64  # whose grids are in memory, or whose candidates are compared, at once

Captions = dict[str, str]


def pooled(grids: Grids, keys: Sequence[str], shape: GridShape) -> NDArray[np.float32]:
    """[images, channels]: the mean over the places of each image's grid."""
    parts = []
    for start in range(0, len(keys), _IMAGES):
        found = grids.grids_of(keys[start : start + _IMAGES])[:, shape.leading :]
        parts.append(found.mean(dim=1).cpu().numpy())
    return np.concatenate(parts)


def neighbours(
    images: NDArray[np.float32], train: NDArray[np.float32], count: int = NEIGHBOURS
) -> NDArray[np.int64]:
    """[images, count] places of the train images with the highest cosine, the nearest first."""
    centre = train.mean(axis=0)
    cosines = _unit(images - centre) @ _unit(train - centre).T
    order: NDArray[np.int64] = np.argsort(-cosines, axis=1, kind="stable")
    return order[:, :count]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return unit


def nearest_captions(
    val: CaptionDataset, train: CaptionDataset, near: NDArray[np.int64]
) -> Captions:
    """The first caption of the nearest train image."""
    return {id: train.captions[row[0]][0] for id, row in zip(val.ids, near.tolist(), strict=True)}


def consensus_captions(
    val: CaptionDataset, train: CaptionDataset, near: NDArray[np.int64]
) -> Captions:
    """Of all captions of the nearest train images the one with the most in common with the others.

    That is the highest mean CIDEr-D against the others, with the document frequencies of all train
    captions (Devlin et al. 2015, "Exploring nearest neighbor approaches for image captioning").
    """
    corpus = Corpus(dict.fromkeys(train.ids, ""), train.references)
    score = CiderD(DocumentFrequency.counted(corpus), _remembering())
    found: list[str] = []
    for start in range(0, len(near), _IMAGES):
        offered = [
            [text for place in row for text in train.captions[place]]
            for row in near[start : start + _IMAGES].tolist()
        ]
        found.extend(_most_typical(offered, score))
    return dict(zip(val.ids, found, strict=True))


def _most_typical(offered: Sequence[Sequence[str]], score: CiderD) -> Iterator[str]:
    """Of each image's captions the one with the highest sum over the others; the first of equals.

    A caption is scored against all of them, itself included, and itself is taken out afterwards:
    so all of an image's captions share their references.
    """
    indexed = score.index({str(place): own for place, own in enumerate(offered)})
    texts = [text for own in offered for text in own]
    shared = [indexed[str(place)] for place, own in enumerate(offered) for _ in own]
    themselves = list(score.index({str(n): [text] for n, text in enumerate(texts)}).values())
    sums = score.score(texts, shared) * np.array([len(own.lengths) for own in shared])
    sums -= score.score(texts, themselves)
    place = 0
    for own in offered:
        # what differs by rounding only is equal
        yield own[int(np.argmax(sums[place : place + len(own)].round(9)))]
        place += len(own)


def _remembering() -> Any:
    """The tokenizer; train captions are offered for many images, and cut into words once."""
    known: dict[str, str] = {}

    def tokenize(texts: list[str]) -> list[str]:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        known.update(zip(new, ptb.tokenize_each(new), strict=True))
        return [known[text] for text in texts]

    return tokenize


def human_captions(val: CaptionDataset) -> tuple[Captions, dict[str, list[str]]]:
    """The first caption of each image, and the others as its references."""
    several = {id: own for id, own in val.references.items() if len(own) > 1}
    return (
        {id: own[0] for id, own in several.items()},
        {id: own[1:] for id, own in several.items()},
    )


def scores_of(captions: Captions, references: Mapping[str, Sequence[str]]) -> dict[str, Scores]:
    """CIDEr-D, BLEU-4 and ROUGE-L, tokenised as coco-caption does."""
    corpus = Corpus(captions, {id: list(references[id]) for id in captions})
    return {
        "cider": cider_of(corpus),
        "bleu_4": bleu_of(corpus)["bleu_4"],
        "rouge_l": rouge_l_of(corpus),
    }


@dataclass(frozen=True)
class Wording:
    """How a set of captions is worded; words as the metrics' tokenizer cuts them.

    copied: share of captions that stand word for word among those of train. distinct: different
    captions over all captions. mean_words: of a caption. vocabulary: different words in all.
    """

    copied: float
    distinct: float
    mean_words: float
    vocabulary: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def wording_of(captions: Captions, known: frozenset[str]) -> Wording:
    """known: what `tokenised` gives of the train captions."""
    texts = ptb.tokenize_each(list(captions.values()))
    words = [text.split() for text in texts]
    return Wording(
        copied=sum(text in known for text in texts) / len(texts),
        distinct=len(set(texts)) / len(texts),
        mean_words=sum(map(len, words)) / len(words),
        vocabulary=len({word for own in words for word in own}),
    )


def tokenised(train: CaptionDataset) -> frozenset[str]:
    """All captions as the metrics' tokenizer writes them."""
    return frozenset(ptb.tokenize_each([text for own in train.captions for text in own]))
