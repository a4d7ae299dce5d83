"""Numbers on a page: what a reader sees, the exact value, and the place in a run it is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from markupsafe import Markup, escape

from captune.runs import Run
from captune.runs.reader import METRICS, RECORDS
from captune.tables import Number
from captune.text import one_line, plain

Show = Callable[[Any], str]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A run as the page quotes it. number: of the run on the page. name: short, each once."""

    number: int
    name: str
    run: Run

    def figure(self, show: Show, *keys: str | int, file: str = METRICS) -> Number:
        """What stands at a place of metrics.json (or run.json); a dash where that is nothing."""
        value = self.at(*keys, file=file)
        pointer = "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in keys)
        text = "–" if value is None else show(value)
        return Number(value, text, f"{self.number}:{file}#{pointer}")

    def counted(self, show: Show, value: Any, how: str) -> Number:
        """A number that was made of the records. how: in words, for a person."""
        return Number(value, show(value), f"{self.number}:{RECORDS} {how}")

    def at(self, *keys: str | int, file: str = METRICS) -> Any:
        """The value there, which the types of `captune.runs` promise."""
        value: Any = self.run.metrics if file == METRICS else self.run.about
        for key in keys:
            value = value[key]
        return value

    def option(self, name: str, kind: type[T], default: T) -> T:
        """An option of the run, where it has one of this type: nothing else promises it."""
        value = self.run.about["options"].get(name)
        return value if type(value) is kind else default

    @property
    def model(self) -> Mapping[str, Any]:
        """The first model that the run names, of kinds that have one."""
        model: Mapping[str, Any] = self.run.about["models"][0]
        return model


def words(template: str, *parts: Any) -> Markup:
    """A sentence with figures and texts in the places of {}; what is no figure is text."""
    return Markup(template).format(*(_part(part) for part in parts))  # noqa: S704  # ours


def joined(parts: Sequence[Any], last: str = "and") -> Markup:
    """`a`, `a and b`, `a, b and c`."""
    texts = [escape(_part(part)) for part in parts]
    if len(texts) < 2:
        return texts[0] if texts else Markup()
    return Markup(", ").join(texts[:-1]) + f" {last} " + texts[-1]


def _part(part: Any) -> Any:
    if not isinstance(part, str) or hasattr(part, "__html__"):
        return part
    text = one_line(part)
    # of another direction, it would take the figures beside it along
    return text if text.isascii() else Markup("<bdi>{}</bdi>").format(text)


def interval_of(source: Source, show: Show, *keys: str | int) -> tuple[Number, Number] | None:
    """Both ends of an interval, None where the run has none."""
    if None in (source.at(*keys) or [None]):
        return None
    return source.figure(show, *keys, 0), source.figure(show, *keys, 1)


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A recipe as rows of key and text; what is inside another is named by its path."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += flat(item, f"{prefix}{key}.")
        elif item is not None:
            rows.append((f"{prefix}{key}", plain(item)))
    return rows
