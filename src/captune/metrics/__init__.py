"""Caption metrics without Java: exact, fast, and each result names its recipe.

    from captune.metrics import cider
    scores = cider({"a.jpg": "a dog"}, {"a.jpg": ["a dog runs", "a brown dog"]}, df=table)

Each metric is a function (candidates, references) -> Scores, with a twin (`..._of`) that takes a
`Corpus`, so that several share the tokenised captions. Nothing here loads torch until a CLIPScore
is computed.
"""

# Some functions have the name of their module. All are imported here, at once, so that the name
# means the function whatever was imported before; `from captune.metrics.cider import ...` works
# too.
from captune.metrics.bleu import bleu, bleu_of
from captune.metrics.cider import CiderD, cider, cider_of, cider_original, cider_original_of
from captune.metrics.clipscore import clipscore, clipscore_hw3, ref_clipscore
from captune.metrics.corpus import Corpus
from captune.metrics.frequency import DocumentFrequency
from captune.metrics.meteor import meteor, meteor_of
from captune.metrics.rouge import rouge_l, rouge_l_of
from captune.metrics.scores import Candidates, References, Scores

__all__ = [
    "Candidates",
    "CiderD",
    "Corpus",
    "DocumentFrequency",
    "References",
    "Scores",
    "bleu",
    "bleu_of",
    "cider",
    "cider_of",
    "cider_original",
    "cider_original_of",
    "clipscore",
    "clipscore_hw3",
    "meteor",
    "meteor_of",
    "ref_clipscore",
    "rouge_l",
    "rouge_l_of",
]
