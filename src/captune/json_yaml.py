"""JSON and YAML of the user's, or of somebody else's: refused where it is wrong or too large.

JSON values are held against types (`convert`), and against each other (`differences`).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from captune.errors import UserError
from captune.text import plain
from captune_metrics.display import printable, shorten
from captune_metrics.files import read_regular

MOST = 1e15  # of any figure: what is above it overflows in sums and on the axes of figures
Finite = Annotated[float, Meta(ge=-MOST, le=MOST)]
Count = Annotated[int, Meta(ge=0, le=int(MOST))]
Share = Annotated[float, Meta(ge=0, le=1.001)]  # float32 rounds above 1

_LARGEST_JSON = 8 * 2**20
MOST_MEMORY = 2**30  # bytes that the values of a JSON text may take, about
_MOST_CHARACTERS = 2**20  # of YAML, as of the next two
_MOST_VALUES = 100_000
_DEEPEST = 32  # mappings and lists in one another


T = TypeVar("T")
_ELSEWHERE = "[...]"  # msgspec's place for a key of a mapping
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "nothing",
}
MISSING: Any = object()  # the side of a difference that has nothing there


def require(holds: bool, what: str) -> None:
    """Raises ValueError with `what` unless it holds."""
    if not holds:
        raise ValueError(what)


def parse_json(
    text: str,
    source: str,
    key_name: Callable[[Any], str] = lambda value: "key",
    *,
    line: int | None = None,
) -> Any:
    """The value of a JSON text; of doubled keys Python's own reader keeps the last in silence.

    source: what the sentences begin with, printable. line: where `text` stands in it, if it is only
        one line of it. key_name: what a key is called in a sentence, given its value.
    Raises UserError for what is no JSON, NaN and infinity included, and for doubled keys.
    """
    place = source if line is None else f"{source}: line {line}"
    if json_cost(text) > MOST_MEMORY:
        raise UserError(f"{place} holds more values than fit into memory here; make it smaller.")
    try:
        return _DECODER.decode(text)
    except _Doubled as doubled:
        name = key_name(doubled.value)
        again = _line_of_second(doubled.key, text)
        raise UserError(
            f'{place}: {name} "{printable(doubled.key)}" appears twice{again}; keep one of them.'
        ) from None
    except _NoConstant as constant:
        raise UserError(f"{place} holds {constant}, which is not JSON; write text there.") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{source} is not valid JSON at line {line or error.lineno}, column {error.colno}"
            f" ({error.msg})."
        ) from None
    except (RecursionError, ValueError):
        raise UserError(f"{place} is nested too deeply or holds absurd numbers.") from None


def read_object(path: Path, most_bytes: int = _LARGEST_JSON) -> dict[str, Any]:
    """The object of a JSON file beside a model or a dataset.

    Raises UserError for what cannot be read, is too large, nested too deeply, or no object.
    """
    shown = printable(path)
    try:
        content = json.loads(read_regular(path, most_bytes))
    except OSError as error:
        raise UserError(f"{shown} cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise UserError(f"{shown} is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{shown}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{shown} holds {json_kind(content)}, and an object was expected")
    return content


def json_cost(text: str | bytes) -> int:
    """Bytes of memory that the values of a JSON text take, about, before it is read.

    Three characters, `[],`, make a list of 64 bytes: a small file may stand for a large thing.
    """
    marks: Any = (b"{", b"[", b",") if isinstance(text, bytes) else "{[,"
    objects, lists, others = map(text.count, marks)
    return len(text) + 200 * objects + 70 * lists + 60 * others


class _Doubled(Exception):
    def __init__(self, key: str, value: Any) -> None:
        super().__init__(key)
        self.key, self.value = key, value


class _NoConstant(Exception):
    pass


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _Doubled(key, result[key])
    return result


def _line_of_second(key: str, text: str) -> str:
    """Where a doubled key stands again, if that is clear and below the first line."""
    spelled = re.escape(json.dumps(key, ensure_ascii=False))
    places = [match.start() for match in re.finditer(rf"{spelled}\s*:", text)]
    line = text.count("\n", 0, places[1]) + 1 if len(places) == 2 else 1
    return f" (again in line {line})" if line > 1 else ""


def _no_constant(name: str) -> None:
    raise _NoConstant(name)


# one for all calls: making a decoder takes longer than reading a line with it
_DECODER = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_no_constant)


def json_kind(value: object) -> str:
    """What a JSON value is, in a sentence."""
    kinds: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "a text"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), "nothing (null)")


def parse_yaml(text: str, shown: str, expected: str) -> Any:
    """The plain values of a YAML text.

    shown: its file, printable. expected: what a sentence asks for.

    Raises UserError for what is no YAML and for what is too large or too deep.
    """
    import yaml

    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{shown} is over {_MOST_CHARACTERS // 2**20} MiB; {expected}")
    try:
        return yaml.load(text, Loader=_bounded_loader())  # noqa: S506  # it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: a date with a 13th month, a number of 5,000 digits
        reason = getattr(error, "problem", None) or "a value that nothing can hold"
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{shown} is not valid YAML{line} ({printable(reason)}); {expected}"
        ) from None


@cache
def _bounded_loader() -> Any:
    import yaml

    class BoundedLoader(yaml.SafeLoader):  # type: ignore[misc]
        """PyYAML's safe loader; a reference counts as often as what it names would, written out."""

        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self._depth = 0
            self._values = 0
            self._named: dict[str, int] = {}  # values below a name; none while it is still read

        def compose_node(self, parent: Any, index: Any) -> Any:
            """As the base class; raises ComposerError for too much."""
            event = self.peek_event()
            if isinstance(event, yaml.AliasEvent):
                if event.anchor in self.anchors and event.anchor not in self._named:
                    self._refuse("something that holds itself", event)
                self._count(self._named.get(event.anchor, 0), event)
                return super().compose_node(parent, index)
            if self._depth >= _DEEPEST:
                self._refuse(f"nested more than {_DEEPEST} deep", event)
            before = self._values
            self._count(1, event)
            self._depth += 1
            node = super().compose_node(parent, index)
            self._depth -= 1
            if event.anchor is not None:
                self._named[event.anchor] = self._values - before
            return node

        def _count(self, values: int, event: Any) -> None:
            self._values += values
            if self._values > _MOST_VALUES:
                self._refuse(f"more than {_MOST_VALUES:,} values", event)

        def _refuse(self, what: str, event: Any) -> None:
            raise yaml.composer.ComposerError(None, None, what, event.start_mark)

    return BoundedLoader


def convert(value: Any, kind: type[T]) -> T:
    """`value`, a JSON value, as this type. Raises ValueError, a phrase with the place in it."""
    try:
        return msgspec.convert(value, kind, dec_hook=_as_path)
    except msgspec.ValidationError as error:
        what, place = _parted(error)
        while _ELSEWHERE in place:
            found = _with_key(value, kind, what, place)
            if found is None:
                break
            place = found
        raise ValueError(_phrase(what, place.removeprefix("."))) from None


def _as_path(kind: type[Any], value: Any) -> Any:
    """Options hold paths, JSON texts."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected `str`, got `{type(value).__name__}`")


def _parted(error: msgspec.ValidationError) -> tuple[str, str]:
    what, _, place = str(error).rpartition(" - at `$")
    return (what, place.removesuffix("`")) if what else (str(error), "")


def _with_key(value: Any, kind: type[Any], what: str, place: str) -> str | None:
    """`place` with the first key that msgspec leaves out: on that one alone it fails too."""
    before, _, after = place.partition(_ELSEWHERE)
    steps = [int(m[2]) if m[2] else m[1] for m in _STEP.finditer(before)]
    inner = value
    for step in steps:
        inner = inner[step]
    for key in inner:
        try:
            msgspec.convert(_replaced(value, steps, {key: inner[key]}), kind, dec_hook=_as_path)
        except msgspec.ValidationError as error:
            if _parted(error) == (what, place):
                shown = shorten(key, 80)
                return f"{before}.{shown}{after}"
    return None


def _replaced(value: Any, steps: list[Any], inner: Any) -> Any:
    """A copy of `value` with `inner` at the place to which `steps` lead."""
    if not steps:
        return inner
    copy = value.copy()
    copy[steps[0]] = _replaced(value[steps[0]], steps[1:], inner)
    return copy


def _phrase(what: str, place: str) -> str:
    """`prompts[0].accuracy: expected a number, found a text`."""
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing:
        return f"{place or 'it'} has no {missing[1]}"
    told = re.sub(r"matching regex .*", "without a zero byte", what)
    told = re.sub(
        r"`([^`]+)`",
        lambda match: " or ".join(_WORDS.get(name, name) for name in match[1].split(" | ")),
        told,
    )
    told = (
        told.replace(", got ", ", found ")
        .replace("of length >= ", "of at least ")
        .replace(">= ", "of at least ")
        .replace("<= ", "up to ")
    )
    told = told[:1].lower() + told[1:]
    return f"{place}: {told}" if place else told


class JSONDifference(NamedTuple):
    """Two JSON values differ. place: where, a JSON pointer. A value may be `MISSING`."""

    place: str
    then: Any
    now: Any


def differences(
    then: Any,
    now: Any,
    tolerance: Callable[[str], float] = lambda place: 0.0,
    *,
    part: bool = False,
    place: str = "",
) -> Iterator[JSONDifference]:
    """Where two JSON values differ.

    tolerance: of the numbers at a place, relative for those above 1. part: `now` may leave out keys
    of objects and the ends of lists.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in now if part else dict.fromkeys([*then, *now]):
            inner = f"{place}/{str(key).replace('~', '~0').replace('/', '~1')}"
            values = then.get(key, MISSING), now.get(key, MISSING)
            yield from differences(*values, tolerance, part=part, place=inner)
    elif (isinstance(then, list | tuple) and isinstance(now, list | tuple)) and (
        len(then) >= len(now) if part else len(then) == len(now)
    ):
        for i, (one, other) in enumerate(zip(then, now, strict=False)):
            yield from differences(one, other, tolerance, part=part, place=f"{place}/{i}")
    elif _is_number(then) and _is_number(now):
        if not _is_close(then, now, tolerance(place)):
            yield JSONDifference(place, then, now)
    elif then is MISSING or now is MISSING or then != now:
        yield JSONDifference(place, then, now)


def as_shown(value: Any) -> str:
    """A value of a difference in a sentence."""
    return "absent" if value is MISSING else printable(shorten(plain(value), 80))


def _is_close(then: float, now: float, tolerance: float) -> bool:
    try:
        return math.isclose(then, now, rel_tol=tolerance, abs_tol=tolerance)
    except OverflowError:  # a whole number beyond all floats
        return then == now


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
