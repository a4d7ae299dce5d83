"""Writing a run folder: records are streamed, and every file appears whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import captune
from captune.errors import UserError
from captune.files import (
    check_writable,
    partial_path,
    printable,
    remove_partial_files,
    whole_file,
)
from captune.runs.reader import ABOUT, METRICS, RECORDS, SCHEMA
from captune.runs.signature import FIELD, signature_of

_FILES = (ABOUT, METRICS, RECORDS)
# what commands write beside the records, as patterns of names; _FOLDERS besides
_BESIDE = (
    *("probabilities.npy", "report.html", "prompts.csv", "negation.csv"),
    *("rank-*.html", "rank-*.png", "rank-*.svg", "rank-*.csv"),
    *("leaderboard.csv", "explain.json"),
)
_FOLDERS = ("plots", "maps")
_PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "tokenizers", "peft", "accelerate"),
    *("safetensors", "open_clip_torch", "numpy", "scipy", "rapidfuzz", "pillow"),
)


class RunWriter:
    """Writes one run folder; records are streamed, and nothing replaces an older run until the end.

    with RunWriter(folder, kind="classify", ...) as run:
        run.record({"path": "a.jpg", ...})
        run.metrics = {...}
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: str,
        options: Any,
        root: Path,
        models: Sequence[Mapping[str, Any]] = (),
        command: Sequence[str] = (),
        keeps: bool = False,
    ) -> None:
        """options: a dataclass. keeps: what stands in `folder` belongs to this run and stays.

        Raises UserError where `folder` holds something that is no run.
        """
        self.folder = folder
        self.metrics: dict[str, Any] = {}
        self.extra: dict[str, Any] = {}
        self._kind = kind
        self._options = _plain(dataclasses.asdict(options))
        self._root = root
        self._models = [dict(model) for model in models]
        self._command = list(command)
        self._started = time.time()
        self._stack = ExitStack()
        self._files: list[Any] = []
        self._beside: set[str] = set()
        self._digest = hashlib.sha256()  # of the records
        if not keeps:
            check_run_folder(folder)
        # a killed writer may have left no run.json, but what its predecessor drew
        self._replaces = not keeps and any((folder / name).exists() for name in _FILES)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # the first that is opened is the last to take its place
            self._files = [stack.enter_context(whole_file(self.folder / name)) for name in _FILES]
            self._stack = stack.pop_all()
        return self

    def record(self, record: Mapping[str, Any]) -> None:
        """Add one image's line."""
        line = as_json(record) + "\n"
        self._digest.update(line.encode())
        self._files[-1].write(line)

    def file_path(self, name: str) -> Path:
        """Where to write what becomes the file `name` of this run when the run ends."""
        self._beside.add(name)
        path = self.folder / name
        return self._stack.enter_context(_renamed(partial_path(path), path))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            for folder in (*(self.folder / name for name in _FOLDERS), self.folder):
                with suppress(OSError):
                    folder.rmdir()  # only where nothing is in it
            return
        with self._stack:
            # all is on the disk before anything is touched: a full one costs no earlier run
            self._write()
            (self.folder / "run.json").resolve().unlink(missing_ok=True)
            if self._replaces:
                self._remove_earlier()
        for folder in (self.folder, *(self.folder / name for name in _FOLDERS)):
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

    def _remove_earlier(self) -> None:
        """What an earlier run drew or wrote here would pass for this one's."""
        beside = (path for name in (*_BESIDE, "maps/*.npz") for path in self.folder.glob(name))
        own = {self.folder / name for name in self._beside}
        paths = [path for path in beside if path not in own]
        figures = (self.folder / "plots").glob("*")
        paths += [path for path in figures if path.suffix in (".png", ".svg")]
        for path in paths:
            path.unlink(missing_ok=True)


def check_run_folder(folder: Path) -> None:
    """Refuse a place where no run can be written, before the work; raises UserError.

    That is one that cannot be written to or holds something else than an earlier run.
    """
    shown = printable(str(folder))
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{shown}: is a file; --out names a run folder")
        if folder.is_dir() and not (folder / "run.json").exists():
            others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
            known = (*_FOLDERS, *_FILES, *_BESIDE)
            if not all(any(fnmatchcase(name, pattern) for pattern in known) for name in others):
                raise UserError(f"{shown}: holds files that are not a run; choose a new folder")
        check_writable(folder / "run.json")
    except OSError as error:
        raise UserError(
            f"{shown}: cannot be a run folder ({error.strerror}); choose another place"
        ) from None


def versions() -> dict[str, str]:
    """Versions of Python, captune and the packages that can change a figure."""
    found = {"python": platform.python_version(), "captune": captune.__version__}
    for name in _PACKAGES:
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
    try:
        return json.dumps(value, default=_default, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(value, default=_default)
        return json.dumps(json.loads(text, parse_constant=lambda name: None), indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _default(value: Any) -> Any:
    """NumPy numbers and arrays, paths and dataclasses as JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
