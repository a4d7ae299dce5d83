"""Files of others are read here, in captune too: no pipe is waited for, and each has a limit."""

from __future__ import annotations

import errno
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import IO

from captune_metrics.display import printable
from captune_metrics.errors import UserError

LARGEST_FILE = 512 * 2**20
LARGEST_TEXT = 192 * 2**20  # one odd character makes four bytes of each; dataset_coco.json has 138
# how a file begins that is no text, and what it is
_BINARY = {
    b"\x1f\x8b\x08": "gzip-compressed: gunzip it first",
    b"BZh91AY&SY": "bzip2-compressed: bunzip2 it first",
    b"\xfd7zXZ\0": "xz-compressed: unxz it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed: unzstd it first",
    b"PK\3\4": "a zip archive, as spreadsheets are too: unzip it first, or save the sheet as CSV",
    b"PAR1\x15": "a Parquet file: save it as CSV or JSON lines first",
    b"SQLite format 3\0": "an SQLite database: save its table as CSV first",
    b"\x80\4\x95": "a pickle, which is never loaded: save it as JSON first",
}
_STREAM = re.compile(r"/dev/(stdin|fd/\d+)")  # what the shell puts for < and <(...)


def read_bytes(path: str | os.PathLike[str], most_bytes: int = LARGEST_FILE) -> bytes:
    """A whole file of the user's, or a stream that the shell names (`/dev/stdin`, `/dev/fd/N`).

    Raises UserError when it cannot be read, is neither, or has more than `most_bytes`.
    """
    given = os.fspath(path)
    try:
        if _STREAM.fullmatch(given):
            with Path(path).open("rb") as file:
                return _read_at_most(file, most_bytes)
        return read_regular(path, most_bytes)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or "not a valid path"
        begins = f"{reason[0].lower()}{reason[1:]}"  # GiB stays GiB
        raise UserError(f"{printable(given)} cannot be read ({begins}).") from error


def require_text(data: bytes, shown: str) -> None:
    """Raises UserError for the bytes of a known binary form. shown: the file, for the sentence."""
    for begin, form in _BINARY.items():
        if data.startswith(begin):
            raise UserError(f"{shown} is {form}.")


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file for reading without ever waiting for it; links are followed.

    Every file that somebody else may have made is opened by this: a pipe would wait for ever, and
    a device gives bytes without end. Raises OSError, with a phrase, for what is no regular file.
    """
    _require_regular(Path(path).stat())  # a device is not even opened
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags | getattr(os, "O_NOCTTY", 0)), "rb")
    try:
        _require_regular(os.fstat(file.fileno()))  # another may lie there by now
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: str | os.PathLike[str], most_bytes: int = LARGEST_FILE) -> bytes:
    """The bytes of a regular file, as many as it said that it has.

    Raises OSError, with a phrase, for what is no regular file and for more than `most_bytes`. What
    a kernel makes up while it is read (`/proc`) says that it has none, and none are read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise OSError(errno.EFBIG, f"{_size(size)}, over the limit of {_size(most_bytes)}")
        return _read_at_most(file, most_bytes) if size else b""


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a device, pipe or socket, not a file")


def _read_at_most(file: IO[bytes], most_bytes: int) -> bytes:
    data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"over the limit of {_size(most_bytes)}")
    return data


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"
