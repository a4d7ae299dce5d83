"""One image with one caption, which the captioner wrote or a person gave: what is explained.

A word belongs to the steps at which its pieces were predicted: step p of `ids` is the token that
the decoder predicted at step p, having read the start and `ids[:p]`. A teacher-forced pass over the
finished caption is the history of the winning beam, so nothing is recorded while a beam search
runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captune.captioning.captioner import Captioner
from captune.captioning.generate import WORD, word_pieces, words_of
from captune.captioning.model import CaptionModel
from captune.captioning.rerank import write
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.grids import encode_grids
from captune.images import ImageFile, Skipped
from captune.models.decoders import Decoder
from captune.models.encoders import GridShape, ImageTextModel
from captune.models.hub import silence_transformers
from captune.text import as_sentence
from captune_metrics.text import quoted

END = "<|endoftext|>"
# A caption that was written down has its full stop at its last word, whose map is that of the word
# alone where the captioner wrote "football .".
_GIVEN_WORD = re.compile(r"\S+?(?=\.$)|\S+")


@dataclass(frozen=True)
class WordSpan:
    """A word as it stands between spaces, and the steps of its pieces in the caption's ids.

    special: it is the end of the caption and no word.
    """

    word: str
    steps: tuple[int, ...]
    special: bool = False


@dataclass(frozen=True, eq=False)
class CaptionedImage:
    """One image with one caption.

    model: the captioner. grid: [1, tokens, channels] float32, finished, where the captioner is.
    ids: of the caption's tokens, with the end where it came. words: without the end.
    is_user_caption: the caption is a person's, not the captioner's.
    known: [1, w], the words of `CaptionModel.project`, for those that read a text beside the image.
    encoder: what made the grid, for methods that encode again or compare with texts.
    agreement: as of a `Caption`.
    """

    model: CaptionModel
    image: ImageFile
    grid: Tensor
    ids: list[int]
    words: list[WordSpan]
    is_user_caption: bool = False
    known: Tensor | None = None
    encoder: ImageTextModel | None = None
    agreement: float | None = None

    @property
    def shape(self) -> GridShape:
        """Of the grid."""
        return self.model.grid

    @property
    def caption(self) -> str:
        """The words as a sentence."""
        return as_sentence(" ".join(span.word for span in self.words))

    @property
    def spans(self) -> list[WordSpan]:
        """The words, then the end where it came: what numbers of words count through."""
        if sum(len(span.steps) for span in self.words) == len(self.ids):
            return self.words
        return [*self.words, WordSpan(END, (len(self.ids) - 1,), special=True)]


def captioned_images(
    captioner: Captioner,
    images: Sequence[ImageFile],
    captions: Sequence[str] | None = None,
    *,
    beam: int = 5,
    max_tokens: int = 60,
    cache: FeatureCache | None = None,
    batch_size: int = 32,
    workers: int = 0,
    on_skip: Callable[[Skipped], None],
) -> Iterator[CaptionedImage]:
    """Each readable image with its caption, in their order; the others go to `on_skip`.

    captions: one per image, to be explained instead of what the captioner would write. Images are
    encoded once, also where one stands several times in the list, each time with another caption.
    Raises UserError for a caption with a word that the captioner cannot write.
    """
    model, encoder = captioner.model, captioner.encoder
    given = None
    if captions is not None:
        # the same image may come with several captions; those of skipped images are passed over
        own = [ids_of_caption(model.decoder, text) for text in captions]
        given = iter(list(zip(images, own, strict=True)))
    tagger = captioner.tagger(cache=cache, batch_size=batch_size, workers=workers)
    stream = encode_grids(
        images,
        encoder.image,
        cache=cache,
        batch_size=batch_size,
        workers=workers,
        on_skip=on_skip,
    )
    for some, cached in stream:
        for start in range(0, len(some), batch_size):
            part = some[start : start + batch_size]
            halves = torch.from_numpy(np.ascontiguousarray(cached[start : start + batch_size]))
            grids = encoder.image.finish_grid(halves).float().to(model.decoder.device)
            tags = None if tagger is None else tagger.tags_of(part)
            chances: list[float | None] = [None] * len(part)
            if given is None:
                rows, chances = _written(captioner, part, grids, tags, cache, beam, max_tokens)
            else:
                rows = [next(ids for known, ids in given if known is image) for image in part]
            found = zip(part, rows, chances, strict=True)
            for number, (image, ids, chance) in enumerate(found):
                one = slice(number, number + 1)
                yield captioned_image(
                    model,
                    image,
                    grids[one],
                    ids,
                    is_user_caption=given is not None,
                    known=None if tags is None else tags[one],
                    encoder=encoder,
                    agreement=chance,
                )


def captioned_image(
    model: CaptionModel,
    image: ImageFile,
    grid: Tensor,
    ids: Sequence[int],
    *,
    is_user_caption: bool = False,
    known: Tensor | None = None,
    encoder: ImageTextModel | None = None,
    agreement: float | None = None,
) -> CaptionedImage:
    """One from a finished grid [1, tokens, channels] and token ids, with the end or not."""
    spoken = [id for id in ids if id != model.decoder.end_id]
    pieces = word_pieces(model.decoder, spoken, _GIVEN_WORD if is_user_caption else WORD)
    words = [WordSpan(word, steps) for word, steps in pieces if steps]
    return CaptionedImage(
        model, image, grid, list(ids), words, is_user_caption, known, encoder, agreement
    )


def ids_of_caption(decoder: Decoder, caption: str) -> list[int]:
    """The ids of a person's caption, and the end.

    Raises UserError for an empty one, and for a word that the decoder has no tokens for.
    """
    text = " ".join(caption.split())
    if not text:
        raise UserError("the caption is empty; give one with a word in it")
    unknown = ""
    for spelled in (text, as_sentence(text, " .")):
        (ids,) = decoder.encode([spelled])
        words, read = spelled.split(), decoder.decode([ids])[0].split()
        if read[: len(words)] == words:
            return [*ids, decoder.end_id]
        known = [*read, *[""] * len(words)]
        unknown = unknown or next(a for a, b in zip(words, known, strict=False) if a != b)
    raise UserError(
        f"{quoted(unknown)}: the captioner cannot write it, it knows the tokens of the"
        " captions that it was trained with; say it in other words"
    )


def _written(
    captioner: Captioner,
    images: Sequence[ImageFile],
    grids: Tensor,
    known: Tensor | None,
    cache: FeatureCache | None,
    beam: int,
    max_tokens: int,
) -> tuple[list[list[int]], list[float | None]]:
    """Ids of each caption, with the end where it came; the chance that people would agree."""
    model = captioner.model
    with silence_transformers():
        written = write(
            model,
            images,
            grids,
            captioner.reranker,
            cache=cache,
            beams=beam,
            max_tokens=max_tokens,
            tags=known,
        )
    rows: list[list[int]] = []
    chances: list[float | None] = []
    for ids, chosen in zip(written.ids, written.log_probabilities, strict=True):
        rows.append([*ids, model.decoder.end_id] if len(chosen) > len(ids) else ids)
        words = words_of(model.decoder, ids, chosen)
        chances.append(captioner.chance(words, sum(chosen) / max(1, len(chosen))))
    return rows, chances
