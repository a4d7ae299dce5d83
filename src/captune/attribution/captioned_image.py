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

from torch import Tensor

from captune.attribution.vlm_image import AnyModel, ImageReader, reader_of
from captune.captioning.any_captioner import AnyCaptioner, Ready
from captune.captioning.caption import WORD, word_pieces
from captune.captioning.captioner import Captioner
from captune.captioning.generate import GenerationSettings
from captune.captioning.model import CaptionModel
from captune.captioning.tags import texts_of
from captune.errors import UserError
from captune.features.encode import encode_grids
from captune.images import ImageFile, Skipped, UnreadableImage, open_image
from captune.models.decoders import Decoder
from captune.models.encoders import GridShape, ImageTextModel
from captune.text import as_sentence
from captune_metrics.display import quoted

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

    model: the captioner, or what one of transformers reads of the image. grid: [1, tokens,
    channels] float32, finished, where the captioner is.
    ids: of the caption's tokens, with the end where it came. words: without the end.
    is_user_caption: the caption is a person's, not the captioner's.
    known: [1, w], the words of `CaptionModel.project`, for those that read a text beside the image.
    encoder: what made the grid, for methods that encode again or compare with texts.
    agreement: as of a `Caption`.
    """

    model: CaptionModel | ImageReader
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
    def reader(self) -> ImageReader | None:
        """The model of transformers that it is of; None where captune's own captions."""
        return self.model if isinstance(self.model, ImageReader) else None

    @property
    def before(self) -> int:
        """Positions before the one from which step 0 is predicted: those of a prompt."""
        model = self.model
        return model.places_before(self.known) if isinstance(model, CaptionModel) else 0

    @property
    def read(self) -> str | None:
        """What the captioner read of the image before its caption; None where it reads nothing."""
        return None if self.known is None else texts_of(self.known, self.model.decoder)[0]

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


def model_of(captioner: Captioner | AnyCaptioner) -> AnyModel:
    """What map methods ask, before an image is read."""
    return captioner.model if isinstance(captioner, Captioner) else reader_of(captioner)


def captioned_images(
    captioner: Captioner | AnyCaptioner,
    images: Sequence[ImageFile],
    captions: Sequence[str] | None = None,
    how: GenerationSettings = GenerationSettings(),
    *,
    on_skip: Callable[[Skipped], None],
) -> Iterator[CaptionedImage]:
    """Each readable image with its caption, in their order; the others go to `on_skip`.

    captions: one per image, to be explained instead of what the captioner would write. Images are
    encoded once, also where one stands several times in the list, each time with another caption.
    Raises UserError for a caption with a word that the captioner cannot write.
    """
    if isinstance(captioner, Captioner):
        yield from _from_grids(captioner, images, captions, how, on_skip)
        return
    given = [None] * len(images) if captions is None else captions
    reader = reader_of(captioner)
    for file, text in zip(images, given, strict=True):
        ids = None if text is None else ids_of_caption(reader.decoder, text)
        try:
            own, grid = reader.of(open_image(file.path))
        except UnreadableImage as error:
            on_skip(Skipped(file.name, error.reason))
            continue
        if ids is None:
            ready, features = Ready(file, "", own.inputs), grid.to(captioner.vlm.model.dtype)
            (chosen,) = captioner.chosen([ready], list(features), how)
            ids = chosen.ids
        yield captioned_image(own, file, grid, ids, is_user_caption=text is not None)


def _from_grids(
    captioner: Captioner,
    images: Sequence[ImageFile],
    captions: Sequence[str] | None,
    how: GenerationSettings,
    on_skip: Callable[[Skipped], None],
) -> Iterator[CaptionedImage]:
    """`captioned_images` of captune's own, whose grids come from the feature cache in batches."""
    model, encoder = captioner.model, captioner.encoder
    given = None
    if captions is not None:
        # the same image may come with several captions; those of skipped images are passed over
        own = [ids_of_caption(model.decoder, text) for text in captions]
        given = iter(list(zip(images, own, strict=True)))
    tagger, size = captioner.tagger(how.encoding.cache), how.encoding.batch_size
    for some, cached in encode_grids(images, encoder.image, how.encoding, on_skip=on_skip):
        for start in range(0, len(some), size):
            part = some[start : start + size]
            grids, tags = captioner.inputs(part, cached[start : start + size], tagger)
            found: list[tuple[Sequence[int], float | None]]
            if given is None:
                written = captioner.write(part, grids, tags, how)
                end = [model.decoder.end_id]
                found = [([*one.ids, *end * one.ended], one.agreement) for one in written]
            else:
                found = [(next(own for of, own in given if of is image), None) for image in part]
            for number, (image, (ids, chance)) in enumerate(zip(part, found, strict=True)):
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
    model: CaptionModel | ImageReader,
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
