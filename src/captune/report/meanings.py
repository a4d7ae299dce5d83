"""What a score of captions means, in a sentence for a reader who has never met it."""

from __future__ import annotations

from collections.abc import Sequence

from captune.metrics.catalogue import metric_of

LOG_PROBABILITY = "log-probability"  # mean a token, by the captioner itself
_LEADING = ("cider", "clipscore", "ref_clipscore", "meteor", "bleu_4", "rouge_l")

_MEANINGS = {
    "cider": "How far a caption uses the words and phrases that people used for the same photo,"
    " those that tell photos apart counting most: 0 nothing in common, 10 word for word.",
    "cider_original": "As CIDEr-D, without its guard against repeated words.",
    "clipscore": "How well caption and picture fit in the eyes of a model, without any caption by"
    " people; comparable only between figures of the same model.",
    "clipscore_hw3": "How well caption and picture fit in the eyes of a model, as the assignment"
    " computes it.",
    "ref_clipscore": "CLIPScore and the likeness to people's captions in one number.",
    "bleu_4": "How many of its runs of four words stand in people's captions of the photo: 0 none,"
    " 1 all. Hard on short captions.",
    "bleu_1": "How many of its words stand in people's captions of the photo: 0 none, 1 all.",
    "rouge_l": "How much of people's captions it says in the same order: 0 nothing, 1 all.",
    "meteor": "Words in common with people's captions, word forms and synonyms counted: 0 to 1.",
}


def meaning_of(metric: str) -> str:
    """A sentence, or nothing for a metric that is not ours."""
    return _MEANINGS.get(metric, "")


def title_of(metric: str) -> str:
    """The metric as papers write it; a third party's by its id."""
    from captune.errors import UserError

    try:
        return metric_of(metric).label
    except UserError:
        return metric


def leading(metrics: Sequence[str]) -> list[str]:
    """The scores that a page quotes: the usual ones first, of the four BLEUs the last."""
    known = [id for id in _LEADING if id in metrics]
    others = [id for id in metrics if id not in known and not id.startswith("bleu_")]
    return [*known, *(id for id in others if id != LOG_PROBABILITY)]


def label_of(metric: str) -> str:
    """As `title_of`; the captioner's own score has one too."""
    return "log-probability a token" if metric == LOG_PROBABILITY else title_of(metric)
