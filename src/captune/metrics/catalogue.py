"""The metrics by name: what each needs, and how several are asked for at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from captune.errors import UserError
from captune.files import printable
from captune.metrics.plugins import plugin_id, plugins

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")


@dataclass(frozen=True)
class Metric:
    """One score of captions.

    label: as papers write it, for tables. kind: whose pass makes it ("text", "clip", "meteor", or
    "plugin" for a third party's). Higher is better for all of them.
    """

    id: str
    label: str
    kind: str
    needs_references: bool = True
    needs_photos: bool = False


_OWN = {
    metric.id: metric
    for metric in (
        *(Metric(f"bleu_{n}", f"BLEU-{n}", "text") for n in range(1, 5)),
        Metric("rouge_l", "ROUGE-L", "text"),
        Metric("cider", "CIDEr-D", "text"),
        Metric("cider_original", "CIDEr", "text"),
        Metric("clipscore", "CLIPScore", "clip", needs_references=False, needs_photos=True),
        Metric("ref_clipscore", "RefCLIPScore", "clip", needs_photos=True),
        Metric("clipscore_hw3", "CLIPScore (hw3)", "clip", False, needs_photos=True),
        Metric("meteor", "METEOR", "meteor"),
    )
}


def _squeezed(text: str) -> str:
    """`CLIPScore (hw3)` and `clipscore_hw3` are one spelling."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


# CIDEr is what everyone calls CIDEr-D, so only "cider_original" means the one without the D
_ALIASES = {
    **{_squeezed(metric.label): metric.id for metric in _OWN.values()},
    **{_squeezed(id): id for id in _OWN},
    **{f"b{n}": f"bleu_{n}" for n in range(1, 5)},
    "bleu": "bleu",
    "rouge": "rouge_l",
    "clips": "clipscore",
    "refclips": "ref_clipscore",
}


def metric_id(text: str) -> str:
    """The id of a metric as people and tables spell it: cider for `CIDEr-D`, bleu_4 for `bleu@4`.

    `bleu` stays as it is: it means all four. What is not ours is only written as ids are.
    """
    return _ALIASES.get(_squeezed(text)) or plugin_id(text)


def is_metric(id: str) -> bool:
    """Whether `--metrics` takes it: ours, a third party's, or `bleu` for all four."""
    return id in _OWN or id == "bleu" or id in plugins()


def metric_of(id: str) -> Metric:
    """The metric called `id`, ours or a third party's. Raises UserError for an unknown one."""
    if id in _OWN:
        return _OWN[id]
    if id in plugins():
        return Metric(id, id, "plugin")
    known = ", ".join(["bleu", *_OWN, *plugins()])
    raise UserError(f'metric "{printable(id)}": is not known; choose among {known}')


def parse_metrics(text: str | None, *, references: bool, photos: bool) -> list[Metric]:
    """The metrics named in `text`, each once, in the order asked; `bleu` is all four of them.

    None asks for what the inputs allow: the text metrics with references, CLIPScore with photos.
    Raises UserError for an unknown name and for a metric whose inputs are not there.
    """
    if text is None:
        if not references and not photos:
            raise UserError(
                "nothing to score against: give --references FILE (bleu, rouge_l, cider)"
                " or --photos DIR (clipscore)"
            )
        text = ",".join(["bleu,rouge_l,cider"] * references + ["clipscore"] * photos)
    words = [metric_id(word) for word in text.split(",") if word.strip()]
    ids = [id for word in words for id in (BLEU if word == "bleu" else (word,))]
    if not ids:
        raise UserError(f'--metrics "{printable(text)}": names no metric; try bleu,rouge_l,cider')
    metrics = [metric_of(id) for id in dict.fromkeys(ids)]
    for metric in metrics:
        if metric.needs_references and not references:
            raise UserError(f"{metric.id}: needs the references; give them with --references FILE")
        if metric.needs_photos and not photos:
            raise UserError(f"{metric.id}: needs the photos; name their folder with --photos DIR")
    return metrics
