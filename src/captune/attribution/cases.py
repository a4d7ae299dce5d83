"""What maps are judged on: an image, one caption of it, and the boxes that people drew there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from captune.attribution.boxes import Box, Boxes
from captune.attribution.pointing import Target, target_of
from captune.attribution.subject import Subject, given_ids, subjects_of
from captune.attribution.word_kinds import categories_of
from captune.captioning.model import Captioner
from captune.captioning.training.data import CaptionedImages
from captune.errors import UserError
from captune.features import FeatureCache
from captune.images import ImageFile, Skipped
from captune.models.image_text import ImageTextModel


@dataclass(frozen=True)
class Case:
    """image: its number; cases of one image are resampled together.

    categories: of each word that names one, or None. targets: of the words, by number, whose
    category has a box in the image.
    """

    image: int
    subject: Subject
    categories: list[str | None]
    targets: dict[int, Target]


@dataclass(frozen=True)
class Asked:
    """Which caption of which image is taken; boxes: None where no file of boxes knows the image."""

    images: list[ImageFile]
    captions: list[str]
    boxes: list[list[Box] | None]
    unwritable: list[str]


def chosen_captions(data: CaptionedImages, captioner: Captioner, boxes: Boxes | None) -> Asked:
    """Of each image the caption that names the most things that have a box; of equals the first.

    Captions with a word that the captioner cannot write are passed over; images that have no other
    are named in `unwritable`. Raises UserError where no image is left, and where boxes are given
    and none of the images is among their images.
    """
    asked = Asked([], [], [], [])
    for id, image, own in zip(data.ids, data.images, data.captions, strict=True):
        known = None if boxes is None else boxes.of(id, image.path.name)
        drawn = {box.category for box in known or ()}
        writable = [caption for caption in own if _is_writable(captioner, caption)]
        if not writable:
            asked.unwritable.append(image.name)
            continue

        def named(caption: str, drawn: set[str] = drawn) -> int:
            found = categories_of(caption.split(), None if boxes is None else boxes.categories)
            return len(drawn & set(found))

        asked.images.append(image)
        asked.captions.append(max(writable, key=named))
        asked.boxes.append(known)
    if not asked.images:
        raise UserError(
            f"none of {len(data):,} images has a caption that the captioner can write; it knows"
            " the tokens of the captions that it was trained with"
        )
    if boxes is not None and all(known is None for known in asked.boxes):
        raise UserError(
            f"{boxes.source}: knows none of the {len(data):,} images by image id or file name; give"
            " the boxes of the same images"
        )
    return asked


def cases_of(
    captioner: Captioner,
    encoder: ImageTextModel,
    asked: Asked,
    categories: Sequence[str] | None,
    *,
    generated: bool = False,
    beam: int = 5,
    max_tokens: int = 60,
    cache: FeatureCache | None = None,
    batch_size: int = 32,
    workers: int = 0,
    on_skip: Callable[[Skipped], None],
) -> list[Case]:
    """A case of each image that can be read, with its chosen caption or what the captioner writes.

    categories: that the file of boxes knows; None for COCO's.
    """
    place_of = {image: number for number, image in enumerate(asked.images)}
    subjects = subjects_of(
        captioner,
        encoder,
        asked.images,
        None if generated else asked.captions,
        beam=beam,
        max_tokens=max_tokens,
        cache=cache,
        batch_size=batch_size,
        workers=workers,
        on_skip=on_skip,
    )
    return [
        case_of(number, subject, asked.boxes[number], categories)
        for subject in subjects
        if subject.words
        for number in [place_of[subject.image]]
    ]


def case_of(
    image: int, subject: Subject, boxes: list[Box] | None, known: Sequence[str] | None = None
) -> Case:
    """A subject with the boxes of its image."""
    shape = subject.shape
    categories = categories_of([span.word for span in subject.words], known)
    targets = {}
    for word, category in enumerate(categories):
        own = [box for box in boxes or () if box.category == category]
        if own:
            targets[word] = target_of(own, shape.rows, shape.columns)
    return Case(image, subject, categories, targets)


def _is_writable(captioner: Captioner, caption: str) -> bool:
    try:
        given_ids(captioner.decoder, caption)
    except UserError:
        return False
    return True
