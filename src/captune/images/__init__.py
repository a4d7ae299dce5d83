"""Finds, reads and decodes photos: the only place that touches image files.

What decodes is loaded when first used: who only asks for names waits for no imaging library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captune.files import printable
from captune.images.finding import Photo, PhotoSet, Skipped, find_photos

if TYPE_CHECKING:
    from captune.images.decoding import (
        DECODING_VERSION,
        UnreadablePhoto,
        decode_photo,
        decoded_photo,
        decoding_threads,
        hash_photo,
        open_photo,
        opened_photo,
        read_photo,
        stop_decoding,
    )

__all__ = [
    "DECODING_VERSION",
    "Photo",
    "PhotoSet",
    "Skipped",
    "UnreadablePhoto",
    "decode_photo",
    "decoded_photo",
    "decoding_threads",
    "find_photos",
    "hash_photo",
    "open_photo",
    "opened_photo",
    "printable",
    "read_photo",
    "stop_decoding",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("captune.images.decoding"), name)
    raise AttributeError(f"module 'captune.images' has no attribute {name!r}")
