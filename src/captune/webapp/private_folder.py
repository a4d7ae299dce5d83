"""A folder for as long as a process lives; what a killed one left is removed by the next."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform != "win32":
    import fcntl


@contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """A new folder that only this user may enter, removed in the end.

    prefix: of its name. Folders of that name whose process is gone are removed before.
    """
    _sweep(prefix)
    folder, held = _new(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _new(prefix: str) -> tuple[Path, int | None]:
    """The folder and its lock, which the system lets go of however the process ends."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        if sys.platform == "win32":
            return folder, None
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        # another one that starts may have swept it before it was locked
        if folder.exists():
            return folder, held
        os.close(held)


def _sweep(prefix: str) -> None:
    if sys.platform == "win32":
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            about = os.fstat(held)
            if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode):
                continue
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # its process lives
        finally:
            os.close(held)
