"""The page of a classification run: each photo with its top-5 bars, and how to make it again."""

from __future__ import annotations

import base64
import io
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from captune.files import whole_file
from captune.images import UnreadablePhoto, open_photo
from captune.runs import Run

_THUMBNAIL_PX = 320


def write_page(run: Run, page: Path, *, limit: int = 200) -> None:
    """Write the page of a finished classification run.

    limit: photos shown, the first of the run; the page says how many there are in all.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("captune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["printable"] = _printable
    template = environment.get_template("classification.html.jinja")
    html = template.render(**page_content(run, limit))
    with whole_file(page) as file:
        file.write(html)


def page_content(run: Run, limit: int) -> dict[str, Any]:
    """Everything that the template shows, taken from the run folder alone."""
    cards: list[dict[str, Any]] = []
    answers: Counter[str] = Counter()
    for record in run.records():
        if len(cards) < limit:
            cards.append(_card(run.root, record))
        answers[record["top"][0]["name"]] += 1
    return {
        "title": f"captune: {run.metrics['images']} photos, {run.metrics['labels']} labels",
        "about": run.about,
        "metrics": run.metrics,
        "model": run.about["models"][0],
        "cards": cards,
        "hidden": run.metrics["images"] - len(cards),
        "answers": answers.most_common(12),
        "command": shlex.join(_printable(word) for word in run.about["command"]),
    }


def _card(root: Path, record: dict[str, Any]) -> dict[str, Any]:
    truth = record.get("truth")
    bars = [
        {
            "name": _printable(item["name"]),
            "share": item["probability"],
            "colour": _colour(rank, item["id"], truth),
        }
        for rank, item in enumerate(record["top"][:5])
    ]
    right = None if truth is None else record["top"][0]["id"] == truth
    return {
        "name": _printable(record["path"]),
        "thumbnail": _thumbnail(root / record["path"]),
        "bars": bars,
        "right": right,
    }


def _colour(rank: int, class_id: str, truth: str | None) -> str:
    """As in the assignment's figure: the truth green, a wrong first answer orange, others blue."""
    if truth is not None and class_id == truth:
        return "truth"
    if truth is not None and rank == 0:
        return "wrong"
    return "other"


def _thumbnail(path: Path) -> str | None:
    """A JPEG as a data URI, or None where the photo is gone since the run."""
    try:
        photo = open_photo(path)
    except (UnreadablePhoto, OSError):
        return None
    photo.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _printable(text: str) -> str:
    """File names that are not UTF-8 are shown escaped; HTML has no form for them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
