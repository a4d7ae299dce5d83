"""Runs and results as HTML for a notebook: a table of figures, and the first pictures.

A result that was written to a run folder shows the run; one that was not shows what it holds
itself. No script, and every text is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from captune.pages.blocks import render_template
from captune.pages.sections import section_of
from captune.pages.sources import plain_text, read_runs
from captune.pages.thumbnails import thumbnail_of
from captune.runs import Run, read_run
from captune.runs.kinds import KINDS
from captune.tables import Column, Table
from captune.text import decimal, one_line
from captune_metrics.scores import Scores

_PICTURES, _BARS = 8, 3
_HIDDEN = (
    "Images are not shown: this captune did not write the run, and they lie outside its folder;"
    " read_run(FOLDER, images=DIR) shows them."
)


def as_html(value: object) -> str:
    """A run, or a result of captune's, as an HTML fragment. Raises TypeError for anything else."""
    if isinstance(value, Scores):
        return value._repr_html_()
    return render_template("report/notebook.html.jinja", _content(value))


def _content(value: Any) -> dict[str, Any]:
    if isinstance(value, Run):
        return _run(value)
    written = getattr(value, "written", None)
    folder = written.get("run") if isinstance(written, Mapping) else getattr(value, "run", None)
    if isinstance(folder, Path) and (folder / "run.json").is_file():
        return _run(read_run(folder))
    # what jobs return stands above this package, and is told by what it can do
    return _result(value) if hasattr(value, "sentences") else _item(value)


def _fragment(
    title: str,
    tables: Sequence[Table] = (),
    cards: Sequence[Mapping[str, Any]] = (),
    more: int = 0,
    hidden: str = "",
) -> dict[str, Any]:
    """What the template takes. tables: the first is shown. more: how many images are not shown."""
    head, rows = tables[0].texts() if tables else ([], [])
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
    if run.kind not in KINDS:
        folder = Table("run", "", [Column("folder")], [[str(run.folder)]])
        return _fragment(f"a run of captune {run.kind}", [folder])
    source, shows = read_runs([run.folder]).sources[0], section_of(run.kind)
    said, _ = shows.answer(source)
    records = list(islice(run.records(), _PICTURES))
    hides = any(run.hides(record.get("path")) for record in records)
    return _fragment(
        plain_text(said),
        shows.tables(source),
        [_record(run, record) for record in records],
        max(0, int(run.metrics.get("images") or 0) - len(records)),
        _HIDDEN if hides else "",
    )


def _record(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    path = record.get("path")
    said, bars = record.get("caption"), []
    if "top" in record:
        bars = [(str(item["name"]), float(item["probability"])) for item in record["top"]]
    elif said is None and "b" in record:
        said = f"A: {record['a']['caption']} · B: {record['b']['caption']}"
    elif said is None and "answers" in record:
        said = str(record["answers"][0]["id"])
    name = str(path or record.get("image", ""))
    return _card(run.image_path(path), name, str(said or ""), bars)


def _result(result: Any) -> dict[str, Any]:
    """A result of `captune.jobs`: its first items as cards, and its first other table."""
    tables = [table for table in result.tables() if table.name != "images"]
    cards = [card for item in result[:_PICTURES] for card in _item(item)["cards"]]
    title = result.headline() or next(iter(result.sentences()), "")
    return _fragment(title, tables, cards, result.images - len(cards) if cards else 0)


def _item(value: Any) -> dict[str, Any]:
    """One result of the library; their packages are loaded here, when a notebook asks."""
    from captune.attribution.explanation import Explanation
    from captune.captioning.caption import Caption
    from captune.zeroshot.classifier import Prediction

    if isinstance(value, Prediction):
        card = _card(value.image.path, value.image.name, bars=value.top(_BARS))
        return _fragment(value.label, cards=[card])
    if not isinstance(value, Caption | Explanation):
        raise TypeError(f"{type(value).__name__} is neither a run nor a result of captune")
    tables = [_words(value)] if isinstance(value, Explanation) else []
    card = _card(value.image.path, value.image.name, value.caption)
    return _fragment(value.caption, tables, [card])


def _words(explanation: Any) -> Table:
    rows = [
        [word.word, decimal(word.log_probability), "" if word.mark is None else word.mark.mark]
        for word in explanation.words
    ]
    return Table("words", "", [*map(Column, ("word", "log-probability", "its map"))], rows)
