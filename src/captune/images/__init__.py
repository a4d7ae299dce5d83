"""Finds, reads and decodes images: the only place that touches image files.

What decodes is loaded when first used: who only asks for names waits for no imaging library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captune.images.find import ImageFile, ImageSet, Skipped, find_images

if TYPE_CHECKING:
    from captune.images.decode import (
        DECODING_VERSION,
        decode_image,
        decoded_image,
        decoding_threads,
        hash_image,
        open_image,
        opened_image,
        read_image,
        stop_decoding,
    )
    from captune.images.formats import UnreadableImage

__all__ = [
    "DECODING_VERSION",
    "ImageFile",
    "ImageSet",
    "Skipped",
    "UnreadableImage",
    "decode_image",
    "decoded_image",
    "decoding_threads",
    "find_images",
    "hash_image",
    "open_image",
    "opened_image",
    "read_image",
    "stop_decoding",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("captune.images.decode"), name)
    raise AttributeError(f"module 'captune.images' has no attribute {name!r}")
