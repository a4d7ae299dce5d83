"""The metrics by name: what each needs, and how several are asked for at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from captune.errors import UserError

_GROUP = "captune.metrics"
_BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")


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


def metric_of(id: str) -> Metric:
    """The metric called `id`, ours or a third party's. Raises UserError for an unknown one."""
    if id in _OWN:
        return _OWN[id]
    if id in _plugins():
        return Metric(id, id, "plugin")
    known = ", ".join(["bleu", *_OWN, *_plugins()])
    raise UserError(f'metric "{id}": is not known; choose among {known}')


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
    words = [word.strip().lower().replace("-", "_") for word in text.split(",")]
    ids = [id for word in words if word for id in (_BLEU if word == "bleu" else (word,))]
    if not ids:
        raise UserError(f'--metrics "{text}": names no metric; try bleu,rouge_l,cider')
    metrics = [metric_of(id) for id in dict.fromkeys(ids)]
    for metric in metrics:
        if metric.needs_references and not references:
            raise UserError(f"{metric.id}: needs the references; give them with --references FILE")
        if metric.needs_photos and not photos:
            raise UserError(f"{metric.id}: needs the photos; name their folder with --photos DIR")
    return metrics


def load_plugin(id: str) -> Callable[..., Any]:
    """A third party's `(candidates, references) -> Scores`, from its entry point."""
    loaded: Callable[..., Any] = _plugins()[id].load()
    return loaded


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Entry points of the group `captune.metrics`; our own names cannot be taken."""
    return {point.name: point for point in entry_points(group=_GROUP) if point.name not in _OWN}
