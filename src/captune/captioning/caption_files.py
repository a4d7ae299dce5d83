"""Captions as other programs read them: the assignment's `{"stem": "caption"}`, and sidecars."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from captune.errors import UserError
from captune.files import check_writable, printable, quoted, whole_file
from captune.images import Photo


class Predictions:
    """`{"stem": "caption"}`, one line a photo, in one file that appears when the block ends well.

    A stem is a file's name without its folder and its ending.
    """

    def __init__(self, path: Path, photos: Sequence[Photo]) -> None:
        """Raises UserError where the file cannot be written, or two photos have one stem."""
        check_writable(path)
        names: dict[str, str] = {}
        for photo in photos:
            first = names.setdefault(_stem(photo), photo.name)
            if first != photo.name:
                raise UserError(
                    f"--predictions: {quoted(first)} and {quoted(photo.name)} have the same stem,"
                    f" {quoted(_stem(photo))}, and the file has one place for it; rename one, or"
                    " caption their folders one by one"
                )
        self.path = path
        self._whole = whole_file(path)
        self._file: IO[Any]
        self._before = "{\n"

    def __enter__(self) -> Self:
        self._file = self._whole.__enter__()
        return self

    def add(self, photo: Photo, caption: str) -> None:
        """Write one line."""
        self._file.write(f"{self._before}{json.dumps(_stem(photo))}: {json.dumps(caption)}")
        self._before = ",\n"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._file.write("\n}\n" if self._before.startswith(",") else "{}\n")
        self._whole.__exit__(kind, error, trace)


class Sidecars:
    """`name.txt` beside `name.jpg`, whole files; one that stands there already stays.

    written, kept: how many were, and how many stayed although they say something else.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        *,
        done: int = 0,
        overwrite: bool = False,
        say: Callable[[str], None],
    ) -> None:
        """done: how many of the photos an earlier, killed run captioned.

        Raises UserError where two photos share a sidecar, or a folder cannot be written to."""
        self.written = self.kept = 0
        self._overwrite = overwrite
        owners: dict[Path, str] = {}
        folders: set[Path] = set()
        standing = 0
        for number, photo in enumerate(photos):
            path = sidecar_of(photo)
            first = owners.setdefault(path, photo.name)
            if first != photo.name:
                raise UserError(
                    f"--sidecar: {quoted(first)} and {quoted(photo.name)} would share"
                    f" {quoted(path.name)}; rename one of them"
                )
            if path == photo.path:
                raise UserError(
                    f"--sidecar: {quoted(photo.name)} itself has the name of a sidecar; leave it"
                    " out or rename it"
                )
            if path.parent not in folders:
                folders.add(path.parent)
                check_writable(path.parent / ".captune-sidecar.txt")
            standing += number >= done and path.exists()
        if standing:
            some = "1 photo has" if standing == 1 else f"{standing:,} photos have"
            then = "replaced" if overwrite else "kept as it is (--overwrite replaces it)"
            say(f"{some} a .txt of that name already, which is {then}")

    def add(self, photo: Photo, caption: str) -> None:
        """Write one sidecar."""
        path = sidecar_of(photo)
        text = f"{caption}\n"
        if path.exists():
            if _reads(path, text):
                self.written += 1
                return
            if not self._overwrite:
                self.kept += 1
                return
        with whole_file(path) as file:
            file.write(text)
        self.written += 1


def sidecar_of(photo: Photo) -> Path:
    """Where a photo's caption stands beside it."""
    return photo.path.with_suffix(".txt")


def _stem(photo: Photo) -> str:
    return PurePosixPath(photo.name).stem


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError as error:
        raise UserError(
            f"{printable(str(path))}: cannot be read ({error.strerror}); move it away, or leave"
            " --sidecar out"
        ) from None
