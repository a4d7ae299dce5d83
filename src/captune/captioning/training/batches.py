"""What a training learns from, and in which batches.

A patch grid comes from a `Grids`, by the sha256 of its image file, once for all of its captions.
Which captions and which batches an epoch has depends on the seed and the epoch only, so a run that
resumes after a kill sees what it would have seen.

Captions without an image have a stand-in for its grid (`TextGrids`).

A frozen encoder's grids are cached, so a view that is drawn at random for each step would be
encoded anew each time. A fixed second view, mirrored, doubles the cache instead, and each epoch
draws one of the two. A caption that names left or right would be wrong of a mirrored image.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from captune.captioning.dataset import CaptionDataset
from captune.captioning.model import pad_tags
from captune.errors import UserError
from captune.features.cache import FeatureCache
from captune.features.encode import grids_bytes, require_room
from captune.models.encoders import Floats, ImageEncoder, normalise

_POOL = 32  # batches that are sorted by length together: little padding, still a random order
_TEXT_RIDGE = 0.1  # of the mean variance of a dimension
_SIDES = re.compile(r"\b(?:left|right)(?:most|wards?)?\b", re.IGNORECASE)


class Grids(Protocol):
    """Random access to what the frozen image encoder yielded."""

    def grids_of(self, keys: Sequence[str]) -> Tensor:
        """sha256 of image files -> [images, tokens, channels] float32."""
        ...


class TextGrids:
    """Grids of images of which nothing but captions is known; of all others, those of `grids`.

    Captions have a vector in the space that an image-text model shares between images and texts.
    It is moved to where images lie there: less the mean of the training captions, times the
    deviation of images over that of texts, plus the mean of images, dimension by dimension. A ridge
    regression on the training images says what the mean over the places of such an image's grid is.
    Its grid is that of the training image which is nearest to it, moved to that mean. For training
    `disturb` adds noise to the vector: `noise` times the deviation of images.
    """

    def __init__(
        self,
        grids: Grids,
        keys: Sequence[str],
        texts: Floats,
        *,
        known_keys: Sequence[str],
        known_texts: Floats,
        images: Floats,
        means: Floats,
        noise: float,
    ) -> None:
        """keys, texts [n, d]: of the captions without an image.

        known_keys, known_texts [m, d], images [m, d], means [m, channels]: of the training images,
        what their captions say, how the model sees them, and the means of their grids.
        """
        spread, centre = images.std(axis=0), images.mean(axis=0)
        scale = spread / np.maximum(np.concatenate([texts, known_texts]).std(axis=0), 1e-6)
        moved = (texts - known_texts.mean(axis=0)) * scale
        x, y = images - centre, means - means.mean(axis=0)
        square = x.T @ x
        ridge = _TEXT_RIDGE * np.trace(square) / len(square) * np.eye(len(square))
        look = np.linalg.solve(square + ridge, x.T @ y)
        nearest = np.argmax(normalise(moved + centre) @ normalise(images).T, axis=1)
        shift = moved @ look - y[nearest]
        self._grids = grids
        self._like = dict(zip(keys, (known_keys[place] for place in nearest), strict=True))
        self._shift = dict(zip(keys, torch.from_numpy(shift).float(), strict=True))
        self._noise = torch.from_numpy(noise * spread[:, None] * look).float()

    def grids_of(self, keys: Sequence[str]) -> Tensor:
        """As `Grids` has it; without noise."""
        found = self._grids.grids_of([self._like.get(key, key) for key in keys])
        for place, key in enumerate(keys):
            if key in self._shift:
                found[place] += self._shift[key].to(found.device)
        return found

    def disturb(self, grids: Tensor, keys: Sequence[str], seeds: Sequence[int]) -> None:
        """Add noise to those of `grids`, which these keys have, that stand for no image.

        Each has a seed, for torch's own stream is elsewhere where a training resumes: batches are
        made ahead.
        """
        for place, (key, seed) in enumerate(zip(keys, seeds, strict=True)):
            if key in self._shift:
                chance = torch.Generator().manual_seed(seed)
                noise = torch.randn(len(self._noise), generator=chance) @ self._noise
                grids[place] += noise.to(grids.device)


TagRows = Mapping[str, Sequence[int]]  # sha256 of an image file -> token ids of its tags
_DRAWS = 1 << 16


def padded_tags(rows: TagRows, keys: Sequence[str]) -> Tensor:
    """The `tags` of `CaptionModel.project` for these images, [images, w]; empty where unknown."""
    return pad_tags([rows.get(key, ()) for key in keys])


@dataclass(frozen=True)
class BatchItem:
    """An image, which of its captions are learnt this time, and in which view it is seen.

    drawn: a number that decides which of its tags are read, and the noise on what stands for it.
    """

    image: int
    captions: tuple[int, ...]
    mirrored: bool = False
    drawn: int = 0

    @property
    def seed(self) -> int:
        """Of what is drawn for this image in this epoch."""
        return self.image * _DRAWS + self.drawn


class Batches:
    """The batches of each epoch, as a batch sampler of torch: lists of `BatchItem`.

    lengths: tokens of each caption of each image. captions: how many about a batch holds.
    per_image: captions of an image that are learnt an epoch, sampled anew each time; 0 takes all.
    mirrored: images that have a mirrored view too; one of the two is drawn for each epoch.
    process, processes: which share of the batches is this process's; all get as many.

    All images of a batch have as many captions (they are folded into the query axis), and lengths
    that are close. How many batches there are is the same in every epoch.
    """

    def __init__(
        self,
        lengths: Sequence[Sequence[int]],
        *,
        captions: int,
        per_image: int = 0,
        mirrored: Sequence[int] = (),
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self._lengths = lengths
        self._captions = captions
        self._mirrored = mirrored
        self._seed = seed
        self._share = process, processes
        self._epoch = 0
        self._groups: dict[int, list[int]] = defaultdict(list)
        for image, own in enumerate(lengths):
            if own:
                self._groups[min(len(own), per_image or len(own))].append(image)

    def set_epoch(self, epoch: int) -> None:
        """What `iter` gives from now on."""
        self._epoch = epoch

    def __len__(self) -> int:
        total = sum(-(-len(images) // self._images(k)) for k, images in self._groups.items())
        return -(-total // self._share[1])

    def __iter__(self) -> Iterator[list[BatchItem]]:
        process, processes = self._share
        batches = self.of_epoch(self._epoch)
        # every process takes as many steps: the first batches fill the last round
        rounds = islice(cycle(batches), len(self) * processes)
        return islice(rounds, process, None, processes)

    def of_epoch(self, epoch: int) -> list[list[BatchItem]]:
        """All batches of an epoch, for all processes."""
        # a text as the seed: the same stream on every machine and in every release of Python
        chance = random.Random(f"{self._seed}/{epoch}")  # noqa: S311
        # streams of their own: what else is drawn is the same with and without mirroring or tags
        mirroring = random.Random(f"mirror/{self._seed}/{epoch}")  # noqa: S311
        flipped = {image for image in self._mirrored if mirroring.random() < 0.5}
        of_tags = random.Random(f"tags/{self._seed}/{epoch}")  # noqa: S311
        drawn = [of_tags.randrange(_DRAWS) for _ in self._lengths]
        batches = [
            batch
            for k, images in sorted(self._groups.items())
            for batch in self._of_group(k, list(images), flipped, drawn, chance)
        ]
        chance.shuffle(batches)
        return batches

    def _of_group(
        self,
        k: int,
        images: list[int],
        flipped: set[int],
        drawn: Sequence[int],
        chance: random.Random,
    ) -> Iterator[list[BatchItem]]:
        chance.shuffle(images)
        size = self._images(k)
        items = [
            BatchItem(image, self._chosen(image, k, chance), image in flipped, drawn[image])
            for image in images
        ]
        for start in range(0, len(items), size * _POOL):
            pool = sorted(items[start : start + size * _POOL], key=self._length)
            for first in range(0, len(pool), size):
                yield pool[first : first + size]

    def _chosen(self, image: int, k: int, chance: random.Random) -> tuple[int, ...]:
        available = range(len(self._lengths[image]))
        return tuple(available) if k == len(available) else tuple(chance.sample(available, k))

    def _length(self, item: BatchItem) -> int:
        return max(self._lengths[item.image][place] for place in item.captions)

    def _images(self, k: int) -> int:
        return max(1, round(self._captions / k))

    def padded_tokens(self, epoch: int) -> int:
        """Places of all batches of an epoch, padding included: what an epoch costs."""
        return sum(
            max(map(self._length, batch)) * sum(len(e.captions) for e in batch)
            for batch in self.of_epoch(epoch)
        )


@dataclass(frozen=True)
class MirroredViews:
    """images: places of the training images that have one. grids: of the mirrored images."""

    images: Sequence[int]
    grids: Grids


def mirrorable(train: CaptionDataset) -> list[int]:
    """Places of the images none of whose captions names left or right."""
    return [
        place
        for place, captions in enumerate(train.captions)
        if not any(_SIDES.search(caption) for caption in captions)
    ]


def check_mirroring(
    train: CaptionDataset,
    images: int,
    encoder: ImageEncoder,
    cache: FeatureCache | None,
    message: Callable[[str], None],
) -> list[int]:
    """`mirrorable`, and a message of what it costs.

    images: how many are encoded without it. Raises UserError where there is nothing to mirror, or
    the cache may not hold both views.
    """
    places = mirrorable(train)
    if not places:
        raise UserError(
            "--augment mirror: each of the training images has a caption that names left or right,"
            " which would be wrong of the mirrored image; leave it out"
        )
    if cache is not None and cache.is_writable:
        require_room(images + len(places), encoder, cache)
    sentence = (
        f"--augment mirror: {len(places):,} of {len(train):,} training images are encoded and"
        f" cached twice, as they are and mirrored: {grids_bytes(len(places), encoder) / 1e6:,.1f}"
        " MB more"
    )
    kept = len(train) - len(places)
    if kept:
        sentence += f"; the captions of {kept:,} name left or right, so these stay as they are"
    message(sentence)
    return places


def drawn_views(
    plain: Grids, mirrored: MirroredViews | None, keys: Sequence[str], flipped: Sequence[bool]
) -> Tensor:
    """Grids [images, tokens, channels], each of the image as it is or, where flipped, mirrored."""
    if mirrored is None or not any(flipped):
        return plain.grids_of(keys)
    order = sorted(range(len(keys)), key=lambda place: flipped[place])
    upright = len(keys) - sum(flipped)
    parts = [
        grids.grids_of([keys[place] for place in places])
        for grids, places in ((plain, order[:upright]), (mirrored.grids, order[upright:]))
        if places
    ]
    return torch.cat(parts)[torch.tensor(order, device=parts[0].device).argsort()]
