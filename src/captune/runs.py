"""The run folder: what was done, on what, with what, and what came out. Read and written only here.

    run.json        schema, kind, command, options, models, versions, hardware, seed, photo root
    records.jsonl   one line an image: path relative to the root and what was found
    metrics.json    figures over all images
    plots/          figures

Every file appears whole. `run.json` is written last: a folder without it is no run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import captune
from captune.errors import UserError
from captune.files import whole_file

SCHEMA = 1
# what commands write beside the records, as patterns of names; plots/ besides
_BESIDE = (
    *("probabilities.npy", "report.html", "prompts.csv", "negation.csv"),
    *("rank-*.html", "rank-*.png", "rank-*.svg", "rank-*.csv"),
)
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "numpy", "pillow")


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
    ) -> None:
        """options: a dataclass. Raises UserError where `folder` holds something that is no run."""
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
        self._records: Any = None
        self._beside: set[str] = set()
        check_run_folder(folder)
        self._replaces = (folder / "run.json").exists()

    def __enter__(self) -> Self:
        self._stack.__enter__()
        self._records = self._stack.enter_context(whole_file(self.folder / "records.jsonl"))
        return self

    def record(self, record: Mapping[str, Any]) -> None:
        """Add one image's line."""
        self._records.write(json.dumps(record, default=_default) + "\n")

    def file_path(self, name: str) -> Path:
        """Where the file `name` belongs that is written before this run ends."""
        self._beside.add(name)
        return self.folder / name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is not None:
            with suppress(OSError):
                self.folder.rmdir()  # only where nothing is in it
            return
        if self._replaces:
            self._remove_earlier()
        _write_json(self.folder / "metrics.json", self.metrics)
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
        _write_json(self.folder / "run.json", about)

    def _remove_earlier(self) -> None:
        """What an earlier run drew or wrote here would pass for this one's."""
        beside = (path for name in _BESIDE for path in self.folder.glob(name))
        paths = [path for path in beside if path.name not in self._beside]
        figures = (self.folder / "plots").glob("*")
        paths += [path for path in figures if path.suffix in (".png", ".svg")]
        for path in paths:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """A run folder that was read: `about` is run.json."""

    folder: Path
    about: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def kind(self) -> str:
        """The job that made it: classify, prompts, ..."""
        return str(self.about["kind"])

    @property
    def root(self) -> Path:
        """The folder that the records' paths are relative to."""
        return Path(self.about["root"])

    def records(self) -> Iterator[dict[str, Any]]:
        """One dictionary an image, in the order of the run."""
        with (self.folder / "records.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def read_run(folder: Path) -> Run:
    """Open a finished run. Raises UserError where there is none or a newer captune wrote it."""
    try:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{folder}: is not a finished run folder (it has no run.json)") from None
    except ValueError as error:
        raise UserError(f"{folder}: run.json or metrics.json is not JSON ({error})") from None
    if about.get("schema") != SCHEMA:
        raise UserError(
            f"{folder}: was written with schema {about.get('schema')}, this captune reads {SCHEMA}"
        )
    return Run(folder, about, metrics)


def check_run_folder(folder: Path) -> None:
    """Refuse to write into a folder that holds something else than an earlier run."""
    try:
        _check_run_folder(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be a run folder ({error.strerror}); choose another place"
        ) from None


def _check_run_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; --out names a run folder")
    if folder.is_dir() and not (folder / "run.json").exists():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        known = ("plots", "records.jsonl", "metrics.json", *_BESIDE)
        if not all(any(fnmatchcase(name, pattern) for pattern in known) for name in others):
            raise UserError(f"{folder}: holds files that are not a run; choose a new folder")


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


def _write_json(path: Path, content: Any) -> None:
    with whole_file(path) as file:
        json.dump(content, file, indent=1, default=_default)
        file.write("\n")


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
