"""Files appear whole: written beside their place, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from captune.errors import UserError


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that becomes `path` when the block ends well, and vanishes otherwise.

    mode: "w" (UTF-8 text, `\\n` line ends, file names that are not UTF-8 kept) or "wb".
    A link keeps pointing where it did. What is no file, such as /dev/stdout, is written as it goes.
    Raises UserError where the folder cannot be made or written to.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        is_folder = path.is_dir()
        is_special = not is_folder and path.exists() and not path.is_file()
        target = path.resolve() if path.is_symlink() else path
    except OSError as error:
        raise _refusal(path, error) from None
    if is_folder:
        raise UserError(f"{path}: is a folder; name a file")
    # a rename would put a file in the place of the device, pipe or link itself
    if is_special:
        with _opened(path, path, mode, text) as file:
            yield file
        return
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.partial")
    # "x" and not mkstemp: a result has the permissions that the user's umask gives
    file = _opened(temporary, path, mode.replace("w", "x"), text)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before long work, not after it.

    Raises UserError as `whole_file`, as far as that can be known beforehand.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{path}: {folder} cannot be written to; choose another place")
    except OSError as error:
        raise _refusal(path, error) from None


def _opened(place: Path, asked: Path, mode: str, text: dict[str, str]) -> IO[Any]:
    """`place`, open for writing; `asked` is what the user named."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file: IO[Any] = place.open(mode, **text)  # type: ignore[call-overload]
    except OSError as error:
        raise _refusal(asked, error) from None
    return file


def _refusal(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror}); choose another place")
