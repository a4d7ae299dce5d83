"""A command on a disk of its own that is too small, then once more with room.

The disk is a file system in memory that this process and its children alone see.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from tests.hostile.runner import Said
from tests.hostile.stages import serve
from tests.processes import start

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_REMOUNT = 32
_PRIVATE = (1 << 18) | (1 << 14)


@cache
def is_possible() -> bool:
    """Whether a process may mount something that nobody else sees."""
    if shutil.which("unshare") is None:
        return False
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt"]
    return subprocess.run(words, capture_output=True).returncode == 0


def run(
    stage: str,
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    size: int,
    limit_s: float,
) -> tuple[Said, Said]:
    """What the command said on a full disk and when it was run again.

    folder: has `disk`, which is the small one for as long as this lasts; what was written on it in
    the end lies there afterwards. size: bytes, at first.
    """
    notes = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(2)]
    process = start(
        _on_small_disk, stage, list(words), str(folder), [str(note) for note in notes],
        dict(environment), size, daemon=False,
    )  # fmt: skip
    from tests.hostile.runner import end_process, read_notes

    process.join(2 * limit_s)
    if process.exitcode is None:
        end_process(process)
    kept = folder / "kept"
    if kept.exists():
        shutil.copytree(kept, folder / "disk", dirs_exist_ok=True, symlinks=True)
    statuses: list[int | None] = [None, None]
    with suppress(OSError, ValueError):
        statuses = json.loads((folder / "statuses.json").read_text())
    first, second = (
        read_notes(note, status, 0.0) for note, status in zip(notes, statuses, strict=True)
    )
    return first, second


def _on_small_disk(
    stage: str,
    words: Sequence[str],
    folder: str,
    notes: Sequence[str],
    environment: Mapping[str, str],
    size: int,
) -> None:
    place = Path(folder)
    disk = str(place / "disk").encode()
    libc = ctypes.CDLL(None, use_errno=True)
    _unshare(libc)
    libc.mount(b"none", b"/", None, _PRIVATE, None)
    _check(libc.mount(b"none", disk, b"tmpfs", 0, f"size={size}".encode()))
    statuses = []
    for note in notes:
        child = os.fork()
        if child == 0:
            try:
                serve(stage, words, folder, note, environment)
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException as error:
                os.write(2, repr(error).encode())
            os._exit(1)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        (place / "statuses.json").write_text(json.dumps([*statuses, None][:2]))
        _check(libc.mount(b"none", disk, b"tmpfs", _REMOUNT, b"size=1g"))
    shutil.copytree(place / "disk", place / "kept", symlinks=True)


def _unshare(libc: ctypes.CDLL) -> None:
    user, group = os.getuid(), os.getgid()
    if user == 0 and libc.unshare(_NEW_MOUNTS) == 0:
        return
    _check(libc.unshare(_NEW_USER | _NEW_MOUNTS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "no small disk")
