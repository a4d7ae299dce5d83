"""Photos small enough to stand inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from captune.images import UnreadablePhoto, open_photo

THUMBNAIL_PX = 320


def thumbnail(photo: Image.Image) -> str:
    """A JPEG of at most 320 x 320 pixels as a data URI."""
    small = photo.copy()
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnail_of(path: Path) -> str | None:
    """The thumbnail of a photo, or None where it is gone or cannot be read."""
    try:
        return thumbnail(open_photo(path))
    except (UnreadablePhoto, OSError):
        return None
