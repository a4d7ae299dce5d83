"""Images that people drop: checked, named as they called them, in a private folder that goes away.

Each set of images has a folder of its own, below one that only this user may enter. A set belongs
to whoever knows its id, which nobody can guess.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captune.errors import UserError
from captune.files import printable
from captune.images import ImageFile, Skipped, UnreadableImage, opened_image
from captune.pages.thumbnails import THUMBNAIL_PX, thumbnail

KEPT = 128  # sets: the one that was longest not used goes first
MOST_BYTES = 4 * 2**30  # of all sets together, and of what is on its way into them
STALE_S = 3600  # a set that was not used for so long makes room for others
_LONGEST_NAME = 120
_FORBIDDEN = '<>:"|?*' if os.name == "nt" else ""


@dataclass(frozen=True)
class Dropped:
    """A file as it came: where it lies now, or None, and what the person calls it."""

    path: Path | None
    name: str


@dataclass
class ImageFolder:
    """One person's images. thumbnails: by name, small JPEGs as data URIs."""

    id: str
    folder: Path
    images: list[ImageFile] = field(default_factory=list)
    refused: list[Skipped] = field(default_factory=list)
    thumbnails: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def names(self) -> list[str]:
        """In the order in which they came."""
        return [image.name for image in self.images]

    def image(self, name: str | None) -> ImageFile:
        """Raises UserError where there is none of that name."""
        for one in self.images:
            if one.name == name:
                return one
        raise UserError(
            f"{printable(name)}: is not among your images" if name else "drop an image first"
        )


class Uploads:
    """All images that were dropped since the app started."""

    def __init__(self, folder: Path, *, most_images: int, most_bytes: int) -> None:
        """most_images: of one set. most_bytes: of one image."""
        self.most_images, self.most_bytes = most_images, most_bytes
        self._folder = folder
        self._sets: OrderedDict[str, ImageFolder] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, id: str | None) -> ImageFolder | None:
        """The set of that id, or None where there is none any more."""
        with self._lock:
            if not isinstance(id, str) or id not in self._sets:
                return None
            self._sets.move_to_end(id)
            self._sets[id].used = time.monotonic()
            return self._sets[id]

    def room(self, arriving: int) -> int:
        """Bytes that there may be beside the sets and so many on their way; stale sets go first."""
        with self._lock:
            held = arriving + sum(one.size_bytes for one in self._sets.values())
            stale = []
            for one in list(self._sets.values()):
                if held < MOST_BYTES or time.monotonic() - one.used < STALE_S:
                    break
                stale.append(self._sets.pop(one.id))
                held -= one.size_bytes
        for one in stale:
            shutil.rmtree(one.folder, ignore_errors=True)
        return MOST_BYTES - held

    def images_of(self, id: str | None) -> ImageFolder:
        """As `find`. Raises UserError where there are no images."""
        found = self.find(id)
        if found is None or not found.images:
            raise UserError("there are no images yet; drop some, or take the examples")
        return found

    def add(self, id: str | None, files: Sequence[Dropped]) -> ImageFolder:
        """Take files into a set, a new one where there is none; what is no image is refused.

        The files themselves are moved or removed.
        """
        found = self.find(id) or self._new()
        found.refused = []
        for file in files:
            try:
                if file.path is None:
                    raise UnreadableImage("it is no longer there; drop it again")
                self._take(found, file.path, file.name)
            except UnreadableImage as error:
                found.refused.append(Skipped(_plain_name(file.name), error.reason))
            finally:
                if file.path is not None:
                    file.path.unlink(missing_ok=True)
        self._drop_oldest(found)
        return found

    def clear(self, id: str | None) -> None:
        """Forget a set."""
        with self._lock:
            found = self._sets.pop(id, None) if isinstance(id, str) else None
        if found is not None:
            shutil.rmtree(found.folder, ignore_errors=True)

    def _take(self, found: ImageFolder, path: Path, given: str) -> None:
        if len(found.images) >= self.most_images:
            raise UnreadableImage(f"one image more than the {self.most_images:,} that fit")
        size = path.stat().st_size
        if size > self.most_bytes:
            limit = self.most_bytes / 1e6
            raise UnreadableImage(f"{size / 1e6:.0f} MB, over the limit of {limit:.0f} MB")
        with opened_image(path, at_least=2 * THUMBNAIL_PX) as image:
            small = thumbnail(image)
        name = _free_name(_plain_name(given), found.thumbnails)
        place = found.folder / name
        path.replace(place)
        found.images.append(ImageFile(place, name))
        found.thumbnails[name] = small
        found.size_bytes += size

    def _new(self) -> ImageFolder:
        id = secrets.token_urlsafe(18)
        folder = self._folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        with self._lock:
            self._sets[id] = ImageFolder(id, folder)
            return self._sets[id]

    def _drop_oldest(self, keep: ImageFolder) -> None:
        with self._lock:
            dropped = []
            while len(self._sets) > max(1, KEPT):
                oldest = next(iter(self._sets.values()))
                if oldest is keep:
                    break
                dropped.append(self._sets.pop(oldest.id))
        for one in dropped:
            shutil.rmtree(one.folder, ignore_errors=True)


def _plain_name(name: str) -> str:
    """The last part of a name, as no system refuses it; what else stands in it stays."""
    last = re.split(r"[/\\]", name)[-1]
    plain = "".join(
        sign if sign.isprintable() and sign not in _FORBIDDEN else "_" for sign in last
    ).strip(" .")
    stem, dot, ending = plain.rpartition(".")
    while len(plain.encode()) > _LONGEST_NAME and stem:
        stem = stem[:-1]
        plain = stem + dot + ending
    return plain[:_LONGEST_NAME] or "image"


def _free_name(name: str, taken: Iterable[str]) -> str:
    """`name`, or with a number where that is taken."""
    used = set(taken)
    stem, dot, ending = name.rpartition(".")
    if not dot:
        stem, ending = ending, ""
    number, free = 1, name
    while free in used:
        number += 1
        free = f"{stem} ({number}){dot}{ending}"
    return free
