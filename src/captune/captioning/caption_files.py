"""Captions as other programs read them: the assignment's `{"stem": "caption"}`, and sidecars."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Self

from captune.errors import UserError
from captune.files import check_writable, printable, quoted, whole_file
from captune.images import ImageFile


class Predictions:
    """`{"stem": "caption"}`, one line an image, in one file that appears when the block ends well.

    A stem is a file's name without its folder and its ending.
    """

    def __init__(self, path: Path, images: Sequence[ImageFile]) -> None:
        """Raises UserError where the file cannot be written, or two images have one stem."""
        check_writable(path)
        names: dict[str, str] = {}
        for image in images:
            first = names.setdefault(_stem(image), image.name)
            if first != image.name:
                raise UserError(
                    f"--predictions: {quoted(first)} and {quoted(image.name)} have the same stem,"
                    f" {quoted(_stem(image))}, and the file has one place for it; rename one, or"
                    " caption their folders one by one"
                )
        self.path = path
        self._whole = whole_file(path)
        self._file: IO[Any]
        self._before = "{\n"

    def __enter__(self) -> Self:
        self._file = self._whole.__enter__()
        return self

    def add(self, image: ImageFile, caption: str) -> None:
        """Write one line."""
        self._file.write(f"{self._before}{json.dumps(_stem(image))}: {json.dumps(caption)}")
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
        images: Sequence[ImageFile],
        *,
        done: int = 0,
        overwrite: bool = False,
        say: Callable[[str], None],
    ) -> None:
        """done: how many of the images an earlier, killed run captioned.

        Raises UserError where two images share a sidecar, or a folder cannot be written to."""
        self.written = self.kept = 0
        self._overwrite = overwrite
        owners: dict[Path, str] = {}
        folders: set[Path] = set()
        standing = 0
        for number, image in enumerate(images):
            path = sidecar_of(image)
            first = owners.setdefault(path, image.name)
            if first != image.name:
                raise UserError(
                    f"--sidecar: {quoted(first)} and {quoted(image.name)} would share"
                    f" {quoted(path.name)}; rename one of them"
                )
            if path == image.path:
                raise UserError(
                    f"--sidecar: {quoted(image.name)} itself has the name of a sidecar; leave it"
                    " out or rename it"
                )
            if path.parent not in folders:
                folders.add(path.parent)
                check_writable(path.parent / ".captune-sidecar.txt")
            standing += number >= done and path.exists()
        if standing:
            some = "1 image has" if standing == 1 else f"{standing:,} images have"
            then = "replaced" if overwrite else "kept as it is (--overwrite replaces it)"
            say(f"{some} a .txt of that name already, which is {then}")

    def add(self, image: ImageFile, caption: str) -> None:
        """Write one sidecar."""
        path = sidecar_of(image)
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


def sidecar_of(image: ImageFile) -> Path:
    """Where an image's caption stands beside it."""
    return image.path.with_suffix(".txt")


def _stem(image: ImageFile) -> str:
    return PurePosixPath(image.name).stem


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_bytes() == text.encode()
    except OSError as error:
        raise UserError(
            f"{printable(str(path))}: cannot be read ({error.strerror}); move it away, or leave"
            " --sidecar out"
        ) from None
