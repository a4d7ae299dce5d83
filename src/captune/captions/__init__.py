"""The only reader of caption files, and who belongs to whom: candidates, references, images."""

from captune.captions.caption_file import CaptionFile
from captune.captions.images import images_alike, match_images
from captune.captions.matching import Matched, match_captions
from captune.captions.reading import read_captions

__all__ = [
    "CaptionFile",
    "Matched",
    "images_alike",
    "match_captions",
    "match_images",
    "read_captions",
]
