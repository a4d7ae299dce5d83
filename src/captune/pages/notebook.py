"""Runs and results as HTML for a notebook: a table of figures, and the first pictures.

One function for all of them, told apart by their class. A result that was written to a run folder
shows the run; one that was not shows what it holds itself. No script, and every text is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.pages.album import thumbnail_of
from captune.pages.blocks import render_template
from captune.runs import Run, read_run
from captune.text import one_line, score
from captune_metrics.scores import Scores

if TYPE_CHECKING:
    from captune.images import ImageFile

_PICTURES, _BARS = 8, 3


def as_html(value: object) -> str:
    """A run, or a result of captune's, as an HTML fragment. Raises TypeError for anything else."""
    if isinstance(value, Scores):
        return value._repr_html_()
    return render_template("report/notebook.html.jinja", _content(value))


def register() -> None:
    """Say how each result is shown; their rooms are loaded here, so only when a notebook asks."""
    from captune.attribution.explanation import Explanation
    from captune.captioning.generate import Caption
    from captune.zeroshot.classifier import Prediction

    for kind, show in (
        (Caption, _caption),
        (Explanation, _explanation),
        (Prediction, _prediction),
    ):
        _shown.register(kind, show)


def _content(value: object) -> dict[str, Any]:
    if isinstance(value, Run):
        return _run(value)
    register()
    written = getattr(value, "written", None)
    folder = written.get("run") if isinstance(written, Mapping) else getattr(value, "run", None)
    if isinstance(folder, Path) and (folder / "run.json").is_file():
        return _run(read_run(folder))
    # what jobs return stands above this package, and is told by what it can do
    found: dict[str, Any] = _result(value) if hasattr(value, "sentences") else _shown(value)
    return found


@singledispatch
def _shown(value: object) -> dict[str, Any]:
    raise TypeError(f"{type(value).__name__} is neither a run nor a result of captune")


def _fragment(
    title: str,
    rows: Sequence[Sequence[str]] = (),
    cards: Sequence[Mapping[str, Any]] = (),
    *,
    head: Sequence[str] = (),
    more: int = 0,
    hidden: str = "",
) -> dict[str, Any]:
    """What the template takes. more: how many are not shown. hidden: why pictures are missing."""
    return {
        "title": one_line(title),
        "head": head,
        "rows": rows,
        "cards": cards,
        "more": more,
        "hidden": hidden,
    }


def _card(
    path: Path | None, name: str, said: str = "", bars: Sequence[tuple[str, float]] = ()
) -> dict[str, Any]:
    return {
        "picture": None if path is None else thumbnail_of(path),
        "name": one_line(name),
        "said": one_line(said),
        "bars": [(one_line(label), value) for label, value in bars[:_BARS]],
    }


def _run(run: Run) -> dict[str, Any]:
    """The answer of the page about it, and its first images."""
    from captune.pages.sections import section_of
    from captune.pages.sources import read_runs
    from captune.runs.kinds import KINDS

    if run.kind not in KINDS:
        return _fragment(f"a run of captune {run.kind}", [("folder", str(run.folder))])
    source, shows = read_runs([run.folder]).sources[0], section_of(run.kind)
    said, _ = shows.answer(source)
    tables = shows.tables(source)
    head, rows = tables[0].texts() if tables else ((), [])
    records = list(islice(run.records(), _PICTURES))
    images = int(run.metrics.get("images") or 0)
    hides = any(run.hides(record.get("path")) for record in records)
    return _fragment(
        said.striptags() if hasattr(said, "striptags") else str(said),
        rows,
        [_record(run, record) for record in records],
        head=head,
        more=max(0, images - len(records)),
        hidden="Images are not shown: this captune did not write the run, and they lie outside its"
        " folder; read_run(FOLDER, images=DIR) shows them."
        if hides
        else "",
    )


def _record(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    path = record.get("path")
    place = run.image_path(path)
    if "top" in record:
        bars = [(str(item["name"]), float(item["probability"])) for item in record["top"]]
        return _card(place, str(path), bars=bars)
    caption = record.get("caption")
    if caption is None and "b" in record:
        caption = f"A: {record['a']['caption']} · B: {record['b']['caption']}"
    if caption is None and "answers" in record:
        caption = str(record["answers"][0]["id"])
    return _card(place, str(path or record.get("image", "")), str(caption or ""))


def _image(
    image: ImageFile, said: str = "", bars: Sequence[tuple[str, float]] = ()
) -> dict[str, Any]:
    return _card(Path(image.path), image.name, said, bars)


def _prediction(one: Any) -> dict[str, Any]:
    return _fragment(one.label, cards=[_image(one.image, bars=one.top(_BARS))])


def _caption(one: Any) -> dict[str, Any]:
    return _fragment(one.caption, cards=[_image(one.image, one.caption)])


def _explanation(one: Any) -> dict[str, Any]:
    rows = [
        (word.word, score(word.log_probability), "" if word.mark is None else word.mark.mark)
        for word in one.words
    ]
    head = ("word", "log-probability", "its map")
    return _fragment(one.caption, rows, [_image(one.image, one.caption)], head=head)


def _result(result: Any) -> dict[str, Any]:
    """A result of `captune.jobs`: its first items as cards, and its first other table."""
    tables = [table for table in result.tables() if table.name != "images"]
    head, rows = tables[0].texts() if tables else ((), [])
    cards = [card for item in result[:_PICTURES] for card in _shown(item)["cards"]]
    title = next(iter(result.sentences()), "")
    more = result.images - len(cards) if cards else 0
    return _fragment(title, rows, cards, head=head, more=more)


def _ends(interval: Sequence[float] | None, show: Any) -> str:
    return "" if interval is None else f"{show(interval[0])} to {show(interval[1])}"
