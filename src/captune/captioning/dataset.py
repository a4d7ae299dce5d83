"""Images with their captions: read, checked, tokenised."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from captune.captions import CaptionFile, match_images, read_captions
from captune.errors import UserError
from captune.images import ImageFile, ImageSet, Skipped, UnreadableImage
from captune.images.decode import hash_image
from captune.images.find import sampled
from captune.text import counted
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.models.decoders import Decoder

_NAMED = 3
_MIN_HELD_OUT, _MOST_HELD_OUT = 2, 1000  # images


@dataclass(frozen=True)
class CaptionDataset:
    """Images with their captions; the lists are parallel, one entry an image.

    ids: as the caption file names them. keys: sha256 of the files' bytes. root: what the images'
    names are relative to. notes: sentences for the user about what was left out.
    """

    ids: list[str]
    images: list[ImageFile]
    keys: list[str]
    captions: list[list[str]]
    root: Path
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, places: Sequence[int], dropped: Sequence[Skipped] = ()) -> CaptionDataset:
        """These images, in this order."""
        return replace(
            self,
            ids=[self.ids[i] for i in places],
            images=[self.images[i] for i in places],
            keys=[self.keys[i] for i in places],
            captions=[self.captions[i] for i in places],
            skipped=[*self.skipped, *dropped],
        )

    def without(self, dropped: Sequence[Skipped]) -> CaptionDataset:
        """All but the images that turned out to be unreadable, by name or whole path."""
        names = {item.path for item in dropped}
        gone = [not names.isdisjoint((image.name, str(image.path))) for image in self.images]
        here = {name for image in self.images for name in (image.name, str(image.path))}
        own = [item for item in dropped if item.path in here]
        kept = [place for place, is_gone in enumerate(gone) if not is_gone]
        return self.only(kept, own) if own else self

    @cached_property
    def digest(self) -> str:
        """Over everything here that training depends on."""
        digest = hashlib.sha256()
        for id, key, own in zip(self.ids, self.keys, self.captions, strict=True):
            digest.update(repr((id, key, list(own))).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @property
    def references(self) -> dict[str, list[str]]:
        """Image id -> its captions, as the metrics take them."""
        return dict(zip(self.ids, self.captions, strict=True))


def read_dataset(
    captions: str | Path, found: ImageSet, *, limit: int = 0, seed: int = 0
) -> CaptionDataset:
    """The captioned images of a file among those that were found: `MatchedCaptions.read`."""
    return match_dataset(captions, found).read(limit=limit, seed=seed)


@dataclass(frozen=True)
class MatchedCaptions:
    """Images and captions by image id, of those that have both.

    root: of the images. shown: the caption file, for sentences.
    """

    images: Mapping[str, ImageFile]
    captions: dict[str, list[str]]
    root: Path
    notes: list[str]
    shown: str

    def held_out(self, seed: int) -> tuple[MatchedCaptions, MatchedCaptions]:
        """Without one image in five, and these alone; which ones depends on the seed only.

        They are two at least, and 1,000 at most. Raises UserError where too few are left to train.
        """
        ids = list(self.captions)
        if len(ids) < _MIN_HELD_OUT + 1:
            raise UserError(
                f"{self.shown}: {len(ids):,} images are too few to hold some out for validation;"
                " name others with --val-captions"
            )
        wanted = min(_MOST_HELD_OUT, max(_MIN_HELD_OUT, len(ids) // 5))
        held = set(random.Random(f"held out/{seed}").sample(ids, wanted))  # noqa: S311
        note = (
            f"{self.shown}: {wanted:,} of {len(ids):,} images are held out for validation, by"
            " --seed; --val-captions names others"
        )
        rest = {id: own for id, own in self.captions.items() if id not in held}
        some = {id: own for id, own in self.captions.items() if id in held}
        return replace(self, captions=rest), replace(self, captions=some, notes=[note])

    def read(
        self, *, limit: int = 0, seed: int = 0, advance: Callable[[int], None] = lambda done: None
    ) -> CaptionDataset:
        """Those whose images can be read; the others are skipped and named.

        limit: at most so many images, a sample that depends on the seed only; 0 takes all.
        advance: told how many more images were read. Raises UserError where nothing is left.
        """
        ids = sampled(list(self.captions), limit, seed)
        keys, skipped = {}, []
        for id in ids:
            try:
                keys[id] = hash_image(self.images[id].path)[0]
            except UnreadableImage as error:
                skipped.append(Skipped(self.images[id].name, error.reason))
            advance(1)
        if not keys:
            first = skipped[0]
            raise UserError(
                f"{self.shown}: none of its {len(ids):,} images could be read"
                f" ({printable(first.path)}: {first.reason})"
            )
        return CaptionDataset(
            list(keys),
            [self.images[id] for id in keys],
            list(keys.values()),
            [self.captions[id] for id in keys],
            self.root,
            skipped,
            self.notes,
        )


def match_dataset(captions: str | Path, found: ImageSet) -> MatchedCaptions:
    """The captions of a file and their images; no image is opened.

    Raises UserError where no image has a caption.
    """
    file = read_captions(captions)
    image_of, missing = match_images(file, found)
    shown = printable(file.source)
    if not image_of:
        raise UserError(
            f"{shown}: none of its {len(file):,} images ({_some(missing)}) is among the"
            f" {len(found.images):,} images in {found.root}; name the folder that holds them"
        )
    notes = list(_notes(file, image_of, missing, found.root, shown))
    kept = {id: [c for c in file.captions[id] if not c.isspace() and c] for id in image_of}
    kept = {id: own for id, own in kept.items() if own}
    if not kept:
        raise UserError(f"{shown}: all captions of its images are empty; give it captions")
    return MatchedCaptions(image_of, kept, found.root, notes, shown)


def without_captions(found: ImageSet, matched: Sequence[MatchedCaptions]) -> list[str]:
    """A sentence about the images of a folder that none of its caption files tells of."""
    known = {image.path for one in matched for image in one.images.values()}
    bare = [image.name for image in found.images if image.path not in known]
    if not bare:
        return []
    files = " or ".join(dict.fromkeys(one.shown for one in matched))
    return [
        f"{found.root}: {len(bare):,} of {len(found.images):,} images"
        f" {'has' if len(bare) == 1 else 'have'} no captions in {files} ({_some(bare)})"
    ]


def check_enough(images: int, captions: Path) -> None:
    """Raises UserError for validation captions of a single image."""
    if images < 2:
        raise UserError(f"{captions} has one image; scores need two and more, better hundreds")


def leaked_ids(train: CaptionDataset, val: CaptionDataset) -> list[str]:
    """The ids in `val` whose image is in `train` too, byte for byte."""
    known = set(train.keys)
    return [id for id, key in zip(val.ids, val.keys, strict=True) if key in known]


@dataclass(frozen=True)
class Tokenised:
    """Captions as token ids, one list of rows an image: the end token closes a row that is whole.

    cut: how many captions were longer than the limit. empty: (image id) of images none of whose
    captions has a token; they have no rows.
    """

    rows: list[list[list[int]]]
    cut: int
    empty: list[str]


def read_texts(captions: str | Path) -> CaptionDataset:
    """The captions of a file, whose images are not there: keys are made of their ids."""
    file = read_captions(captions)
    kept = {id: [c for c in own if c and not c.isspace()] for id, own in file.captions.items()}
    kept = {id: own for id, own in kept.items() if own}
    if not kept:
        raise UserError(f"{printable(file.source)}: all of its captions are empty")
    keys = [f"text of {id}" for id in kept]
    return CaptionDataset(list(kept), [], keys, list(kept.values()), Path())


def tokenise(data: CaptionDataset, decoder: Decoder, max_tokens: int) -> Tokenised:
    """Every caption of every image, once; at most `max_tokens` ids a caption."""
    flat = [caption.strip() for own in data.captions for caption in own]
    encoded = iter(decoder.encode(flat))
    rows: list[list[list[int]]] = []
    cut = 0
    for own in data.captions:
        ids = [next(encoded) for _ in own]
        cut += sum(len(row) >= max_tokens for row in ids)
        # a caption that was cut does not end where it was cut, and must not teach to end there
        rows.append([[*row, decoder.end_id][:max_tokens] for row in ids if row])
    empty = [id for id, own in zip(data.ids, rows, strict=True) if not own]
    return Tokenised(rows, cut, empty)


def _notes(
    file: CaptionFile,
    image_of: Mapping[str, ImageFile],
    missing: Sequence[str],
    root: Path,
    shown: str,
) -> Iterator[str]:
    if missing:
        yield (
            f"{shown}: {len(missing):,} of {len(file):,} images have no file in {root}"
            f" ({_some(missing)}) and are left out"
        )
    blank = [id for id in image_of if all(not c or c.isspace() for c in file.captions[id])]
    if blank:
        yield f"{shown}: {counted(len(blank), 'image')} with empty captions only ({_some(blank)})"
    empty = sum(not c or c.isspace() for id in image_of for c in file.captions[id])
    if empty:
        yield f"{shown}: {counted(empty, 'caption')} left out as empty"


def _some(ids: Sequence[str]) -> str:
    named = ", ".join(printable(id) for id in ids[:_NAMED])
    return named + (f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else "")
