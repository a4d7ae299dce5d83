"""Photos small enough to stand inside a page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from captune.images import UnreadablePhoto, open_photo
from captune.scoring.ranking import leaves_root

THUMBNAIL_PX, QUALITY = 320, 82
# the pictures of a page that holds many: the largest side with which they stay within the budget
SIZES = ((304, 78), (272, 76), (248, 74), (224, 72), (192, 70), (160, 68), (128, 66), (96, 62))
BUDGET_BYTES = 22_000_000  # of a page that has to stay below 30 MB; base64 counted
_TRIED = 24  # photos by which a size is chosen
_HEADER = "data:image/jpeg;base64,"


def thumbnail(photo: Image.Image, side_px: int = THUMBNAIL_PX, quality: int = QUALITY) -> str:
    """A JPEG of at most 320 x 320 pixels as a data URI."""
    small = photo.copy()
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=quality)
    return _HEADER + base64.b64encode(buffer.getvalue()).decode()


def thumbnail_of(path: Path) -> str | None:
    """The thumbnail of a photo, or None where it is gone or cannot be read."""
    try:
        return thumbnail(open_photo(path))
    except (UnreadablePhoto, OSError):
        return None


@dataclass
class Picture:
    """A photo of a page. uri: once it is encoded; missing: why there is none."""

    number: int
    path: Path
    name: str
    uri: str | None = None
    missing: str = ""

    @property
    def data(self) -> str:
        """The JPEG in base64."""
        return (self.uri or "").removeprefix(_HEADER)


class Album:
    """The photos of a page, each once, whatever asks for them, and so small that all of them fit.

    missing, sizes: path -> why there is no picture, and its pixels, of a page that was made before:
    nothing is opened.
    """

    def __init__(
        self,
        missing: dict[str, str] | None = None,
        sizes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        self._pictures: dict[Path, Picture] = {}
        self._known = missing
        self.sizes: dict[str, tuple[int, int]] = {
            path: (int(width), int(height)) for path, (width, height) in (sizes or {}).items()
        }

    def picture(self, root: Path, path: str | None) -> Picture | None:
        """The photo at a path below the root of a run; None where the run names none.

        A path that leaves the root is not opened: a run from elsewhere must not show local files.
        """
        if not path:
            return None
        place = root / path.replace("\0", "")
        if place not in self._pictures:
            picture = Picture(len(self._pictures), place, path)
            if leaves_root(path):
                picture.missing = "its path leaves the folder of the run's photos"
            self._pictures[place] = picture
        return self._pictures[place]

    def size(self, picture: Picture) -> tuple[int, int]:
        """Width and height of a photo in pixels, upright; 1 x 1 where it cannot be read."""
        path = str(picture.path)
        if path not in self.sizes:
            self.sizes[path] = (1, 1)
            if self._known is None and not picture.missing:
                with suppress(UnreadablePhoto):
                    self.sizes[path] = open_photo(picture.path).size
        return self.sizes[path]

    @property
    def pictures(self) -> list[Picture]:
        """All that were asked for."""
        return list(self._pictures.values())

    @property
    def missing(self) -> dict[str, str]:
        """Path -> why there is no picture."""
        return {str(one.path): one.missing for one in self.pictures if one.missing}

    def encode(self, advance: Callable[[int], None] = lambda done: None) -> None:
        """Encode what was asked for, as large as all of them can be."""
        if self._known is not None:
            for one in self.pictures:
                one.missing = self._known.get(str(one.path), "")
                one.uri = None if one.missing else _HEADER
            return
        wanted = [one for one in self.pictures if not one.missing]
        sizes = _fitting(wanted)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding leaves the lock
            for tried, (side_px, quality) in enumerate(sizes):
                for _ in pool.map(partial(_encode, side_px=side_px, quality=quality), wanted):
                    advance(int(tried == 0))
                if sum(len(one.data) for one in wanted) <= BUDGET_BYTES:
                    break


def _fitting(wanted: Sequence[Picture]) -> list[tuple[int, int]]:
    """The sizes with which, by a sample of the photos, all fit: largest first, at least one."""
    photos = []
    for one in wanted[:: max(1, len(wanted) // _TRIED)][:_TRIED]:
        with suppress(UnreadablePhoto):
            photos.append(open_photo(one.path))
    return [
        size
        for size in SIZES
        if size == SIZES[-1]
        or not photos
        or sum(len(thumbnail(photo, *size)) for photo in photos) / len(photos) * len(wanted)
        <= BUDGET_BYTES
    ]


def _encode(one: Picture, *, side_px: int, quality: int) -> None:
    try:
        one.uri = thumbnail(open_photo(one.path), side_px, quality)
    except UnreadablePhoto as error:
        one.missing = error.reason
