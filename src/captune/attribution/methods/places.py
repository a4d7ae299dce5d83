"""Where the image encoder sees what a word means, whatever the captioner made of it.

For captioners whose encoder shares a space with texts, and whose single places have a meaning
there, as those of lite: each place is read as if it were an image of its own, smoothed, and held
against the text of the word (class activation maps, Zhou et al. 2016, with text for a classifier).
It is a convolution's place that is read, which has seen its neighbours; the blur takes out what
single places say by accident. No gradient, no pass of the language model. It shows where the thing
is, not what the captioner used: people's boxes are the judge of the first, deletion and insertion
of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from captune.attribution.methods import Choice, MapMethod
from captune.attribution.subject import Subject
from captune.attribution.word_scores import Target
from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.models.encoders import GridShape, ImageEncoder, PatchGrid
from captune.models.image_text import ImageTextModel
from captune.models.texts import TextEncoder

_PROMPT = "a photo of a {}"
_MARKS = ".,;:!?\"'()"


class Places(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "places"
    signed = True

    def choices(self, captioner: Captioner) -> list[Choice]:
        """As `MapMethod.choices`."""
        model, _ = _both(captioner)
        require_meaning(model.image)
        return [Choice()]

    def maps(
        self,
        captioner: Captioner,
        subject: Subject,
        choice: Choice,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """As `MapMethod.maps`; against: less how near the places are to that word."""
        self.check(captioner, choice)
        spans = [subject.spans[word] for word in words]
        names = ["" if span.special else span.word for span in spans]
        return _near(captioner, subject, names, [against or ""] * len(names))

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`; of the other word a target knows one token only."""
        others = [[] if target.against is None else [target.against] for target in targets]
        decode = captioner.decoder.decode
        words = decode([list(target.ids) for target in targets])
        return _near(captioner, subject, words, decode(others))


def _near(
    captioner: Captioner, subject: Subject, words: Sequence[str], others: Sequence[str]
) -> Tensor:
    """Of each word less its other one; an empty word, as the caption's end is, is near nothing."""
    model, text = _both(captioner)
    patches = require_meaning(model.image)
    bare = [word.strip().strip(_MARKS) for word in (*words, *others)]
    texts = F.normalize(text.encode([_PROMPT.format(word) for word in bare]), dim=-1)
    texts = texts * torch.tensor([bool(word) for word in bare])[:, None]

    def cosines(vectors: Tensor) -> Tensor:
        near = F.normalize(vectors.float(), dim=-1) @ texts.to(vectors.device).T
        return near[:, : len(words)] - near[:, len(words) :]

    return places_near(patches, subject.grid[0].to(model.image.device), cosines)


def _both(captioner: Captioner) -> tuple[ImageTextModel, TextEncoder]:
    """The captioner's encoder and its text side. Raises UserError where one is not there."""
    model = captioner.image_model
    if model is None:
        raise UserError(
            "places: holds the image's places against words, and this captioner was given no image"
            " encoder; set its image_model, or take occlusion"
        )
    if model.text is None:
        raise UserError(
            "places: this captioner's image encoder reads no text; take --method occlusion"
        )
    return model, model.text


METHOD = Places()


_SMOOTHED = 1 / 9  # deviation of the blur, in shares of the grid's side


def require_meaning(encoder: ImageEncoder) -> PatchGrid:
    """The encoder's patch grid. Raises UserError where its places mean nothing by themselves."""
    patches = encoder.require_patches()
    if patches.meaning is None:
        raise UserError(
            "places: single places of this image encoder have no meaning of their own; take"
            " --method gradient or occlusion"
        )
    return patches


@torch.no_grad()
def places_near(patches: PatchGrid, grid: Tensor, nearness: Callable[[Tensor], Tensor]) -> Tensor:
    """How much nearer than the image's places on average each place of a finished grid is.

    grid: [tokens, channels]. The maps are [n, rows, columns], on the CPU. Nearness has no zero of
    its own: all of an image may be far from a text, and a part of it still the nearest.
    nearness: vectors [places, dimension] of the space of texts -> [places, n].
    """
    assert patches.meaning is not None
    shape = patches.shape
    places = grid[shape.leading : shape.leading + shape.rows * shape.columns]
    near = nearness(patches.meaning(places.float())).T.float().cpu()
    smooth = near @ _blur(shape)
    return (smooth - smooth.mean(dim=1, keepdim=True)).view(-1, shape.rows, shape.columns)


def _blur(shape: GridShape) -> Tensor:
    """[places, places]: what each place hears of each; beyond the edge there is nothing to hear."""
    sides = []
    for length in (shape.rows, shape.columns):
        at = torch.arange(length) / length
        weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * _SMOOTHED**2))
        sides.append(weights / weights.sum(dim=0))
    return torch.kron(*sides)
