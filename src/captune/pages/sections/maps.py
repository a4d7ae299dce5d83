"""What the page says of maps: one for each word, how far to believe it, and a leaderboard.

The maps lie in the page as bytes, a byte a place of the patch grid; `report.js` draws them over the
image when a reader hovers over a word, tabs to it or taps it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captune.pages.blocks import Fold, Gallery, Heading, Paragraph, Points, Section, Tiles
from captune.pages.sections import KindSection, PageContext, read_before
from captune.pages.sources import RunSource, words
from captune.pages.thumbnails import Album, Picture
from captune.plots.maps import MEANING, scaled_map, why_flat
from captune.runs.evaluation import FaithfulMetrics
from captune.runs.maps import read_maps
from captune.runs.records import BETTER, UNSEEN, no_better
from captune.tables import Column, Estimate, Fraction, Table, numbers
from captune.text import count, decimal, one_line, percent, plain, signed

_BUDGET_BYTES = 4_000_000  # of all maps of a page
_MOST_PLACES = 24  # rows or columns: beyond it a smooth map shows nothing new
_DOT = " A filled dot marks maps that follow the model better than chance."
_MEASURES = (
    ("insertion", decimal),
    ("deletion", decimal),
    ("comprehensiveness", decimal),
    ("sufficiency", decimal),
    ("pointing", percent),
    ("pointing_centre", percent),
    ("overlap", decimal),
)
_TOLD = "; it stands in what was read before"
_THIRDS = (("upper", "", "lower"), ("left", "", "right"))


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page about the maps of some images."""
    about = source.at("map")
    of_what = "label" if source.option("labels", str, "") else "word"
    said = words(
        "A map shows what the model used for each of {} {} of {} {} ({}).",
        source.figure(count, "words"),
        of_what if source.at("words") == 1 else f"{of_what}s",
        source.figure(count, "images"),
        "image" if source.at("images") == 1 else "images",
        described(about),
    )
    marks = source.at("marks")
    if marks:
        judged = sum(marks.values())
        believed = marks.get(BETTER, 0)
        said += words(
            " {} of {} of them follow the model better than chance would ({}).",
            source.counted(count, believed, f"marks: {BETTER}"),
            source.counted(count, judged, "marks"),
            source.counted(percent, believed / max(1, judged), f"fraction of marks: {BETTER}"),
        )
    return said, None


def section(source: RunSource, context: PageContext) -> Section:
    """The maps of one run of captune explain."""
    part = Section(f"explain-{source.number}", "Explanations", run=source.name)
    marks = source.at("marks")
    part.blocks.append(
        Paragraph(
            "Hover over a word, tab to it or tap it: the image turns grey and what the model used"
            " for this word takes colour, from the map's own lowest to its own"
            f" highest value. {MEANING}{_DOT if marks else ''}",
            soft=True,
        )
    )
    if marks:
        part.blocks.append(_marks(source, marks))
    part.blocks.append(_gallery(source, context))
    doubtful = doubtful_words(islice(source.run.records(), context.settings.limit), source.number)
    if doubtful.rows:
        part.blocks.append(Fold("Words whose map is no better than chance", [doubtful]))
    return part


def doubtful_words(records: Iterable[Mapping[str, Any]], run: int = 1) -> Table:
    """The words of each image whose map is no better than chance."""
    rows = [
        [one_line(str(record["path"])), one_line(", ".join(words))]
        for record in records
        if (words := no_better(record))
    ]
    columns = [Column("image"), Column("words whose map is no better than chance", wide=True)]
    return Table(f"no-better-{run}", "", columns, rows)


def tables(source: RunSource) -> list[Table]:
    """How many maps are to be believed, where any was measured."""
    marks = source.at("marks")
    return [_marks(source, marks)] if marks else []


def _marks(source: RunSource, marks: Mapping[str, int]) -> Table:
    total = max(1, sum(marks.values()))
    rows = [
        [
            one_line(mark),
            source.figure(count, "marks", mark),
            source.counted(percent, n / total, f"fraction of marks: {mark}"),
            Fraction(n / total),
        ]
        for mark, n in sorted(marks.items(), key=lambda item: -item[1])
    ]
    columns = [Column("map of the word"), *numbers("words", "fraction of all words")]
    columns.append(Column("", wide=True))
    note = (
        "better than chance: hiding and showing the map's strongest tenth changes the word more"
        " than random tenths do. independent of the image: the image adds next to nothing to"
        " the word, so no map of it can be faithful."
    )
    return Table(f"marks-{source.number}", "How far to believe the maps", columns, rows, note=note)


def _gallery(source: RunSource, context: PageContext) -> Gallery:
    items: list[dict[str, Any]] = []
    flagged: list[int] = []
    doubtful: list[int] = []
    spent, all_of = 0, 0
    for record in source.run.records():
        all_of += 1
        if len(items) >= context.settings.limit or spent > _BUDGET_BYTES:
            continue
        item = _item(source, record, context.album)
        flagged += [len(items)] if record.get("flagged") else []
        doubtful += [len(items)] if no_better(record) else []
        spent += sum(len(word["map"]) for word in item["words"])
        items.append(item)
    hidden = all_of - len(items)
    note = words("The first {} of {}; the run folder has all of them.",
                 f"{len(items):,}", f"{all_of:,}") if hidden else ""  # fmt: skip
    sorts: list[tuple[str, list[Any], bool]] = [
        ("order of the run", list(range(len(items))), False),
        ("most maps to be believed", [_believed(item) for item in items], True),
        ("fewest maps to be believed", [_believed(item) for item in items], False),
    ]
    marked = (("flagged only", flagged), ("a map is no better than chance", doubtful))
    filters = [(name, some) for name, some in marked if some]
    is_marked = any(item["words"] and item["words"][0]["mark"] for item in items)
    return Gallery(
        f"maps-{source.number}", "What the model used", "image", items,
        sorts if is_marked else sorts[:1], filters, note=note, large=True,
    )  # fmt: skip


def _believed(item: Mapping[str, Any]) -> float:
    """Share of the words whose map is to be believed."""
    marks = [word["good"] for word in item["words"]]
    return float(round(sum(marks) / max(1, len(marks)), 4))


def _item(source: RunSource, record: Mapping[str, Any], album: Album) -> dict[str, Any]:
    _, maps = read_maps(source.run, record)
    picture = album.picture(source.run, record["path"])
    small = _small(maps)
    told = []
    for word, own in zip(record["words"], small, strict=True):
        found = word.get("faithfulness") or {}
        mark = one_line(str(found.get("mark", "")))
        scaled = np.round(255 * scaled_map(own)).astype(np.uint8).tobytes()
        told.append(
            {
                "word": one_line(str(word["word"])),
                # none where it would be without colour, which its words say
                "map": "" if why_flat(own) else base64.b64encode(scaled).decode(),
                "mark": mark,
                "good": mark == BETTER,
                "says": map_in_words(own, mark, found) + _TOLD * bool(word.get("told")),
            }
        )
    caption = one_line(str(record["caption"]))
    return {
        "image": None if picture is None else picture.number,
        "name": one_line(record["path"]),
        "caption": caption,
        **read_before([str(record.get("read") or "")]),
        "words": told,
        **_text(caption, [str(word["word"]) for word in told]),
        "grid": list(small.shape[1:]),
        "frame": _frame(record, album, picture),
    }


def _text(caption: str, words: Sequence[str]) -> dict[str, Any]:
    """The caption, with the numbers of words that have maps in their places; nothing where all do.

    Nothing either where they do not stand in it, as labels.
    """
    found: list[str | int] = []
    placed = 0
    for word in caption.split():
        if placed < len(words) and words[placed] in (word, word.removesuffix(".")):
            # a full stop that the captioner wrote as a word of its own has no map
            found += [placed] if words[placed] == word else [placed, "."]
            placed += 1
        else:
            found.append(word)
    return {"text": found} if placed == len(words) < len(found) else {}


def _small(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps [words, rows, columns] of at most 24 x 24 places, by the means of equal blocks."""
    maps = np.nan_to_num(maps.astype(np.float32))
    rows, columns = maps.shape[1:]
    step = max(-(-rows // _MOST_PLACES), -(-columns // _MOST_PLACES))
    if step == 1:
        return maps
    padded = np.pad(maps, ((0, 0), (0, -rows % step), (0, -columns % step)), mode="edge")
    down, across = padded.shape[1] // step, padded.shape[2] // step
    blocks = padded.reshape(len(maps), down, step, across, step)
    return np.asarray(blocks.mean(axis=(2, 4)), dtype=np.float32)


def _frame(record: Mapping[str, Any], album: Album, picture: Picture | None) -> list[float] | None:
    """Left, top, right, bottom of what the model saw, in shares of the image; None: all of it."""
    edges = record.get("frame")
    if edges is None or picture is None:
        return None
    width, height = album.size(picture)
    left, top, right, bottom = map(float, edges)
    return [round(v, 4) for v in (left / width, top / height, right / width, bottom / height)]


def map_in_words(own: NDArray[np.float32], mark: str, found: Mapping[str, Any]) -> str:
    """The map in words, for who cannot see it; and what its mark rests on."""
    told = [why_flat(own) or _place(scaled_map(own))]
    if mark:
        told.append(mark)
    gain = found.get("gain")
    if gain is not None and mark != UNSEEN:
        told.append(f"the image adds {gain:.1f} nats")
    return "; ".join(told)


def _place(scaled: NDArray[np.float32]) -> str:
    """Where most of a map lies: one of nine parts of the image, and how much of it."""
    total = float(scaled.sum())
    rows, columns = scaled.shape
    parts = [
        (float(scaled[np.ix_(down, across)].sum()) / total, i, j)
        for i, down in enumerate(np.array_split(np.arange(rows), 3))
        for j, across in enumerate(np.array_split(np.arange(columns), 3))
    ]
    most, i, j = max(parts)
    name = " ".join(word for word in (_THIRDS[0][i], _THIRDS[1][j]) if word)
    where = f"{name} part" if name else "centre"
    return f"{percent(most, 0)} of this map lies in the {where} of the image"


def described(about: Mapping[str, Any]) -> str:
    """Which map it is: `attention, layer 3, head 0, against "cat"`."""
    parts = [str(about["method"])]
    layer, head = about["layer"], about["head"]
    if layer is not None or head is not None:
        parts.append("all layers" if layer is None else f"layer {layer}")
    if head is not None:
        parts.append(f"head {head}" if isinstance(head, int) else str(head))
    if about.get("against"):
        parts.append(f"against {about['against']}")
    return ", ".join(parts)


def _answer_of_leaderboard(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page about a leaderboard: the sentences that it came to."""
    sentences = source.at("sentences")
    said = words("")
    for i in range(min(2, len(sentences))):
        said += words("{} ", source.figure(_sentence, "sentences", i))
    return said, None


def _sentence(value: Any) -> str:
    text = plain(value)
    return text if text.endswith(".") else f"{text}."


def _section_of_leaderboard(source: RunSource, _context: PageContext) -> Section:
    """One run of captune faithful: which maps are faithful."""
    part = Section(f"faithful-{source.number}", "Are the maps faithful?", run=source.name)
    stages = source.run.typed_metrics(FaithfulMetrics).stages
    if stages.choosing is not None and source.at("images") > source.images:
        counts = (source.figure(count, "stages", name) for name in ("choosing", "reporting"))
        said = words(
            "Images that chose the default map: {}; other images, which the figures are of: {}.",
            *counts,
        )
        part.blocks.append(Paragraph(said, soft=True))
    for i, report in enumerate(source.at("reports")):
        title = str(report["title"])
        part.blocks.append(Heading(f"{title[:1].upper()}{title[1:]}"))
        part.blocks += [_sentences(source, "reports", i), _board(source, i, report)]
        verdicts = _verdicts(source, i, report)
        if verdicts.rows:
            part.blocks.append(verdicts)
    if source.at("sanity", "sentences"):
        part.blocks += [Heading("Checks of the map itself"), _sentences(source, "sanity")]
    return part


def _sentences(source: RunSource, *keys: str | int) -> Points:
    places = range(len(source.at(*keys, "sentences")))
    told = [source.figure(_sentence, *keys, "sentences", i) for i in places]
    return Points([words("{}", one) for one in told])


def _tables_of_leaderboard(source: RunSource) -> list[Table]:
    """The leaderboards."""
    return [_board(source, i, report) for i, report in enumerate(source.at("reports"))]


def _board(source: RunSource, report: int, content: Mapping[str, Any]) -> Table:
    rows = []
    known = [
        (name, show)
        for name, show in _MEASURES
        if any(row.get(name) is not None for row in content["rows"])
    ]
    default = source.at("default")
    for i, row in enumerate(content["rows"]):
        is_default = all(row[key] == default[key] for key in ("method", "layer", "head"))
        place = ("reports", report, "rows", i)
        rows.append(
            [
                one_line(described(row)) + "*" * is_default,
                *(_estimate(source, show, place, name, row) for name, show in known),
                source.figure(count, *place, "words"),
                source.figure(signed, *place, "advantage")
                if row.get("advantage") is not None
                else None,
            ]
        )
    titles = [name.replace("pointing_centre", "centre") for name, _ in known]
    columns = [Column("map"), *numbers(*titles, "words", "advantage")]
    note = (
        "*: the default map, chosen on other images where there were others. insertion: higher is"
        " better; deletion: lower is better; comprehensiveness: what is lost without the map's"
        " strongest tenth, higher is better; sufficiency: what is lost with that tenth alone, lower"
        " is better; pointing: how often the strongest patch lies in a box that people drew;"
        " centre: how often the centre of the image does; overlap: of map and boxes, higher is"
        " better; advantage: insertion and deletion above random maps plus pointing above the"
        " centre; the map with the highest was chosen. random and centre are the controls. With"
        " each figure its 95 % interval over images."
    )
    title = f"Leaderboard: {content['title']}"
    if content.get("measured_on"):
        title += f" ({content['measured_on']})"
    return Table(
        f"leaderboard-{source.number}-{report + 1}", one_line(title), columns, rows, note=note
    )


def _estimate(
    source: RunSource, show: Any, place: tuple[Any, ...], name: str, row: Mapping[str, Any]
) -> Estimate | None:
    """A figure with its interval, which stands beside it as NAME_interval; of none nothing."""
    if row.get(name) is None:
        return None
    beside = f"{name}_interval"
    ends = source.interval(show, *place, beside) if row.get(beside) is not None else None
    return Estimate(source.figure(show, *place, name), ends)


def _verdicts(source: RunSource, report: int, content: Mapping[str, Any]) -> Table:
    rows = []
    for i, verdict in enumerate(content["verdicts"]):
        place = ("reports", report, "verdicts", i)
        rows.append(
            [
                one_line(str(verdict["part"])),
                source.figure(count, *place, "words"),
                source.figure(plain, *place, "answer"),
            ]
        )
    columns = [Column("part of speech"), *numbers("words"), Column("than random maps")]
    name = f"verdicts-{source.number}-{report + 1}"
    return Table(name, "Faithfulness by part of speech", columns, rows)


LEADERBOARD = KindSection(_section_of_leaderboard, _answer_of_leaderboard, _tables_of_leaderboard)
