"""Frozen features: computed once, kept by what they were computed from.

The names are loaded when first used: looking at the cache needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captune.features.cache import FeatureCache
    from captune.features.index import FeatureSpace
    from captune.features.photos import encode_photos
    from captune.features.texts import encode_texts

_HOMES = {
    "FeatureCache": "captune.features.cache",
    "FeatureSpace": "captune.features.index",
    "encode_photos": "captune.features.photos",
    "encode_texts": "captune.features.texts",
}

__all__ = ["FeatureCache", "FeatureSpace", "encode_photos", "encode_texts"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'captune.features' has no attribute {name!r}")
