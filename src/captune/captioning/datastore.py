"""What captions of similar images say: of the evidence `neighbours`, and of `--prompt captions`.

    datastore.safetensors   beside a captioner: a Datastore, or a Summary that holds no captions

Images are compared by the means of the patch grids that the captioner sees, [images, channels].
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from captune.captioning.bridge import GridShape
from captune.captioning.checkpoint import ImageIdentity
from captune.errors import UserError
from captune.files import whole_file
from captune.json_yaml import MOST_MEMORY, json_cost
from captune.models.encoders import Floats, normalise
from captune.models.weights import opened_safetensors
from captune.zeroshot.classifier import top_indices
from captune_metrics.display import printable
from captune_metrics.resampling import Doubles

DATASTORE = "datastore.safetensors"
FORMAT, SUMMARY = "captune-datastore-1", "captune-summary-1"
SUMMARY_ORDERS = 3  # words of the longest n-gram of a summary
_NEIGHBOURS = 10
_SHARPNESS = 10.0
_AT_ONCE = 256  # images that are held against all
_LONGEST_TEXT = 2**28
_LARGEST = 2**31  # bytes of a tensor


class Store(Protocol):
    """A Datastore or a Summary."""

    def evidence(self, means: Floats, texts: Sequence[Sequence[str]]) -> Sequence[Doubles]:
        """How like the captions of similar images each candidate of each image is.

        means: [images, channels] of their patch grids.
        """
        ...

    def save(self, path: Path) -> None:
        """Write it as one file."""
        ...


class Datastore:
    """Images with their captions. vectors: [n, d] of length one, less `centre` [d] before."""

    def __init__(
        self, vectors: Floats, centre: Floats, captions: Sequence[Sequence[str]], weights_id: str
    ) -> None:
        from captune_metrics.cider_d import CiderD
        from captune_metrics.frequency import DocumentFrequency

        self.vectors, self.centre, self.captions = vectors, centre, captions
        self.weights_id = weights_id
        self._cider = CiderD(DocumentFrequency.shipped("coco-val2017"))

    @classmethod
    def made(cls, means: Floats, captions: Sequence[Sequence[str]], weights_id: str) -> Datastore:
        """From the means [n, d] of patch grids, which the weights with this id made."""
        centre = means.mean(axis=0)
        kept = normalise(means - centre).astype(np.float16)  # as in its file: the same are nearest
        return cls(kept.astype(np.float32), centre, captions, weights_id)

    def vectors_of(self, means: Floats) -> Floats:
        """Images [images, channels] as those here are kept."""
        return normalise(means - self.centre)

    def save(self, path: Path) -> None:
        """Write it as one file."""
        vectors: NDArray[Any] = self.vectors.astype(np.float16)
        arrays: dict[str, NDArray[Any]] = {"vectors": vectors, "centre": self.centre}
        _save(path, FORMAT, self.weights_id, arrays, self.captions)

    def nearest(
        self, vectors: Floats, count: int, advance: Callable[[int], None] = lambda done: None
    ) -> tuple[NDArray[np.int64], Floats]:
        """Places of the images most like each, the nearest first, and their cosines: [images, k].

        vectors: of `vectors_of`. k: `count`, or all there are.
        """
        places, cosines = [], []
        for start in range(0, len(vectors), _AT_ONCE):
            some = vectors[start : start + _AT_ONCE] @ self.vectors.T
            places.append(top_indices(some, count))
            cosines.append(np.take_along_axis(some, places[-1], 1))
            advance(len(some))
        return np.concatenate(places), np.concatenate(cosines)

    def evidence(self, means: Floats, texts: Sequence[Sequence[str]]) -> list[Doubles]:
        """Mean CIDEr-D against each of the ten nearest images, weighted by exp(10 * cosine)."""
        found = []
        near, cosines = self.nearest(self.vectors_of(means), _NEIGHBOURS)
        needed = {str(place): self.captions[place] for place in np.unique(near)}
        indexed = self._cider.index(needed)
        for row, places, own in zip(cosines, near, texts, strict=True):
            references = [indexed[str(place)] for _ in own for place in places]
            scores = self._cider.score([text for text in own for _ in places], references)
            weights = np.exp(_SHARPNESS * row.astype(np.float64))
            found.append(scores.reshape(len(own), len(places)) @ (weights / weights.sum()))
        return found


@dataclass(frozen=True)
class Summary:
    """A linear map from images to the n-grams of their captions: what neighbours would say.

    look: [d, k] of the square roots of grid means, less `centre` [d]. say: [k, n-grams], how much
    likelier each is than elsewhere, in the unit tf-idf vector of a caption. idf: [n-grams]; unknown
    ones count as the rarest. grams: words with a space between, 1 to 3 of them.
    """

    centre: Floats
    look: Floats
    say: Floats
    idf: Floats
    grams: Sequence[str]
    weights_id: str

    def save(self, path: Path) -> None:
        """Write it as one file."""
        arrays: dict[str, NDArray[Any]] = {
            "centre": self.centre,
            "look": self.look.astype(np.float16),
            "say": self.say.astype(np.float16),
            "idf": self.idf,
        }
        _save(path, SUMMARY, self.weights_id, arrays, list(self.grams))

    def evidence(self, means: Floats, texts: Sequence[Sequence[str]]) -> list[Doubles]:
        """The expected product of the candidate's tf-idf vectors with those of people's captions.

        It is near to CIDEr-D less its mean over all images, but for the penalty of the length.
        """
        from captune_metrics import ptb

        expected = (np.sqrt(np.maximum(means, 0)) - self.centre) @ self.look
        places = self._places
        cut = iter(ptb.tokenize_each([text for own in texts for text in own]))
        found = []
        for row, own in zip(expected, texts, strict=True):
            scores = []
            for _ in own:
                known = [self.unit(counts, places) for counts in ngrams(next(cut).split())]
                each = [row @ self.say[:, at] @ weights for at, weights in known if len(at)]
                scores.append(float(np.sum(each)))
            found.append(np.array(scores))
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {gram: place for place, gram in enumerate(self.grams)}

    def unit(
        self, counts: Mapping[str, int], places: Mapping[str, int]
    ) -> tuple[list[int], Doubles]:
        """Places and weights of the n-grams that are known, in a vector of length one.

        counts: of one order, in a caption. places: of `grams`.
        """
        at = [places[gram] for gram in counts if gram in places]
        weights = np.array([counts[gram] for gram in counts if gram in places]) * self.idf[at]
        rarest = float(self.idf.max())
        others = sum((rarest * n) ** 2 for gram, n in counts.items() if gram not in places)
        return at, weights / max(1e-9, np.sqrt((weights**2).sum() + others))


def ngrams(words: Sequence[str]) -> list[Counter[str]]:
    """Of each order, with how often each comes."""
    return [
        Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        for n in range(1, SUMMARY_ORDERS + 1)
    ]


def load_store(path: Path, encoder: ImageIdentity, grid: GridShape) -> Store:
    """Read what `save` wrote.

    Raises UserError for another file, and for images that another encoder has seen.
    """
    shown, d = printable(path), grid.channels
    with opened_safetensors(path) as file:
        about = file.metadata() or {}
        kind = about.get("format")
        if kind not in (FORMAT, SUMMARY):
            raise UserError(
                f"{shown} is not a datastore; captune tune --rerank neighbours makes one"
            )
        if about.get("weights_id") != encoder.weights_id:
            raise UserError(
                f"{shown} was made with another image encoder than this captioner's; take the"
                " datastore of its own tune"
            )
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (part.get_dtype(), list(part.get_shape())) for name, part in parts.items()}
        n, k, length = (_size(found, *at) for at in (("vectors", 0), ("look", 1), ("text", 0)))
        grams = _size(found, "idf", 0)
        wanted: dict[str, tuple[str, list[int]]] = {
            "centre": ("F32", [d]),
            "text": ("U8", [length]),
        }
        if kind == FORMAT:
            wanted |= {"vectors": ("F16", [n, d])}
        else:
            wanted |= {"look": ("F16", [d, k]), "say": ("F16", [k, grams]), "idf": ("F32", [grams])}
        most = max(n * d, k * d, k * grams)
        if found != wanted or not 0 < 2 * most < _LARGEST or length > _LONGEST_TEXT:
            raise UserError(f"{shown} does not hold what a datastore holds; make it again")
        arrays = {name: file.get_tensor(name).numpy() for name in wanted}
    words = arrays.pop("text").tobytes()
    text: Any = None
    if json_cost(words) <= MOST_MEMORY:
        with suppress(ValueError, RecursionError):
            text = json.loads(words)
    floats = {name: array.astype(np.float32) for name, array in arrays.items()}
    is_whole = all(np.isfinite(array).all() for array in floats.values())
    if is_whole and kind == FORMAT and _are_captions(text, n):
        return Datastore(floats["vectors"], floats["centre"], text, encoder.weights_id)
    if is_whole and kind == SUMMARY and _are_captions([text], 1) and len(set(text)) == grams:
        return Summary(**floats, grams=text, weights_id=encoder.weights_id)
    raise UserError(f"{shown} does not hold captions of each of its images; make it again")


def _size(found: Mapping[str, tuple[str, list[int]]], name: str, axis: int) -> int:
    shape = found.get(name, ("", []))[1]
    return shape[axis] if len(shape) > axis else 0


def _are_captions(text: Any, images: int) -> bool:
    return (
        isinstance(text, list)
        and len(text) == images
        and all(isinstance(own, list) and own for own in text)
        and all(isinstance(one, str) for own in text for one in own)
    )


def _save(
    path: Path, kind: str, weights_id: str, arrays: Mapping[str, NDArray[Any]], text: Any
) -> None:
    from safetensors.numpy import save

    words = json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    tensors["text"] = np.frombuffer(words, dtype=np.uint8)
    with whole_file(path, "wb") as file:
        file.write(save(tensors, metadata={"format": kind, "weights_id": weights_id}))
