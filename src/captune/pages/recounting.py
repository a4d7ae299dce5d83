"""Does a run agree with itself? What metrics.json says, computed again from records.jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from captune.files import printable
from captune.pages.sources import RunSource
from captune.runs import DamagedRun

_MEANS = ("cider", "cider_original", "clipscore", "ref_clipscore", "rouge_l", "clipscore_hw3")
_CLOSE = 1e-6


def recount(source: RunSource) -> list[str]:
    """A sentence for each figure that its own records do not bear out."""
    shown = printable(str(source.run.folder))
    try:
        pairs = list(_recounted(source))
    except DamagedRun as error:
        return [str(error)]
    return [
        f"{shown}: metrics.json says {what} {_text(said)}, its records give {_text(counted)}"
        for what, said, counted in pairs
        if not _same(said, counted)
    ]


def _same(said: Any, counted: Any) -> bool:
    if isinstance(said, int | float) and isinstance(counted, int | float):
        return math.isclose(said, counted, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(said == counted)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _recounted(source: RunSource) -> Iterator[tuple[str, Any, Any]]:
    """(what, as metrics.json has it, as the records give it)."""
    kind = source.run.kind
    records = list(source.run.records())
    yield "images", source.at("images"), len(records)
    if kind == "classify":
        yield from _classified(source, records)
    elif kind == "prompts":
        yield from _prompts(source, records)
    elif kind == "score":
        yield from _means(source.at("metrics"), [record["scores"] for record in records])
    elif kind == "tune":
        yield from _tuned(source, records)
    elif kind == "compare":
        for side in ("a", "b"):
            metrics = {id: found[side] for id, found in source.at("metrics").items()}
            yield from _means(metrics, [record[side]["scores"] for record in records], side)
    elif kind == "explain":
        words = [word for record in records for word in record["words"]]
        yield "words", source.at("words"), len(words)
        marks = [word["faithfulness"]["mark"] for word in words if word.get("faithfulness")]
        for mark, n in source.at("marks").items():
            yield f"maps {mark}", n, marks.count(mark)
    elif kind == "caption":
        ended = sum(bool(record["ended"]) for record in records)
        yield "ended", source.at("ended"), ended
        words = [len(record["words"]) for record in records]
        yield "words_mean", source.at("words_mean"), sum(words) / max(1, len(words))


def _classified(source: RunSource, records: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    from captune.statistics import wilson

    known = [record for record in records if record.get("truth") is not None]
    right = sum(record["top"][0]["id"] == record["truth"] for record in known)
    yield "scored", source.at("scored"), len(known)
    yield "correct", source.at("correct"), right
    if known:
        yield "the accuracy", source.at("prompts", 0, "accuracy"), right / len(known)
        ends = wilson(right, len(known))
        said = source.at("prompts", 0, "interval") or (None, None)
        for i, end in enumerate(("lower", "upper")):
            yield f"the {end} end", said[i], ends[i]


def _prompts(source: RunSource, records: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    from captune.statistics import holm, mcnemar_exact, wilson

    known = [record for record in records if record.get("truth") is not None]
    best = source.at("best")
    if not known or best is None:
        return
    right = [
        [record["answers"][i]["id"] == record["truth"] for record in known]
        for i in range(len(source.at("prompts")))
    ]
    tests = {}
    for i, correct in enumerate(right):
        row = source.at("prompts", i)
        yield f"the accuracy of prompt {i + 1}", row["accuracy"], sum(correct) / len(known)
        yield f"its lower end {i + 1}", row["accuracy_low"], wilson(sum(correct), len(known)).low
        if i != best:
            pairs = list(zip(correct, right[best], strict=True))
            gained, lost = pairs.count((True, False)), pairs.count((False, True))
            yield f"gained of prompt {i + 1}", row["gained"], gained
            yield f"lost of prompt {i + 1}", row["lost"], lost
            tests[i] = mcnemar_exact(gained, lost)
    for i, p in zip(tests, holm(list(tests.values())), strict=True):
        yield f"p of prompt {i + 1}", source.at("prompts", i, "p_holm"), p


def _tuned(source: RunSource, records: list[Any]) -> Iterator[tuple[str, Any, Any]]:
    """The records of a tune are those of its best method."""
    if source.run.metrics.get("tuned") is not None:
        tuned = source.at("tuned")
    else:
        tuned = next(row for row in source.at("methods") if row["method"] == source.at("best"))
    yield from _means(tuned["scores"], [record["scores"] for record in records])


def _means(
    metrics: Mapping[str, Any], rows: list[Mapping[str, Any]], of: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Corpus figures that are the mean over the images; BLEU's are not."""
    for id, about in metrics.items():
        values = [row[id] for row in rows if row.get(id) is not None]
        if id in _MEANS and values:
            yield f"{id} {of}".strip(), about["corpus"], math.fsum(values) / len(values)
