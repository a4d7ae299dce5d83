"""A metrics.json of `captune score`, read as what it may be: anybody's file."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.files import decode_text, json_kind, open_regular, parse_json, printable, read_text
from captune.metrics.catalogue import metric_of
from captune.options import MOST_RESAMPLES, MetricOptions
from captune.runs.reader import LONGEST_LINE

INPUTS = ("candidates", "references", "images")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What a metrics.json says, each part of the kind that it has to be.

    images: at least 1. metrics: id -> {"name": str, "corpus": finite float, "recipe": dict,
    "interval": [low, high] or None}, at least one. agreement: pairs of metrics, or None.
    inputs: name -> {"path": str, "sha256": str}, those that there were. options: fields of
    MetricOptions. versions: package -> version. records: records.jsonl beside it, where it is.
    """

    path: Path
    images: int
    metrics: dict[str, dict[str, Any]]
    agreement: dict[str, Any] | None
    inputs: dict[str, dict[str, str]]
    options: dict[str, Any]
    versions: dict[str, str]
    records: Path | None

    @property
    def has_intervals(self) -> bool:
        """Whether it was scored with intervals, and so with agreement."""
        return self.agreement is not None or any(m["interval"] for m in self.metrics.values())

    def lines(self) -> Iterator[tuple[int, Any]]:
        """Number and content of each line of the records. Raises UserError for broken ones."""
        if self.records is None:
            return
        shown = printable(str(self.records))
        try:
            with open_regular(self.records) as file:
                number = 0
                while line := file.readline(LONGEST_LINE + 1):
                    number += 1
                    if len(line) > LONGEST_LINE:
                        raise UserError(f"{shown}: line {number} is longer than any of a run")
                    if line.strip():
                        text = decode_text(line, str(self.records))
                        yield number, parse_json(text, shown, line=number)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"{shown}: cannot be read ({reason})") from None


def read_recorded(place: Path) -> Recorded:
    """Read a metrics.json, or that of a run folder.

    Raises UserError, one sentence, for whatever is not what `captune score --out` writes.
    """
    try:
        path = place / "metrics.json" if place.is_dir() else place
    except OSError as error:
        raise UserError(f"{printable(str(place))}: cannot be read ({error.strerror})") from None
    content = parse_json(read_text(str(path)), printable(str(path)))
    reader = _Reader(path)
    if not isinstance(content, dict):
        raise reader.refuse("it is no object")
    metrics = reader.part(content, "metrics", dict)
    agreement = content.get("agreement")
    versions = content.get("versions", {})
    if not metrics:
        raise reader.refuse("its metrics are none")
    if agreement is not None:
        reader.part(reader.part(content, "agreement", dict), "pairs", list)
    if not _are_texts(versions):
        raise reader.refuse("its versions are no texts")
    images = reader.part(content, "images", int)
    if images < 1:
        raise reader.refuse("its images are none")
    records = path.with_name("records.jsonl")
    return Recorded(
        path=path,
        images=images,
        metrics={id: reader.metric(id, about) for id, about in metrics.items()},
        agreement=agreement,
        inputs=reader.inputs(reader.part(content, "inputs", dict)),
        options=reader.options(reader.part(content, "options", dict)),
        versions=versions,
        records=records if records.is_file() else None,
    )


class _Reader:
    def __init__(self, path: Path) -> None:
        self._shown = printable(str(path))

    def refuse(self, why: str) -> UserError:
        return UserError(
            f"{self._shown}: is not the metrics.json of a score ({printable(why)}); make one with"
            " captune score ... --out RUN"
        )

    def part(self, content: dict[str, Any], name: str, kind: type[Any]) -> Any:
        value = content.get(name)
        if type(value) is not kind:
            raise self.refuse(f"its {name} should be {_KINDS[kind]}")
        return value

    def metric(self, id: str, about: Any) -> dict[str, Any]:
        try:
            is_known = metric_of(id).id == id
        except UserError:
            is_known = False
        if not is_known:
            raise UserError(
                f'{self._shown}: holds the metric "{printable(id)}", which is not installed here'
            )
        if not isinstance(about, dict):
            raise self.refuse(f"its {id} should be {_KINDS[dict]}")
        self.part(about, "name", str)
        self.part(about, "recipe", dict)
        interval = about.get("interval")
        is_interval = isinstance(interval, list) and len(interval) == 2
        if not is_finite(about.get("corpus")):
            raise self.refuse(f"the corpus figure of its {id} should be a finite number")
        if interval is not None and not (is_interval and all(map(is_finite, interval))):
            raise self.refuse(f"the interval of its {id} should be two finite numbers")
        return {**about, "interval": interval}

    def inputs(self, inputs: dict[str, Any]) -> dict[str, dict[str, str]]:
        found = {}
        for name in INPUTS:
            about = inputs.get(name)
            if about is None and name != "candidates":
                continue
            if not isinstance(about, dict):
                raise self.refuse(f"its inputs say nothing of the {name}")
            if not all(_is_text(about.get(key)) for key in ("path", "sha256")):
                raise self.refuse(f"path and sha256 of its {name} should be text")
            found[name] = about
        return found

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Those that this captune knows, each by the type that its dataclass gives it."""
        hints = typing.get_type_hints(MetricOptions)
        found = {}
        for field in dataclasses.fields(MetricOptions):
            if field.name not in options:
                continue
            value, hint = options[field.name], hints[field.name]
            if not _is_of(value, hint) or value not in field.metadata.get("choices", (value,)):
                shown = json_kind(value) if isinstance(value, dict | list) else f"{value!r:.50}"
                raise self.refuse(f"its option {field.name} cannot be {shown}")
            found[field.name] = value
        if found.get("resamples", 0) > MOST_RESAMPLES:
            raise self.refuse(f"its resamples are more than {MOST_RESAMPLES:,}")
        return found


_KINDS = {dict: "an object", list: "a list", int: "a whole number", str: "a text"}


def is_finite(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_of(value: object, hint: Any) -> bool:
    """Whether a JSON value can stand for an option of this type; paths are text."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(value) is str:
        return _is_text(value) and (str in kinds or Path in kinds)
    return type(value) in kinds
