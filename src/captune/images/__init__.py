"""Finds, reads and decodes images: the only place that touches image files.

Images that cannot be read are named and skipped by `Prefetcher` in features/pipeline.py, for a
captioner of transformers by `AnyCaptioner.read`.

What decodes is loaded when first used: who only asks for names waits for no imaging library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from captune.images.find import ImageFile, Images, ImageSet, Skipped, find_images

if TYPE_CHECKING:
    from captune.images.decode import decode_image, open_image, read_image
    from captune.images.formats import UnreadableImage

__all__ = [
    "ImageFile",
    "ImageSet",
    "Images",
    "Skipped",
    "UnreadableImage",
    "decode_image",
    "find_images",
    "open_image",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("captune.images.decode"), name)
    raise AttributeError(f"module 'captune.images' has no attribute {name!r}")
