"""Caption metrics without Java: exact, fast, and each result names its recipe.

    from captune_metrics import cider
    scores = cider({"a.jpg": "a dog"}, {"a.jpg": ["a dog runs", "a brown dog"]}, df=table)

Each metric is a function (candidates, references) -> Scores, with a twin (`..._of`) that takes a
`Corpus`, so that several share the tokenised captions. The public names are loaded when first
used; nothing here needs torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from captune_metrics.bleu_n import bleu, bleu_of
    from captune_metrics.cider_d import CiderD, cider, cider_of, cider_original, cider_original_of
    from captune_metrics.corpus import Corpus
    from captune_metrics.errors import MismatchedImages, UserError
    from captune_metrics.frequency import DocumentFrequency
    from captune_metrics.meteor_java import meteor, meteor_of
    from captune_metrics.rouge import rouge_l, rouge_l_of
    from captune_metrics.scores import Candidates, References, Scores

# no module has the name of a function: the name means the function whatever was imported before
_NAMES = {
    "bleu_n": ("bleu", "bleu_of"),
    "cider_d": ("CiderD", "cider", "cider_of", "cider_original", "cider_original_of"),
    "corpus": ("Corpus",),
    "errors": ("MismatchedImages", "UserError"),
    "frequency": ("DocumentFrequency",),
    "meteor_java": ("meteor", "meteor_of"),
    "rouge": ("rouge_l", "rouge_l_of"),
    "scores": ("Candidates", "References", "Scores"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [
    "Candidates",
    "CiderD",
    "Corpus",
    "DocumentFrequency",
    "MismatchedImages",
    "References",
    "Scores",
    "UserError",
    "__version__",
    "bleu",
    "bleu_of",
    "cider",
    "cider_of",
    "cider_original",
    "cider_original_of",
    "meteor",
    "meteor_of",
    "rouge_l",
    "rouge_l_of",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
