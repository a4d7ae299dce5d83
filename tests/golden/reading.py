"""Outputs as lines of text: one thing per line, with its place, without what differs by the day."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

# fields whose values are of a day or a machine; all below them is left out, too
_VARYING = re.compile(
    r"(.*/)?((\w+_)?(seconds|bytes)|\w+_second|started|versions|hardware|sizes|time|speed|memory)"
)
# captions in the middle of training hang by a hair, and so do their scores and which epoch was best
_MIDWAY = re.compile(r".*/history/epochs/\d+/(cider|bleu_4|clipscore)|(.*/)?best[_ ]epoch")
_SHORT = 9  # numbers of a list that stays on one line


class Plain:
    """Takes out of a text what differs by the day: places, times, sizes, versions, digests."""

    def __init__(self, folder: Path) -> None:
        repository = Path(__file__).parents[2]
        self._places = [
            *((str(path), name) for path in (folder, folder.resolve())
              for name in ("WORK",)),
            (str(repository / "src"), "SRC"), (str(repository), "REPOSITORY"),
            (str(Path.home()), "HOME"),
        ]  # fmt: skip
        found = {d.version for d in distributions()} | {platform.python_version()}
        long = sorted((v for v in found if v.count(".") >= 2), key=len, reverse=True)
        own = "|".join(map(re.escape, [platform.platform(), *long]))
        self._patterns: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
            (re.compile(rf"(?<![\w.])({own})(?![\w])"), "VERSION"),
            (re.compile(r"\bcaptune \d+(\.\w+)+"), "captune VERSION"),
            # one digest of twelve digits in 300 holds no letter
            (re.compile(r"\b(?=\d*[a-f])[0-9a-f]{12,}\b|(?<![\w.])\d{12}(?!\w|\.\d)"), "DIGEST"),
            (re.compile(r"\b\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?Z?( UTC)?"), "DATE"),
            (re.compile(r"([\w-]+ VERSION, ){3,}[\w-]+ VERSION"), "PACKAGES"),
            (re.compile(r"VERSION, \d+ cores"), "MACHINE"),
            (re.compile(r"\b\d[\d.,]* (kB|MB|GB|TB|GiB|B)\b"), r"# \1"),
            (re.compile(r"(?<![\w.])\d[\d.,]* (s|min|h)(?![\w.])"), "# s"),
            (re.compile(r"(?<![\w.])\d[\d.,e+-]*/s\b"), "#/s"),
            # Python puts the choices into quotation marks or not, by its version
            (re.compile(r"(?<=choose from )[^)]*"), lambda found: found[0].replace("'", "")),
            (re.compile(r"data:[\w/+-]+;base64,[\w+/=]+"), "DATA"),
        ]

    def __call__(self, text: str) -> str:
        for place, name in self._places:
            text = text.replace(place, name)
        for pattern, instead in self._patterns:
            text = pattern.sub(instead, text)
        text = re.sub(r"-?\d+\.\d{7,}(e-?\d+)?", lambda found: _number(float(found[0])), text)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    def lines(self, text: str) -> list[str]:
        """Of a terminal: blanks between columns are two, whatever stood in them."""
        lines = (re.sub(r"(?<=\S) {2,}", "  ", line).rstrip() for line in self(text).split("\n"))
        return list(lines)

    def flat(self, content: Any, place: str = "") -> Iterator[str]:
        """JSON, a line per value: `place = value`."""
        if _varies(place) and content is not None:
            yield f"{place} = ..."
        elif place.endswith("/map") and isinstance(content, str) and content:
            heights = [round(value / 255, 2) for value in base64.b64decode(content)]
            yield from self.flat(heights, place)
        elif isinstance(content, dict) and content:
            for key, value in content.items():
                yield from self.flat(value, f"{place}/{self(str(key))}")
        elif isinstance(content, list) and content:
            flat = not any(isinstance(value, dict | list | str) for value in content)
            if flat and len(content) <= _SHORT:
                yield f"{place} = {self._value(content)}"
            else:
                for number, value in enumerate(content):
                    yield from self.flat(value, f"{place}/{number}")
        else:
            yield f"{place} = {self._value(content)}"

    def table(self, text: str) -> list[str]:
        """Of a CSV file: a line per row, without the columns of seconds."""
        rows = list(csv.reader(text.splitlines()))
        kept = [
            [
                "..." if n and c < len(rows[0]) and _varies(rows[0][c]) else self(cell)
                for c, cell in enumerate(row)
            ]
            for n, row in enumerate(rows)
        ]
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows(kept)
        return written.getvalue().splitlines()

    def _value(self, value: Any) -> str:
        if isinstance(value, list):
            return f"[{', '.join(map(self._value, value))}]"
        if isinstance(value, float):
            return _number(value)
        text = self(json.dumps(value, ensure_ascii=False) if value != {} else "{}")
        return text if len(text) < 2000 else f"{text[:200]}..."


def _number(value: float) -> str:
    return "0.0" if abs(value) < 1e-9 else f"{value:.6g}" if value % 1 else f"{value:.1f}"


def _varies(place: str) -> bool:
    return bool(_VARYING.fullmatch(place) or _MIDWAY.fullmatch(place))


def json_lines(content: dict[str, Any], plain: Plain, metrics: dict[str, Any]) -> list[str]:
    """What `--json` prints; what metrics.json has word for word is only named."""
    same = [
        key
        for key, value in content.items()
        if isinstance(value, dict | list) and value and metrics.get(key) == value
    ]
    lines = list(plain.flat({key: value for key, value in content.items() if key not in same}))
    return [*lines, *(f"/{key} = as in metrics.json" for key in same)]


def run_lines(folder: Path, plain: Plain) -> list[str]:
    """A run folder: what its three files say; records that the run above has too are only named."""
    lines = []
    for name in ("run.json", "metrics.json"):
        content = json.loads((folder / name).read_text())
        lines += [name, *plain.flat(_named_once(content, content)), ""]
    records = (folder / "records.jsonl").read_text()
    above = folder.parent / "records.jsonl"
    if above.is_file() and above.read_text() == records:
        return [*lines, "records.jsonl: as in the run above"]
    lines.append("records.jsonl")
    for n, line in enumerate(records.splitlines()):
        lines += plain.flat(json.loads(line), f"/{n}")
    return lines


def _named_once(value: Any, top: dict[str, Any]) -> Any:
    """Without long values that stand in `top` as well: their place is named instead."""
    if not isinstance(value, dict | list):
        return value
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = {}
    for key, inner in pairs:
        same = [name for name, one in top.items() if one == inner and one is not inner]
        is_long = isinstance(inner, dict | list) and len(json.dumps(inner)) > 1000
        found[key] = f"as in /{same[0]}" if same and is_long else _named_once(inner, top)
    return found if isinstance(value, dict) else list(found.values())


def file_lines(root: Path, names: list[str], plain: Plain) -> list[str]:
    """Names of files and how each begins; tables and texts of figures whole."""
    lines = []
    for name in names:
        lines += [plain(name), *(f"    {line}" for line in _beginning(root / name, plain))]
    return lines


def _beginning(path: Path, plain: Plain) -> list[str]:
    if path.suffix in (".npz", ".npy"):
        found = np.load(path, allow_pickle=False)
        arrays = found if path.suffix == ".npz" else {"array": found}
        return [f"{name}: {arrays[name].dtype} {list(arrays[name].shape)}" for name in arrays]
    data = path.read_bytes()
    if path.suffix in (".csv", ".svg"):
        text = data.decode("utf-8", "backslashreplace")
        if path.suffix == ".csv":
            return plain.table(text)
        return [line for line in map(plain, _svg_texts(text)) if re.search(r"[^\W\d]", line)]
    try:
        first = data.decode().split("\n", 1)[0]
    except UnicodeDecodeError:
        return [f"binary, {path.suffix}"]
    first = plain(first)
    return [first if len(first) <= 160 else f"{first[:160]}..."]


def _svg_texts(svg: str) -> list[str]:
    found = re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", "", text).split()) for text in found]


def page_lines(html: str, plain: Plain) -> list[str]:
    """A page: its numbers with their places, its tables and galleries, its words."""
    page = _Page()
    page.feed(html)
    page.close()
    lines = ["numbers"]
    for place, exact, shown in page.numbers:
        value = "..." if _varies(place) else f"{plain(_rounded(exact))} ({plain(shown)})"
        lines.append(f"{place} = {value}")
    for number, (name, text) in enumerate(page.data):
        content = json.loads(text)
        is_table = isinstance(content, str) and "\n" in content
        lines += ["", f"data {number} {name}"]
        lines += plain.table(content) if is_table else plain.flat(content)
    lines += ["", "words", *(line for text in page.words if (line := plain(text)))]
    return lines


def _rounded(exact: str) -> str:
    try:
        value = json.loads(exact)
    except ValueError:
        return exact
    return _number(value) if isinstance(value, float) else exact


class _Page(HTMLParser):
    """What report/checking.py reads of a page; numbers stand among the words in brackets."""

    _INLINE = frozenset(
        {
            *("a", "abbr", "b", "bdi", "bdo", "code", "data", "em", "i", "kbd", "mark", "s"),
            *("small", "span", "strong", "sub", "sup", "u", "var", "wbr"),
        }
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.numbers: list[tuple[str, str, str]] = []
        self.data: list[tuple[str, str]] = []
        self.words: list[str] = []
        self._block: list[str] = []
        self._number: tuple[str, str] | None = None
        self._shown: list[str] = []
        self._script: tuple[str, list[str]] | None = None
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        if tag == "data":
            self._number = (told.get("data-from") or "", told.get("value") or "")
            self._shown = []
        elif tag == "script":
            name = told.get("id") or told.get("class") or ""
            json_kind = told.get("type") == "application/json"
            self._script = (name if json_kind else "", [])
        elif tag == "style":
            self._style = True
        if tag not in self._INLINE:
            self._end_block()
        elif self._block:
            self._block.append("\0")  # a seam, where words of two elements must not grow together
        for name in ("alt", "title", "aria-label", "placeholder"):
            if told.get(name):
                self.words.append(f"({name}) {' '.join(str(told[name]).split())}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "data" and self._number is not None:
            shown = "".join(self._shown)
            self.numbers.append((*self._number, shown))
            self._block.append(f"[{shown}]")
            self._number = None
        elif tag == "script" and self._script is not None:
            name, text = self._script
            if name:
                self.data.append((name, "".join(text)))
            self._script = None
        elif tag == "style":
            self._style = False
        if tag not in self._INLINE:
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self._script[1].append(data)
        elif self._number is not None:
            self._shown.append(data)
        elif not self._style:
            self._block.append(data)

    def close(self) -> None:
        super().close()
        self._end_block()

    def _end_block(self) -> None:
        text = " ".join("".join(self._block).replace("\0", "").split())
        if text:
            self.words.append(text)
        self._block = []


def help_lines(text: str, plain: Plain) -> list[str]:
    """`--help` as every version of Python lays it out: a line per option, blanks joined."""
    usage, _, rest = text.partition("\n\n")
    options, mark, examples = rest.partition("\nexamples:\n")
    lines = " ".join(usage.split()).replace(" [", "\n  [").split("\n")
    lines.append("")
    for line in options.split("\n"):
        if re.match(r" {10,}\S", line):
            lines[-1] += f"  {line.strip()}"
        else:
            lines.append(re.sub(r"(?<=\S) {2,}", "  ", line).rstrip())
    if mark:
        lines += ["", "examples:", *examples.split("\n")]
    return [line.rstrip() for line in lines]


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Files below `root`, with what tells that one was written again."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            about = path.stat()
            found[os.path.relpath(path, root)] = (about.st_mtime_ns, about.st_size)
    return found
