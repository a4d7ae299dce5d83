"""Aggregation functions for lmms-eval's captioning tasks, in place of those that start Java.

In a task's YAML, or in its `utils.py`:

    from captune_metrics.lmms_eval import bleu1, bleu2, bleu3, bleu4, cider, rougel

    metric_list:
      - metric: coco_CIDEr
        aggregation: !function utils.cider

Each takes what `process_results` returned for every image, `{"image_id": ..., "pred": the caption,
"answer": [reference, ...]}`, and gives one number: CIDEr-D 0..10, the others 0..1. Figures are
those of pycocoevalcap. The captions are tokenised once for all of them, not once for each. METEOR
needs Java: take its entry out of the list, or leave it to the task's own function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from captune_metrics.bleu_n import bleu_of
from captune_metrics.cider_d import cider_of
from captune_metrics.corpus import Corpus
from captune_metrics.display import named, quoted
from captune_metrics.errors import UserError
from captune_metrics.pycocoevalcap import PTBTokenizer
from captune_metrics.rouge import rouge_l_of

__all__ = ["aggregate", "bleu1", "bleu2", "bleu3", "bleu4", "cider", "rougel"]

Results = Sequence[Mapping[str, Any]]
_Rows = tuple[tuple[str, str, tuple[str, ...]], ...]


def bleu1(results: Results, args: Any = None) -> float:
    """BLEU-1."""
    return aggregate(results, "Bleu_1", args)


def bleu2(results: Results, args: Any = None) -> float:
    """BLEU-2."""
    return aggregate(results, "Bleu_2", args)


def bleu3(results: Results, args: Any = None) -> float:
    """BLEU-3."""
    return aggregate(results, "Bleu_3", args)


def bleu4(results: Results, args: Any = None) -> float:
    """BLEU-4."""
    return aggregate(results, "Bleu_4", args)


def rougel(results: Results, args: Any = None) -> float:
    """ROUGE-L."""
    return aggregate(results, "ROUGE_L", args)


def cider(results: Results, args: Any = None) -> float:
    """CIDEr-D, which pycocoevalcap calls CIDEr."""
    return aggregate(results, "CIDEr", args)


def aggregate(results: Results, metric: str, args: Any = None) -> float:  # noqa: ARG001
    """The figure `metric` over all results: Bleu_1 to Bleu_4, ROUGE_L or CIDEr.

    args: what lmms-eval hands over; not needed here. Of results with one image id, which the last
    batch of a distributed run repeats, the first counts where they are alike.
    Raises UserError for another metric, for results without the three keys, and for an image with
    two different captions.
    """
    figures = _figures(tuple(dict.fromkeys(map(_row, results))))
    if metric not in figures:
        raise UserError(f"metric {quoted(metric)}: expected one of {', '.join(figures)}")
    return figures[metric]


def _row(result: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    lacking = [key for key in ("image_id", "pred", "answer") if key not in result]
    if lacking:
        raise UserError(f"a result has no {' and no '.join(lacking)}; process_results gives all")
    answers = result["answer"]
    answers = (answers,) if isinstance(answers, str) else tuple(answers)
    return str(result["image_id"]), result["pred"], answers


@lru_cache(maxsize=1)  # each metric is asked for alone, with the same results
def _figures(rows: _Rows) -> dict[str, float]:
    ids = [image for image, _, _ in rows]
    if len(set(ids)) < len(ids):
        twice = [image for image in dict.fromkeys(ids) if ids.count(image) > 1]
        raise UserError(f"{named(twice, 'image')}: expected one result each")
    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize(
        {image: [{"caption": answer} for answer in answers] for image, _, answers in rows}
    )
    res = tokenizer.tokenize({image: [{"caption": pred}] for image, pred, _ in rows})
    corpus = Corpus({image: captions[0] for image, captions in res.items()}, gts, "none")
    figures = {f"Bleu_{n}": one.corpus for n, one in enumerate(bleu_of(corpus).values(), 1)}
    return {**figures, "ROUGE_L": rouge_l_of(corpus).corpus, "CIDEr": cider_of(corpus).corpus}
