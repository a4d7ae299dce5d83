"""The page of a classification run: each image with its top-5 bars, and how to make it again."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from captune.pages.pages import write_template
from captune.pages.thumbnails import thumbnail_of
from captune.printing import printable
from captune.runs import Run


def write_page(run: Run, page: Path, *, limit: int = 200) -> None:
    """Write the page of a finished classification run.

    limit: images shown, the first of the run; the page says how many there are in all.
    """
    write_template("classification.html.jinja", page, page_content(run, limit))


def page_content(run: Run, limit: int) -> dict[str, Any]:
    """Everything that the template shows, taken from the run folders alone."""
    cards: list[dict[str, Any]] = []
    answers: Counter[str] = Counter()
    for record in run.records():
        if len(cards) < limit:
            cards.append(_card(run, record))
        answers[record["top"][0]["name"]] += 1
    return {
        "title": f"captune: {run.metrics['images']} images, {run.metrics['labels']} labels",
        "about": run.about,
        "metrics": run.metrics,
        "model": run.about["models"][0],
        "cards": cards,
        "hidden": run.metrics["images"] - len(cards),
        "answers": answers.most_common(12),
        "command": shlex.join(printable(word) for word in run.about["command"]),
    }


def _card(run: Run, record: dict[str, Any]) -> dict[str, Any]:
    truth = record.get("truth")
    bars = [
        {
            "name": printable(item["name"]),
            "share": item["probability"],
            "colour": tone_of(rank, item["id"], truth),
        }
        for rank, item in enumerate(record["top"][:5])
    ]
    right = None if truth is None else record["top"][0]["id"] == truth
    return {
        "name": printable(record["path"]),
        "thumbnail": thumbnail_of(run.image_path(record["path"])),
        "bars": bars,
        "right": right,
    }


def tone_of(rank: int, class_id: object, truth: object) -> str:
    """As in the assignment's figure: the truth green, a wrong first answer orange, others blue."""
    if truth is not None and class_id == truth:
        return "truth"
    if truth is not None and rank == 0:
        return "wrong"
    return "other"
