"""The runs of a page: read, named, and quoted number by number with the place in their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup, escape

from captune.errors import UserError
from captune.files import real_path
from captune.runs import Run, read_run
from captune.runs.evaluation import FaithfulMetrics
from captune.runs.kinds import KINDS
from captune.runs.metrics import TuneMetrics
from captune.runs.reader import ABOUT, METRICS, RECORDS, damaged
from captune.tables import Estimate, Number
from captune.text import count, listed, one_line, short_names
from captune_metrics.display import named, printable

NOT_USABLE = ", not usable"  # behind the name of a method or a captioner, wherever it is shown


@dataclass(frozen=True)
class PageSettings:
    """title: of the page, or "" to have one written. limit: images of a gallery, at the most.

    top: images at either end of a list of the best and the worst.
    published: the study whose figures stand beside those of the runs, or "".
    """

    title: str = ""
    limit: int = 2000
    top: int = 4
    published: str = ""


Show = Callable[[Any], str]
T = TypeVar("T")


@dataclass(frozen=True)
class RunSource:
    """A run as the page quotes it.

    number: of the run on the page, from 1. name: short, each once. methods: of a tune, by name: the
    runs of its methods that are still there.
    """

    number: int
    name: str
    run: Run
    methods: Mapping[str, RunSource] = field(default_factory=dict)

    def figure(self, show: Show, *keys: str | int, file: str = METRICS) -> Number:
        """What stands at a place of metrics.json (or run.json); a dash where that is nothing."""
        value = self.at(*keys, file=file)
        pointer = "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in keys)
        text = "–" if value is None else show(value)
        return Number(value, text, f"{self.number}:{file}#{pointer}")

    def known(self, show: Show, *keys: str | int) -> Number | None:
        """What stands at a place of metrics.json; None, an empty cell, where that is nothing."""
        return None if self.at(*keys) is None else self.figure(show, *keys)

    def interval(self, show: Show, *keys: str | int) -> tuple[Number, Number] | None:
        """Both ends of the interval at a place of metrics.json; None where there is none."""
        if None in (self.at(*keys) or [None]):
            return None
        return self.figure(show, *keys, 0), self.figure(show, *keys, 1)

    def estimate(self, show: Show, *keys: str | int) -> Estimate:
        """`corpus` and `interval` of the object at a place of metrics.json, as one cell."""
        ends = self.interval(show, *keys, "interval")
        return Estimate(self.figure(show, *keys, "corpus"), ends)

    def counted(self, show: Show, value: Any, how: str) -> Number:
        """A number that was made of the records. how: in words, for a person."""
        return Number(value, show(value), f"{self.number}:{RECORDS} {how}")

    def at(self, *keys: str | int, file: str = METRICS) -> Any:
        """The value there, which the types of `captune.runs` promise."""
        value: Any = self.run.metrics if file == METRICS else self.run.about
        for key in keys:
            value = value[key]
        return value

    @property
    def images_told(self) -> Any:
        """`30`, or `30 of 1,000` where others were left out."""
        found = self.figure(count, "images")
        if self.run.metrics.get("images_of") is None:  # older runs have no such key
            return found
        return words("{} of {}", found, self.figure(count, "images_of"))

    def option(self, name: str, kind: type[T], default: T) -> T:
        """An option of the run, where it has one of this type: nothing else promises it."""
        value = self.run.about["options"].get(name)
        return value if type(value) is kind else default

    @property
    def images(self) -> int:
        """How many images the run tells of.

        Of a tune those that it trained on, of a leaderboard those that it reports on.
        """
        if self.run.kind == "faithful":
            reported = self.run.typed_metrics(FaithfulMetrics).stages.reporting
            if reported is not None:
                return reported
        return int(self.run.metrics.get("trained_on") or self.run.metrics.get("images") or 0)

    @property
    def is_unusable(self) -> bool:
        """Whether it is a tune of whose methods none is usable, or such a method."""
        if self.run.kind != "tune":
            return False
        return all(one.unusable for one in self.run.typed_metrics(TuneMetrics).every)

    @property
    def model(self) -> Mapping[str, Any]:
        """The first model that the run names, of kinds that have one."""
        model: Mapping[str, Any] = self.run.about["models"][0]
        return model


def words(template: str, *parts: Any) -> Markup:
    """A sentence with figures and texts in the places of {}; what is no figure is text."""
    return Markup(template).format(*(_part(part) for part in parts))  # noqa: S704  # ours


def plain_text(said: Any) -> str:
    """A sentence of a page without its markup."""
    return str(said.striptags() if hasattr(said, "striptags") else said)


def joined(parts: Sequence[Any]) -> Markup:
    """`a`, `a and b`, `a, b and c`."""
    return Markup(listed([str(escape(_part(part))) for part in parts]))  # noqa: S704  # each is escaped


def _part(part: Any) -> Any:
    if not isinstance(part, str) or hasattr(part, "__html__"):
        return part
    text = one_line(part)
    # of another direction, it would take the figures beside it along
    return text if text.isascii() else Markup("<bdi>{}</bdi>").format(text)


@dataclass(frozen=True)
class RunSet:
    """The sources of a page, in the order given; a tune is followed by its methods."""

    sources: list[RunSource]

    @property
    def given(self) -> list[RunSource]:
        """All but the methods below a tune: the runs that a command of their own made."""
        below = {method.number for source in self.sources for method in source.methods.values()}
        return [source for source in self.sources if source.number not in below]

    def of_kind(self, *kinds: str) -> list[RunSource]:
        """The runs of these jobs; the methods below a tune are not among them."""
        return [source for source in self.given if source.run.kind in kinds]


def read_runs(
    folders: Sequence[str | Path], names: Sequence[str] = (), images: Path | None = None
) -> RunSet:
    """Read the runs. Raises UserError for none, one given twice, and one of another kind.

    names: of all runs, methods too, where they had others than their folders have. images: the
    folder of their images, for runs from elsewhere.
    """
    if not folders:
        raise UserError("no run to report; name one or more: captune report RUN... --out FILE.html")
    paths = [Path(folder) for folder in folders]
    places = [real_path(path) for path in paths]
    twice = [str(path) for i, path in enumerate(paths) if places[i] in places[:i]]
    if twice:
        raise UserError(f"{named(twice, 'run')}: given twice; name each once")
    given = [(path, read_run(path, images=images)) for path in paths]
    for path, run in given:
        if run.kind not in KINDS:
            raise UserError(
                f"{printable(path)} is a run of captune {printable(run.kind)}, of which this "
                f"captune's report knows nothing; it knows {', '.join(KINDS)}"
            )
    # a method that is named beside its tune comes along with it all the same
    below = {real_path(child) for _, run in given for child in _methods(run)}
    found: list[tuple[Path, Run, int | None]] = []
    for path, run in given:
        if real_path(path) not in below:
            tune = len(found)
            found.append((path, run, None))
            found += [(child, _method(child, images), tune) for child in _methods(run)]
    if len(names) != len(found):
        names = short_names([real_path(path) for path, _, _ in found])
    sources: list[RunSource] = []
    for i, (_, run, _) in reversed(list(enumerate(found))):
        methods = {
            path.name: source
            for (path, _, above), source in zip(found[i + 1 :], sources, strict=True)
            if above == i
        }
        sources.insert(0, RunSource(i + 1, names[i], run, methods))
    return RunSet(sources)


def _methods(run: Run) -> list[Path]:
    rows = run.metrics.get("methods") if run.kind == "tune" else None
    if not isinstance(rows, list):
        return []
    names = [row.get("method") for row in rows if isinstance(row, dict)]
    # a run from elsewhere leads to nothing outside its own folder
    plain = [name for name in names if isinstance(name, str) and Path(name).name == name]
    return [run.folder / name for name in plain if (run.folder / name / ABOUT).is_file()]


def _method(folder: Path, images: Path | None) -> Run:
    """The run of one method. Raises DamagedRun for another one in its place."""
    run = read_run(folder, images=images)
    if run.kind != "tune" or run.metrics.get("tuned") is None:
        raise damaged(folder, METRICS, "it is not of the method that the tune above it names")
    return run


def digests_of(run: Run) -> dict[str, str]:
    """File of the run -> sha256 of its bytes, for those that are there."""
    names = (ABOUT, METRICS, RECORDS)
    return {name: run.digest(name) for name in names if (run.folder / name).is_file()}
