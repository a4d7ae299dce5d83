"""Where captune keeps what it fetched, and how a folder gets there whole or not at all.

Nothing here knows a model: the cache folder, the offline switch, locks between processes, and
folders that appear complete (temporary name, fsync, rename).
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from captune.errors import Offline, UserError
from captune.files import home_path

_TRUE = {"1", "true", "yes", "on"}
_PART = ".part-"  # every unfinished folder carries it, so leftovers can be swept

_offline_by_flag = False
_hub_offline_before: str | None = None


def cache_folder() -> Path:
    """CAPTUNE_CACHE, or the user's cache folder: what can be fetched or computed again.

    It need not exist yet; whoever writes creates it.
    """
    chosen = os.environ.get("CAPTUNE_CACHE")
    if chosen:
        return home_path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("captune", appauthor=False)


def hub_cache() -> Path:
    """Where the hub library keeps files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def is_offline() -> bool:
    """True after set_offline(True), or with CAPTUNE_OFFLINE or HF_HUB_OFFLINE set to 1."""
    return _offline_by_flag or any(
        os.environ.get(name, "").strip().lower() in _TRUE
        for name in ("CAPTUNE_OFFLINE", "HF_HUB_OFFLINE")
    )


def set_offline(offline: bool) -> None:
    """Turn the network off for this process and for the hub libraries that it imports.

    set_offline(False) takes back a set_offline(True); the user's own variables still count.
    """
    global _offline_by_flag, _hub_offline_before
    if offline and not _offline_by_flag:
        _hub_offline_before = os.environ.get("HF_HUB_OFFLINE")
        os.environ["HF_HUB_OFFLINE"] = "1"
    elif not offline and _offline_by_flag:
        if _hub_offline_before is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = _hub_offline_before
    _offline_by_flag = offline
    # The hub library reads the variable once, when it is imported.
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = is_offline()  # type: ignore[attr-defined]


def refuse_offline(what: str, remedy: str) -> None:
    """Raise Offline in one sentence when `what` would need the network and captune is offline."""
    if is_offline():
        raise Offline(f"captune is offline and {what}; {remedy}")


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock file `path` against other processes and threads, waiting as long as it takes.

    on_wait: called once if somebody else holds it for more than a second.
    The operating system holds the lock, so a killed process lets go of it. The file itself stays.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def install_folder(
    target: Path,
    build: Callable[[Path], None],
    is_complete: Callable[[Path], bool] = Path.is_dir,
    on_wait: Callable[[], None] | None = None,
) -> bool:
    """Make the folder `target` by `build(empty folder)` unless complete; True if it was built.

    Processes that start at once wait for the first, then find its work done. A process killed
    half-way leaves only a folder under a temporary name, which the next one removes.
    """
    if is_complete(target):
        return False
    with locked(target.parent / f".{target.name}.lock", on_wait):
        if is_complete(target):
            return False
        for leftover in target.parent.glob(f"{target.name}{_PART}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        # not tempfile: its files are private, and a cache may be shared by a group
        name = f"{target.name}{_PART}{os.getpid()}-{os.urandom(4).hex()}"
        unfinished = target.with_name(name)
        unfinished.mkdir()
        try:
            build(unfinished)
            for path in sorted(unfinished.rglob("*")):
                if path.is_file():
                    sync(path)
            if target.exists():
                shutil.rmtree(target)
            rename(unfinished, target)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return True


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise UserError when the disk of `folder` has less than `needed_bytes` free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            f"{what} needs {needed_bytes / 1e6:.0f} MB, but the disk of {folder} has "
            f"{free / 1e6:.0f} MB free; make room or name another folder in CAPTUNE_CACHE"
        )


def bytes_below(*places: Path) -> int:
    """Size of files and of all files below folders; some may vanish while it is counted."""
    total = 0
    for place in places:
        for path in (place, *place.rglob("*")):
            with suppress(OSError):
                total += path.lstat().st_size if path.is_file() else 0
    return total


def sync(path: Path) -> None:
    """Push a file's bytes to the disk, or a folder's entries where the system can."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        with suppress(OSError) if is_folder else nullcontext():
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename atomically over `target` and push the folder's entry to the disk."""
    # On Windows a virus scanner or reader that holds the file open makes this fail for a moment.
    for attempt in range(20):
        try:
            source.replace(target)
            break
        except PermissionError:
            if os.name != "nt" or attempt == 19:
                raise
            time.sleep(0.05)
    sync(target.parent)
