"""Frozen features: computed once, kept by what they were computed from.

The names are loaded when first used: looking at the cache needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captune.features.cache import FeatureCache
    from captune.features.encode import encode_images, encode_texts
    from captune.features.grids import GridStore, encode_grids, open_grids
    from captune.features.index import FeatureSpace

_HOMES = {
    "FeatureCache": "captune.features.cache",
    "FeatureSpace": "captune.features.index",
    "GridStore": "captune.features.grids",
    "encode_grids": "captune.features.grids",
    "encode_images": "captune.features.encode",
    "encode_texts": "captune.features.encode",
    "open_grids": "captune.features.grids",
}

__all__ = [
    "FeatureCache",
    "FeatureSpace",
    "GridStore",
    "encode_grids",
    "encode_images",
    "encode_texts",
    "open_grids",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'captune.features' has no attribute {name!r}")
