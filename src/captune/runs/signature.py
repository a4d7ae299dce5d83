"""Who wrote a run: a key in the user's configuration signs what captune writes on this machine.

A run folder says where its images lie, and one from elsewhere may name any folder of this machine.
Images outside the run's folder are therefore opened only where the signature holds.

    CONFIG/signing.key      64 hexadecimal digits, for the user alone; made when it is first needed
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from captune.files import home_path, partial_path
from captune_metrics.files import read_regular

logger = logging.getLogger("captune")

FIELD = "signature"
_NAME = "signing.key"
_BYTES = 32


def config_folder() -> Path:
    """CAPTUNE_CONFIG, or the user's configuration folder."""
    chosen = os.environ.get("CAPTUNE_CONFIG")
    if chosen:
        return home_path(chosen)
    from platformdirs import user_config_path

    return user_config_path("captune", appauthor=False)


def signature_of(about: Mapping[str, Any], digests: Mapping[str, str]) -> str:
    """HMAC-SHA256 of what decides which files a run's readers open.

    about: run.json. digests: sha256 of metrics.json and records.jsonl, by name.
    """
    signed = [about.get(name) for name in ("schema", "kind", "started", "root")]
    signed += [digests["metrics.json"], digests["records.jsonl"]]
    return hmac.new(_key(config_folder()), json.dumps(signed).encode(), hashlib.sha256).hexdigest()


def is_signed(about: Mapping[str, Any], digests: Mapping[str, str]) -> bool:
    """Whether this machine's captune wrote it, and nobody has changed it since."""
    found = about.get(FIELD)
    return (
        isinstance(found, str)
        and found.isascii()
        and hmac.compare_digest(found, signature_of(about, digests))
    )


@lru_cache(maxsize=4)
def _key(folder: Path) -> bytes:
    """The user's key; one for this process alone where it cannot be kept."""
    path = folder / _NAME
    try:
        if not path.exists():
            _make(path)
        key = bytes.fromhex(read_regular(path, 2 * _BYTES + 2).decode("ascii"))
        if len(key) != _BYTES:
            raise ValueError(f"{len(key)} bytes")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a key of captune's"
        logger.info(
            "%s cannot be used (%s), so later commands do not know which runs are yours and show"
            " their images with --images DIR only",
            path,
            reason,
        )
        return secrets.token_bytes(_BYTES)
    return key


def _make(path: Path) -> None:
    """A new key, whole or not at all; of two processes that make one the first counts."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = partial_path(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
