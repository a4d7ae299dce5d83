"""Writing a run folder: records are streamed, and every file appears whole."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

import captune
from captune.files import partial_path, remove_partial_files, whole_file
from captune.runs.place import FILES, FOLDERS, check_run_folder, claim, remove_earlier
from captune.runs.reader import METRICS, RECORDS, SCHEMA, kind_of
from captune.runs.records import plain
from captune.runs.signature import FIELD, signature_of

_PACKAGES = (
    "captune-metrics",
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

        Raises UserError where `folder` holds something that is no run, or one of another kind.
        """
        self.folder = folder
        self.metrics: dict[str, Any] | Struct = {}
        self.extra: dict[str, Any] = {}
        self._kind = kind
        self._options = plain(options)
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
        check_run_folder(folder, kind, overwrite=self._overwrite, goes_on=keeps)

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


def versions() -> dict[str, str]:
    """Versions of Python, captune and the packages that can change a figure."""
    from importlib.metadata import PackageNotFoundError, version  # longer than to write a run

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
    value = plain(value)
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(value)
        return json.dumps(json.loads(text, parse_constant=lambda name: None), indent=indent)
