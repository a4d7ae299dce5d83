"""Files appear whole: written beside their place, flushed to the disk, then renamed.

Text of the user's is read here too, with one sentence for what cannot be read.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from captune.errors import UserError
from captune.escaping import PlainStream
from captune_metrics.display import printable
from captune_metrics.files import LARGEST_TEXT, open_regular, read_bytes, require_text

if sys.platform != "win32":
    import fcntl

_OF_RUNS = re.compile(r"(run|metrics)\.json|records\.jsonl")
_MADE: set[str] = set()  # names of partial files that somebody else writes for this process
_SWEPT: set[Path] = set()  # folders that this process has looked at
_PARTIAL = re.compile(r"\.(.{1,40})\.[0-9a-f]{12}\.partial", re.DOTALL)
# what a disk says that is full, broken or not to be written to
_REFUSALS = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS")
_NO_ROOM = {getattr(errno, name) for name in _REFUSALS if hasattr(errno, name)}
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # NumPy's word for it
_LINE = re.compile(r"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")


@contextmanager
def whole_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that becomes `path` when the block ends well, and vanishes otherwise.

    mode: "w" (UTF-8 text, `\\n` line ends, file names that are not UTF-8 kept) or "wb".
    A link keeps pointing where it did. What is no file, such as /dev/stdout, is written as it goes.
    What writers left in the folder that were killed is taken away, unless it is a run folder.
    Raises UserError where the folder cannot be made or written to, and where the disk is full.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    try:
        is_folder = path.is_dir()
        is_special = not is_folder and path.exists() and not path.is_file()
        target = real_path(path) if path.is_symlink() else path
    except OSError as error:
        raise _refusal(path, error) from None
    if is_folder:
        raise UserError(f"{printable(path)} is a folder; name a file")
    # a rename would put a file in the place of the device, pipe or link itself
    if is_special:
        with writing(path), _opened(path, path, mode, text, opener=_without_waiting) as file:
            # --csv /dev/stdout: what a terminal shows is text
            shown: Any = PlainStream(file) if text and file.isatty() else file
            yield shown
        return
    made = [folder for folder in target.parents if not folder.exists()]
    temporary: Path | None = None
    try:
        temporary, file = _begun(target, path, mode, text)
        _sweep(temporary.parent)
        with writing(path):
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        with suppress(OSError):  # somebody has put something there meanwhile
            for folder in made:
                folder.rmdir()
        raise


@contextmanager
def writing(path: Path, kept: str = "what stood there before is kept") -> Iterator[None]:
    """Within, a disk that is full, broken or read-only is a UserError that names `path`.

    kept: what is not lost, for the sentence.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM and not _CUT_SHORT.search(str(error)):
            raise
        reason = (error.strerror or "no space left").lower()
        raise UserError(
            f"{printable(path)} could not be written ({reason}); {kept}; make room, or choose"
            " another place, and run the same command again"
        ) from error


def partial_path(path: Path) -> Path:
    """A name beside `path` for what is not yet whole."""
    partial = _beside(path)
    _MADE.add(partial.name)
    return partial


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:40]}.{os.urandom(6).hex()}.partial")


def remove_partial_files(folder: Path, *, before: float) -> None:
    """Take away what writers that were killed left in `folder`.

    before: seconds since the epoch; what was written to since then may still become whole.
    """
    with suppress(OSError):  # they are in nobody's way
        for path in list(folder.iterdir()):
            if _PARTIAL.fullmatch(path.name) and path.lstat().st_mtime < before:
                with suppress(OSError):  # its writer is alive, as of shards that others compute
                    _remove_abandoned(path)


def _begun(target: Path, asked: Path, mode: str, text: dict[str, str]) -> tuple[Path, IO[Any]]:
    """A new file beside `target`, which is held while its writer is alive."""
    while True:
        temporary = _beside(target)
        # "x" and not mkstemp: a result has the permissions that the user's umask gives
        file = _opened(temporary, asked, mode.replace("w", "x"), text)
        _hold(file.fileno())
        if temporary.exists():  # another process may have swept in between
            return temporary, file
        file.close()


@contextmanager
def private_folder(prefix: str) -> Iterator[Path]:
    """A new folder that only this user may enter, removed in the end.

    prefix: of its name. Folders of that name whose process was killed are removed first.
    """
    import tempfile

    if sys.platform != "win32":
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            with suppress(OSError):  # its process is alive, or it is somebody else's
                _remove_abandoned(left, stat.S_IFDIR)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        held = os.open(folder, os.O_RDONLY) if sys.platform != "win32" else None
        if held is not None:
            _hold(held)
        if folder.exists():
            break
        if held is not None:  # another process has swept in between
            os.close(held)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _hold(number: int) -> None:
    """Lock what is open, so that nobody sweeps it; the system unlocks it however we end."""
    if sys.platform != "win32":  # where a file that is open cannot be removed
        with suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX)


def _sweep(folder: Path) -> None:
    """Take away, once a process and folder, what writers left that were killed.

    A run folder is swept by the writer of the run, who knows what is being written.
    """
    if folder in _SWEPT:
        return
    _SWEPT.add(folder)
    left = []
    with suppress(OSError), os.scandir(folder) as entries:  # they are in nobody's way
        for entry in entries:
            match = _PARTIAL.fullmatch(entry.name)
            if _OF_RUNS.fullmatch(match[1] if match else entry.name):
                return
            if match and entry.name not in _MADE:
                left.append(Path(entry.path))
    for path in left:
        with suppress(OSError):  # its writer is alive, or it is somebody else's
            _remove_abandoned(path)


def _remove_abandoned(path: Path, kind: int = stat.S_IFREG) -> None:
    """Remove a file or folder of ours. Raises OSError where a process holds it."""
    if sys.platform == "win32":
        path.unlink(missing_ok=True)
        return
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(number)
        if stat.S_IFMT(status.st_mode) != kind or status.st_uid != os.geteuid():
            return
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if kind == stat.S_IFDIR:
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        os.close(number)


def holds_files(folder: Path) -> bool:
    """Whether a folder has more than hidden files and empty folders, which a full disk leaves."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(not name.startswith(".") for name in names):
            return True
    return False


_FILE_ENDINGS = (
    *(".csv", ".json", ".jsonl", ".parquet", ".html", ".htm", ".txt", ".md", ".tex", ".yaml"),
    *(".png", ".svg", ".pdf", ".jpg", ".jpeg", ".npz", ".safetensors", ".zip"),
)


def check_folder_name(path: Path) -> None:
    """Raises UserError for an --out, a folder to write, that is named as files are."""
    if path.suffix.lower() in _FILE_ENDINGS and not path.is_dir():
        raise UserError(
            f"--out {printable(path)} names a folder to write, and {path.suffix} is the"
            f" ending of a file; name it {printable(path.with_suffix(''))}"
        )


def check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before long work, not after it.

    Raises UserError as `whole_file`, as far as that can be known beforehand.
    """
    if "\0" in str(path):
        raise UserError(f"{printable(path)} cannot be the name of a file")
    try:
        if path.is_dir():
            raise UserError(f"{printable(path)} is a folder; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            what = f"{path}: {folder} cannot be written to"
            raise UserError(f"{printable(what)}; choose another place")
    except OSError as error:
        raise _refusal(path, error) from None


def _opened(
    place: Path,
    asked: Path,
    mode: str,
    text: dict[str, str],
    opener: Callable[[str, int], int] | None = None,
) -> IO[Any]:
    """`place`, open for writing; `asked` is what the user named."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file: IO[Any] = open(place, mode, opener=opener, **text)  # type: ignore[call-overload]  # noqa: SIM115
    except OSError as error:
        raise _refusal(asked, error) from None
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe or device; a pipe that nobody reads is ENXIO, and would be waited for else."""
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if sys.platform != "win32":
        os.set_blocking(number, True)
    return number


def _refusal(path: Path, error: OSError) -> UserError:
    reason = "nobody reads this pipe" if error.errno == errno.ENXIO else error.strerror
    shown = printable(path)
    return UserError(f"{shown} cannot be written ({reason}); choose another place")


def home_path(text: str | os.PathLike[str]) -> Path:
    """A path that a person typed: `~` is the home folder, where there is such a user."""
    try:
        return Path(os.path.expanduser(text))  # noqa: PTH111  # pathlib's raises for an unknown user
    except ValueError:  # half a character, or a zero one, is in no user's name
        return Path(text)


def real_path(path: str | os.PathLike[str]) -> Path:
    """Where links lead. One that leads to itself stays; pathlib's `resolve` may raise for it."""
    return Path(os.path.realpath(path))


def sha256_of(path: Path) -> str:
    """sha256 of a regular file's bytes, 64 hex digits. Raises OSError."""
    import hashlib  # OpenSSL, which `--help` does without

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: str, *, keep_bytes: bool = False) -> str:
    """A whole text file: UTF-8, or UTF-16 where a byte order mark says so.

    keep_bytes: bytes that are not UTF-8 become surrogate escapes, as in file names.
    Raises UserError when it cannot be read, is no text, or is over 192 MiB.
    """
    return decode_text(read_bytes(path, LARGEST_TEXT), path, keep_bytes=keep_bytes)


def decode_text(data: bytes, path: str, *, keep_bytes: bool = False) -> str:
    """The bytes of the file `path` as `read_text` gives them."""
    shown = printable(path)
    require_text(data, shown)
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        text = data.decode("utf-8-sig", "surrogateescape" if keep_bytes else "strict")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{shown} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"{shown} is not a text file (it holds zero bytes).")
    return text


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends, which are \\n, \\r\\n or \\r, one after the other.

    Not `splitlines`: U+2028 and its like may stand in a caption.
    """
    return (match[0] for match in _LINE.finditer(text))
