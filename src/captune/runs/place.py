"""Who may write into a run folder: a job of its own kind, and one process at a time.

RUN/.captune.lock   held by the operating system while a job runs, so a killed one lets go of it
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from captune.errors import UserError
from captune.files import check_folder_name, check_writable
from captune.progress import SILENT, Progress
from captune.runs.reader import ABOUT, LOCK, METRICS, RECORDS, kind_of
from captune_metrics.display import printable

FILES = (ABOUT, METRICS, RECORDS)
# what commands write beside the records, as patterns of names; FOLDERS besides
BESIDE = (
    *("probabilities.npy", "report.html", "prompts.csv", "negation.csv"),
    *("rank-*.html", "rank-*.png", "rank-*.svg", "rank-*.csv"),
    *("leaderboard.csv", "explain.json"),
)
CAPTIONERS = "captioners"  # with the run of each of several
FOLDERS = ("plots", "maps", "sample", CAPTIONERS)
_OF_TUNES = ("table.csv", "config.yaml")
JOURNAL = ".captions.jsonl"  # of a captioning, until its run is written
# folders that are held: real path -> the thread, and how often it asked
_held: dict[str, tuple[int, int]] = {}
_guard = threading.Lock()

Say = Callable[[str], None]
P = ParamSpec("P")
T = TypeVar("T")


class _Options(Protocol):
    @property
    def out(self) -> Path | None: ...
    @property
    def overwrite(self) -> bool: ...


Options = TypeVar("Options", bound=_Options)
Job = Callable[Concatenate[Options, P], T]


def run_place(
    options: _Options, kind: str, say: Say = lambda sentence: None
) -> AbstractContextManager[None]:
    """`claim` for the options of a job; nothing where it writes no run."""
    if options.out is None:
        return nullcontext()
    # a tune knows what stands in its folder: what it trained before
    is_tune = kind == "tune"
    return claim(options.out, kind, overwrite=options.overwrite, goes_on=is_tune, say=say)


def writes_run(kind: str) -> Callable[[Job[Options, P, T]], Job[Options, P, T]]:
    """Decorate a job that takes its options first: it holds its run folder from start to end."""

    def decorated(job: Job[Options, P, T]) -> Job[Options, P, T]:
        @wraps(job)
        def inside(options: Options, *args: P.args, **named: P.kwargs) -> T:
            progress = cast("Progress", named.get("progress", args[0] if args else SILENT))
            own = getattr(options, "kind", kind)  # where it depends on the options
            with run_place(options, own, progress.message):
                return job(options, *args, **named)

        return cast("Job[Options, P, T]", inside)

    return decorated


@contextmanager
def claim(
    folder: Path,
    kind: str,
    *,
    overwrite: bool = False,
    goes_on: bool = False,
    waits_s: float = 0.0,
    say: Say = lambda sentence: None,
) -> Iterator[None]:
    """Hold a run folder for a job; a thread that holds it already goes on.

    overwrite, goes_on: as `check_run_folder`. waits_s: as `locked`. say: told of the run of another
    job that is replaced. Raises UserError where the folder takes no such run, and where another
    process writes there.
    """
    real = os.path.realpath(folder)
    with _guard:
        thread, times = _held.get(real, (threading.get_ident(), 0))
        is_ours = times > 0 and thread == threading.get_ident()
        if is_ours:
            _held[real] = (thread, times + 1)
    if is_ours:
        try:
            yield
        finally:
            _held[real] = (thread, times)
        return
    check_run_folder(folder, kind, overwrite=overwrite, goes_on=goes_on)
    with locked(folder, waits_s):
        # another may have written there until now
        check_run_folder(folder, kind, overwrite=overwrite, goes_on=goes_on)
        other = kind_of(folder)
        if other not in (None, kind):
            say(f"--overwrite: replaces {_described(folder, other)} in {printable(folder)}")
        _held[real] = (threading.get_ident(), 1)
        try:
            yield
        finally:
            del _held[real]


@contextmanager
def locked(folder: Path, waits_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is made, and taken away again where nothing is in it.

    waits_s: for another process that holds it.
    """
    from filelock import FileLock, Timeout

    shown = printable(folder)
    # pathlib's exists() raises for a name that is too long; mkdir says so below
    made = [one for one in (folder, *folder.absolute().parents) if not os.path.exists(one)]  # noqa: PTH110
    lock = FileLock(folder / LOCK, timeout=waits_s, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{shown}: another captune is writing there; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{shown} cannot be locked ({reason}); choose another place") from None
    try:
        yield
    finally:
        with suppress(OSError):  # some systems let nobody remove a lock that is held
            (folder / LOCK).unlink()
        lock.release()
        for one in made:
            with suppress(OSError):
                one.rmdir()  # only where nothing is in it


def check_run_folder(
    folder: Path, kind: str | None = None, *, overwrite: bool = False, goes_on: bool = False
) -> None:
    """Refuse a place where no run of a kind can be written, before the work; raises UserError.

    That is one that cannot be written to, holds something else than an earlier run, or holds a run
    of another job, unless it is to `overwrite`. goes_on: the job itself knows what stands there.
    """
    shown = printable(folder)
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{shown} is a file; --out names a run folder")
        check_folder_name(folder)
        other = kind_of(folder) if folder.is_dir() else None
        if folder.is_dir() and other is None and not goes_on:
            others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            known = (*FOLDERS, *FILES, *BESIDE)
            if not all(any(fnmatchcase(name, pattern) for pattern in known) for name in others):
                raise UserError(f"{shown} holds files that are not a run; choose a new folder")
        if kind is not None and other not in (None, kind) and not overwrite:
            raise UserError(
                f"{shown} holds {_described(folder, other)}, which captune {_typed(kind)} would"
                " replace; choose another --out, or replace it with --overwrite"
            )
        check_writable(folder / ABOUT)
    except OSError as error:
        raise UserError(
            f"{shown} cannot be a run folder ({error.strerror}); choose another place"
        ) from None


def captioner_run(folder: Path, name: str) -> Path:
    """Where one of several captioners has its run."""
    return folder / CAPTIONERS / name.replace("/", "--")


def finished_part(folder: Path) -> list[Path] | None:
    """What is finished of a run that was stopped: methods of a tune, captioners of several.

    None where it is no such.
    """
    if not folder.is_dir() or kind_of(folder) is not None:
        return None
    if methods := _methods(folder):
        return [path for path in methods if (path / ABOUT).is_file()]
    if captioners := sorted((folder / CAPTIONERS).glob("*")):
        return [path for path in captioners if (path / ABOUT).is_file()]
    begun = (folder / "tuning.json", folder / JOURNAL)
    return [] if any(path.is_file() for path in begun) else None


def _described(folder: Path, kind: str | None) -> str:
    """The run in a folder, for a person: of a tune with what it trained."""
    if not kind:
        return "a run that cannot be read"
    methods = ", ".join(path.name for path in _methods(folder)) if kind == "tune" else ""
    return printable(f"a run of captune {_typed(kind)}{f' ({methods})' if methods else ''}")


def _typed(kind: str) -> str:
    """The command that makes such runs."""
    return "caption or compare, of several" if kind == "captioners" else kind


def remove_earlier(folder: Path, kind: str, keep: Sequence[Path]) -> None:
    """Take away what an earlier run drew or wrote in `folder`; it would pass for this one's.

    kind: of the earlier run. keep: what the new one has written there.
    """
    beside = (path for name in (*BESIDE, "maps/*.npz") for path in folder.glob(name))
    paths = [path for path in beside if path not in keep]
    figures = (folder / "plots").glob("*")
    paths += [path for path in figures if path.suffix in (".png", ".svg")]
    if kind == "tune":
        paths += [folder / name for name in _OF_TUNES]
        for method in _methods(folder):
            shutil.rmtree(method)
    if kind == "captioners":
        shutil.rmtree(folder / CAPTIONERS, ignore_errors=True)
    for path in paths:
        path.unlink(missing_ok=True)


def _methods(folder: Path) -> list[Path]:
    return sorted(
        path.parent for path in folder.glob("*/tuning.json") if not path.parent.is_symlink()
    )
