"""The only reader of caption files, and who belongs to whom: candidates, references, images."""

from captune.captions.file import SAMPLES, CaptionFile
from captune.captions.match import Matched, images_alike, match_captions, match_images
from captune.captions.read import read_captions, read_references

__all__ = [
    "SAMPLES",
    "CaptionFile",
    "Matched",
    "images_alike",
    "match_captions",
    "match_images",
    "read_captions",
    "read_references",
]
