"""Writing a run folder: by a job of its own kind, one process at a time, so that all appears whole.

Records are streamed.

RUN/.captune.lock   held by the operating system while a job runs, so a killed one lets go of it
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from msgspec import Struct

import captune
from captune.errors import UserError
from captune.files import (
    check_folder_name,
    check_writable,
    partial_path,
    remove_partial_files,
    whole_file,
)
from captune.progress import SILENT
from captune.runs.reader import ABOUT, LOCK, METRICS, RECORDS, SCHEMA, kind_of
from captune.runs.records import json_value
from captune.runs.signature import FIELD, signature_of
from captune_metrics.display import printable

_PACKAGES = (
    "captune-metrics",
    *("torch", "torchvision", "timm", "transformers", "tokenizers", "peft", "accelerate"),
    *("safetensors", "open_clip_torch", "numpy", "scipy", "rapidfuzz", "pillow"),
)
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
# of a method of a tune, besides (`captioning.training.state`)
_OF_METHODS = (
    *("config.json", "model.safetensors", "agreement.json", "rerank.json"),
    *("datastore.safetensors", "checkpoints", "tensorboard", "wandb"),
    "tuning.json",  # last: where it stands, what was not removed yet still is in another call
)
JOURNAL = ".captions.jsonl"  # of a captioning, until its run is written
_held: dict[str, int] = {}  # folders that are held: real path -> the thread

Say = Callable[[str], None]
F = TypeVar("F", bound=Callable[..., Any])


def run_place(
    options: Any, kind: str, say: Say = lambda sentence: None
) -> AbstractContextManager[None]:
    """`claim` for the options of a job; nothing where it writes no run."""
    if options.out is None:
        return nullcontext()
    # a tune knows what stands in its folder: what it trained before
    is_tune = kind == "tune"
    return claim(options.out, kind, overwrite=options.overwrite, goes_on=is_tune, say=say)


def writes_run(kind: str) -> Callable[[F], F]:
    """Decorate a job that takes its options first: it holds its run folder from start to end."""

    def decorated(job: F) -> F:
        @wraps(job)
        def inside(options: Any, *args: Any, **named: Any) -> Any:
            progress = named.get("progress", args[0] if args else SILENT)
            own = getattr(options, "kind", kind)  # where it depends on the options
            with run_place(options, own, progress.message):
                return job(options, *args, **named)

        return cast("F", inside)

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

    overwrite, goes_on: as `check_run_folder`. waits_s: as `locked_folder`. say: told of the run of
    another job that is replaced. Raises UserError where the folder takes no such run, and where
    another process writes there.
    """
    real = os.path.realpath(folder)
    if _held.get(real) == threading.get_ident():
        yield
        return
    check_run_folder(folder, kind, overwrite=overwrite, goes_on=goes_on)
    with locked_folder(folder, waits_s):
        # another may have written there until now
        other = check_run_folder(folder, kind, overwrite=overwrite, goes_on=goes_on)
        if other not in (None, kind):
            say(f"--overwrite: replaces {_described(folder, other)} in {printable(folder)}")
        _held[real] = threading.get_ident()
        try:
            yield
        finally:
            del _held[real]


@contextmanager
def locked_folder(folder: Path, waits_s: float = 0.0) -> Iterator[None]:
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
) -> str | None:
    """Refuse a place where no run of a kind can be written, before the work; raises UserError.

    That is one that cannot be written to, holds something else than an earlier run, or holds a run
    of another job, unless it is to `overwrite`. goes_on: the job itself knows what stands there.
    Returns the kind of the run that stands there, as `kind_of`.
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
        return other
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
            remove_method(method)
    if kind == "captioners":
        shutil.rmtree(folder / CAPTIONERS, ignore_errors=True)
    for path in paths:
        path.unlink(missing_ok=True)


def remove_method(folder: Path) -> None:
    """Take away a method of a tune, but no file that captune did not write there."""
    remove_earlier(folder, "", ())
    for path in (folder / name for name in (*FILES, *_OF_METHODS)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()  # only where nothing is in it


def _methods(folder: Path) -> list[Path]:
    return sorted(
        path.parent for path in folder.glob("*/tuning.json") if not path.parent.is_symlink()
    )


class RunWriter:
    """Writes one run folder; records are streamed, and nothing replaces an older run until the end.

    Entering it raises UserError as `claim`.

    with RunWriter(folder, kind="classify", ...) as run:
        run.record({"path": "a.jpg", ...})
        run.metrics = {...}
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        options: Any,
        root: Path,
        models: Sequence[Mapping[str, Any]] = (),
        command: Sequence[str] = (),
        *,
        keeps: bool = False,
    ) -> None:
        """options: a dataclass; with `overwrite`, a run of another kind is replaced. keeps: what
        stands in `folder` belongs to this run and stays.
        """
        self.folder = folder
        self.metrics: dict[str, Any] | Struct = {}
        self.extra: dict[str, Any] = {}
        self._kind = kind
        self._options = json_value(options)
        self._root = root
        self._models = [dict(model) for model in models]
        self._command = list(command)
        self._started = time.time()
        self._stack = ExitStack()
        self._files: list[Any] = []
        self._beside: set[str] = set()
        self._digest = hashlib.sha256()  # of the records
        self._overwrite = bool(getattr(options, "overwrite", False))
        self._keeps = keeps
        self._replaces = False
        self._earlier = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            place = claim(self.folder, self._kind, overwrite=self._overwrite, goes_on=self._keeps)
            stack.enter_context(place)
            self._earlier = kind_of(self.folder) or ""
            # a killed writer may have left no run.json, but what its predecessor drew
            is_there = any((self.folder / name).exists() for name in FILES)
            is_own = self._keeps and self._earlier in ("", self._kind)
            self._replaces = is_there and not is_own
            # the first that is opened is the last to take its place
            self._files = [stack.enter_context(whole_file(self.folder / name)) for name in FILES]
            self._stack = stack.pop_all()
        return self

    def record(self, record: Mapping[str, Any] | Struct) -> None:
        """Add one image's line."""
        line = as_json(record) + "\n"
        self._digest.update(line.encode())
        self._files[-1].write(line)

    def file_path(self, name: str) -> Path:
        """Where to write what becomes the file `name` of this run when the run ends."""
        self._beside.add(name)
        path = self.folder / name
        return self._stack.enter_context(_renamed(partial_path(path), path))

    def __exit__(self, *error: Any) -> None:
        if error[0] is not None:
            try:
                self._stack.__exit__(*error)
            finally:
                for folder in (*(self.folder / name for name in FOLDERS), self.folder):
                    with suppress(OSError):
                        folder.rmdir()  # only where nothing is in it
            return
        with self._stack:
            # all is on the disk before anything is touched: a full one costs no earlier run
            self._write()
            (self.folder / "run.json").resolve().unlink(missing_ok=True)
            if self._replaces:
                own = [self.folder / name for name in self._beside]
                remove_earlier(self.folder, self._earlier, own)
        for folder in (self.folder, *(self.folder / name for name in FOLDERS)):
            remove_partial_files(folder, before=self._started)

    def _write(self) -> None:
        about = {
            "schema": SCHEMA,
            "kind": self._kind,
            "command": self._command,
            "options": self._options,
            "models": self._models,
            "root": str(self._root.resolve()),
            "seed": self._options.get("seed"),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.time() - self._started, 3),
            "versions": versions(),
            "hardware": hardware(),
            **self.extra,
        }
        metrics = as_json(self.metrics, indent=1) + "\n"
        digests = {
            METRICS: hashlib.sha256(metrics.encode()).hexdigest(),
            RECORDS: self._digest.hexdigest(),
        }
        about[FIELD] = signature_of(about, digests)
        self._files[0].write(as_json(about, indent=1) + "\n")
        self._files[1].write(metrics)
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of Python, captune and, where installed, the packages that can change a figure."""
    from importlib.metadata import PackageNotFoundError, version  # longer than to write a run

    found = {"python": platform.python_version(), "captune": captune.__version__}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores and, where torch is already loaded, the accelerator."""
    found: dict[str, Any] = {
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


@contextmanager
def _renamed(path: Path, target: Path) -> Iterator[Path]:
    """A path whose file, if there is one, becomes `target` when the block ends well."""
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if path.exists():
        path.replace(target)


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON, in ASCII; numbers that are not finite, for which it has no form, are null."""
    value = json_value(value)
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(value)
        return json.dumps(json.loads(text, parse_constant=lambda name: None), indent=indent)
