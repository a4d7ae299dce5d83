"""Finds, reads and decodes photos: the only place that touches image files."""

from captune.images.decoding import (
    DECODING_VERSION,
    UnreadablePhoto,
    decode_photo,
    open_photo,
    read_photo,
)
from captune.images.finding import Photo, PhotoSet, Skipped, find_photos, printable

__all__ = [
    "DECODING_VERSION",
    "Photo",
    "PhotoSet",
    "Skipped",
    "UnreadablePhoto",
    "decode_photo",
    "find_photos",
    "open_photo",
    "printable",
    "read_photo",
]
