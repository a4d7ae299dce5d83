"""The only reader of caption files, and who belongs to whom: candidates, references, photos."""

from captune.captions.caption_file import CaptionFile
from captune.captions.matching import Matched, match_captions
from captune.captions.photos import match_photos, photos_alike
from captune.captions.reading import read_captions

__all__ = [
    "CaptionFile",
    "Matched",
    "match_captions",
    "match_photos",
    "photos_alike",
    "read_captions",
]
