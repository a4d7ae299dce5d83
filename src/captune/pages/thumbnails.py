"""The images of a page, small enough to stand inside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from captune.images import UnreadableImage, open_image
from captune.images.decode import decoding_threads, opened_image
from captune.runs import Run
from captune.scoring.rank import hidden_images
from captune.threads import processors

THUMBNAIL_PX, QUALITY = 320, 82
# the pictures of a page that holds many: the largest side with which they stay within the budget
SIZES = ((304, 78), (272, 76), (248, 74), (224, 72), (192, 70), (160, 68), (128, 66), (96, 62))
BUDGET_BYTES = 22_000_000  # of a page that has to stay below 30 MB; base64 counted
_TRIED = 24  # images by which a size is chosen
_TRIED_PX = 2 * SIZES[0][0]
_HEADER = "data:image/jpeg;base64,"
LEAVES = "its path leaves the folder of the run's images"
HIDDEN = "not opened: this captune did not write the run, and it lies outside the run's folder"


def thumbnail(image: Image.Image, side_px: int = THUMBNAIL_PX, quality: int = QUALITY) -> str:
    """A JPEG of at most 320 x 320 pixels as a data URI."""
    small = image.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return _HEADER + base64.b64encode(buffer.getvalue()).decode()


def thumbnail_of(path: Path | None) -> str | None:
    """The thumbnail of an image, or None where it is gone or cannot be read."""
    if path is None:
        return None
    try:
        with opened_image(path, at_least=2 * THUMBNAIL_PX) as image:
            return thumbnail(image)
    except (UnreadableImage, OSError):
        return None


def not_opened(run: Run, path: str) -> str:
    """Why `run.image_path` gives no file for a path."""
    return HIDDEN if run.hides(path) else LEAVES


def hidden_sentence(count: int) -> str:
    """What a reader is told of images that are not opened; nothing of none."""
    if not count:
        return ""
    return (
        f"{hidden_images(count)}: this captune did not write the run that names"
        f" {'it' if count == 1 else 'them'}, and {'it lies' if count == 1 else 'they lie'} outside"
        " the run's folder. captune report with --images DIR, the folder that the run's paths begin"
        f" in, shows {'it' if count == 1 else 'them'}."
    )


@dataclass
class Picture:
    """An image of a page. uri: once it is encoded; missing: why there is none.

    key: its path as the run has it. place: the file to open, None where it must not be.
    """

    number: int
    key: str
    place: Path | None
    name: str
    uri: str | None = None
    missing: str = ""

    @property
    def data(self) -> str:
        """The JPEG in base64."""
        return (self.uri or "").removeprefix(_HEADER)


class Album:
    """The images of a page, each once, whatever asks for them, and so small that all of them fit.

    missing, sizes: path -> why there is no picture, and its pixels, of a page that was made before:
    nothing is opened.
    """

    def __init__(
        self,
        missing: dict[str, str] | None = None,
        sizes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._pictures: dict[str, Picture] = {}
        self._known = missing
        self.sizes: dict[str, tuple[int, int]] = {
            path: (int(width), int(height)) for path, (width, height) in (sizes or {}).items()
        }

    def picture(self, run: Run, path: str | None) -> Picture | None:
        """The image at a path below the root of a run; None where the run names none.

        What `Run.image_path` does not give is not opened: a run from elsewhere must not show local
        files.
        """
        if not path:
            return None
        key = str(run.root / path.replace("\0", ""))
        if key in self._pictures:
            return self._pictures[key]
        if self._known is not None:
            return self.add(key, None, self._known.get(key, ""), path)
        place = run.image_path(path)
        return self.add(key, place, "" if place is not None else not_opened(run, path), path)

    def add(self, key: str, place: Path | None, missing: str, name: str = "") -> Picture:
        """An image whose file the caller knows. missing: why there is no picture without a file."""
        if key not in self._pictures:
            missing = "" if place is not None else missing
            number, shown = len(self._pictures), name or key
            self._pictures[key] = Picture(number, key, place, shown, None, missing)
        return self._pictures[key]

    def size(self, picture: Picture) -> tuple[int, int]:
        """Width and height of an image in pixels, upright; 1 x 1 where it cannot be read."""
        if picture.key not in self.sizes:
            self.sizes[picture.key] = (1, 1)
            if picture.place is not None:
                with suppress(UnreadableImage):
                    self.sizes[picture.key] = open_image(picture.place).size
        return self.sizes[picture.key]

    @property
    def pictures(self) -> list[Picture]:
        """All that were asked for."""
        return list(self._pictures.values())

    @property
    def missing(self) -> dict[str, str]:
        """Path -> why there is no picture."""
        return {one.key: one.missing for one in self.pictures if one.missing}

    @property
    def hidden(self) -> int:
        """How many are not opened because their run is from elsewhere."""
        return sum(one.missing == HIDDEN for one in self.pictures)

    def encode(self, advance: Callable[[int], None] = lambda done: None) -> None:
        """Encode what was asked for, as large as all of them can be."""
        if self._known is not None:
            for one in self.pictures:
                one.uri = None if one.missing else _HEADER
            return
        wanted = [one for one in self.pictures if one.place is not None]
        sizes = _fitting(wanted)
        with decoding_threads(min(8, processors())) as pool:
            for tried, (side_px, quality) in enumerate(sizes):
                for _ in pool.map(partial(_encode, side_px=side_px, quality=quality), wanted):
                    advance(int(tried == 0))
                if sum(len(one.data) for one in wanted) <= BUDGET_BYTES:
                    break


def _fitting(wanted: Sequence[Picture]) -> list[tuple[int, int]]:
    """The sizes with which, by a sample of the images, all fit: largest first, at least one."""
    images = []
    for one in wanted[:: max(1, len(wanted) // _TRIED)][:_TRIED]:
        assert one.place is not None
        with suppress(UnreadableImage), opened_image(one.place, at_least=_TRIED_PX) as image:
            # no more than is needed: a page of huge images must not keep 24 of them
            image.thumbnail((2 * _TRIED_PX, 2 * _TRIED_PX), Image.Resampling.BOX)
            images.append(image)
    return [
        size
        for size in SIZES
        if size == SIZES[-1]
        or not images
        or sum(len(thumbnail(image, *size)) for image in images) / len(images) * len(wanted)
        <= BUDGET_BYTES
    ]


def _encode(one: Picture, *, side_px: int, quality: int) -> None:
    assert one.place is not None
    try:
        with opened_image(one.place, at_least=2 * side_px) as image:
            one.uri = thumbnail(image, side_px, quality)
    except UnreadableImage as error:
        one.missing = error.reason
