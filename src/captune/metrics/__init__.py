"""Caption metrics without Java: exact, fast, and each result names its recipe.

The public names are loaded when first used, so `import captune.metrics` is instant. The metrics
themselves stand in the module of their name, each with a twin (`..._of`) that takes a `Corpus`:

    from captune.metrics.cider import cider
    scores = cider({"a.jpg": "a dog"}, {"a.jpg": ["a dog runs", "a brown dog"]})
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captune.metrics.cider import CiderD
    from captune.metrics.corpus import Corpus
    from captune.metrics.frequency import DocumentFrequency
    from captune.metrics.scores import Scores

# no name of a module here: `captune.metrics.cider` is the module, whatever was imported before
_HOMES = {
    "CiderD": "captune.metrics.cider",
    "Corpus": "captune.metrics.corpus",
    "DocumentFrequency": "captune.metrics.frequency",
    "Scores": "captune.metrics.scores",
}

__all__ = ["CiderD", "Corpus", "DocumentFrequency", "Scores"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'captune.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
