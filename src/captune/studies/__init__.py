"""A study: what a published piece of work did, on which files, and the figures that came of it.

Those that come with captune lie beside this file, one YAML each; its comments say what it holds.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from captune.errors import UserError
from captune.files import home_path, printable, read_text
from captune.yaml_files import parse_yaml

_NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Part:
    """A file or folder of the data. places: below the data's folder, the first there counts."""

    is_folder: bool
    places: list[str]


@dataclass(frozen=True)
class Choice:
    """A model or a setting: as published, and with `--lite`."""

    published: Any
    lite: Any


@dataclass(frozen=True)
class Step:
    """One command. words: of it, names in them unfilled.

    published, lite: more words, of one of the two. after: steps that it needs. makes: the file that
    it ends with, below the folder of the runs. costs: what is counted -> what each of it costs.
    on_page: whether its run is on the report.
    """

    name: str
    does: str
    words: list[str]
    published: list[str]
    lite: list[str]
    after: list[str]
    makes: str
    costs: dict[str, list[str]]
    on_page: bool


@dataclass(frozen=True)
class Condition:
    """Something that an experiment depends on, and the place in a run that says it.

    same: other ways to write the published value.
    """

    published: Any
    run: str
    at: list[Any]
    file: str = "metrics.json"
    same: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """Published figures of a kind, by row; each is a text, with as many digits as were published.

    of: what a row is. run, at, low, high: where the new ones stand; $row in them is the name of a
    row. ends: instead of `at`, the score whose highest and lowest image are meant. bars: what was
    to be reached. depends: names of conditions.
    """

    title: str
    shown: str
    run: str
    rows: dict[str, str]
    of: str = "figure"
    at: list[Any] = field(default_factory=list)
    low: list[Any] = field(default_factory=list)
    high: list[Any] = field(default_factory=list)
    ends: str = ""
    bars: dict[str, str] = field(default_factory=dict)
    depends: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """A study that was read. gflop: of the published or the lite models, by what is done."""

    title: str
    about: str
    data: dict[str, Part] = field(default_factory=dict)
    models: dict[str, Choice] = field(default_factory=dict)
    settings: dict[str, Choice] = field(default_factory=dict)
    gflop: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    conditions: dict[str, Condition] = field(default_factory=dict)
    figures: list[Figures] = field(default_factory=list)


def study_names() -> list[str]:
    """Those that come with captune."""
    here = files("captune.studies")
    return sorted(f.name.removesuffix(".yaml") for f in here.iterdir() if f.name.endswith(".yaml"))


def read_study(name: str) -> Study:
    """The study of a name, or of a YAML file of one's own.

    Raises UserError for an unknown name and for a file that holds no study.
    """
    path = home_path(name)
    if name in study_names():
        text = (files("captune.studies") / f"{name}.yaml").read_text(encoding="utf-8")
    elif _NAME.fullmatch(name) and not path.is_file():
        raise UserError(
            f"{printable(name)}: is no study that comes with captune ({', '.join(study_names())})"
            " and no YAML file"
        )
    else:
        text = read_text(str(path))
    shown = printable(name)
    content = parse_yaml(text, shown, "write a study as the guide to captune reproduce has it")
    try:
        return _study(msgspec.convert(content, _Content))
    except (msgspec.ValidationError, _NoStudy) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{shown}: holds no study ({printable(reason)}); compare it with the one that comes"
            " with captune, src/captune/studies/dlcv-hw3.yaml"
        ) from None


class _NoStudy(Exception):
    """Its text says what does not fit together."""


Text = str | int | float  # YAML reads 0.68 as a number, quoted or not


class _Part(Struct, forbid_unknown_fields=True):
    at: Annotated[list[str], Meta(min_length=1)]
    is_: Literal["folder", "file"] = msgspec.field(name="is")


class _Choice(Struct, forbid_unknown_fields=True):
    published: Text
    lite: Text


class _Step(Struct, forbid_unknown_fields=True):
    name: str
    does: str
    command: str
    published: str = ""
    lite: str = ""
    after: list[str] = []
    makes: str | None = None
    costs: dict[str, list[str]] = {}
    on_page: bool = False


class _Condition(Struct, forbid_unknown_fields=True):
    published: Any
    run: str
    at: list[str | int | dict[str, Text]]
    file: Literal["metrics.json", "run.json"] = "metrics.json"
    same: list[Any] = []


class _Figures(Struct, forbid_unknown_fields=True):
    title: str
    shown: Literal["share", "score"]
    run: str
    rows: dict[Text, Text]
    of: str = "figure"
    at: list[str | int | dict[str, Text]] = []
    low: list[str | int | dict[str, Text]] = []
    high: list[str | int | dict[str, Text]] = []
    ends: str = ""
    bars: dict[Text, Text] = {}
    depends: list[str] = []


class _Content(Struct, forbid_unknown_fields=True):
    """What the YAML of a study holds, before its words are taken apart."""

    title: str
    about: str = ""
    data: dict[str, _Part] = {}
    models: dict[str, _Choice] = {}
    settings: dict[str, _Choice] = {}
    gflop: dict[str, dict[str, float]] = {}
    steps: list[_Step] = []
    conditions: dict[str, _Condition] = {}
    figures: list[_Figures] = []


def _study(content: _Content) -> Study:
    study = Study(
        title=content.title,
        about=content.about,
        data={name: Part(one.is_ == "folder", one.at) for name, one in content.data.items()},
        models={name: Choice(one.published, one.lite) for name, one in content.models.items()},
        settings={name: Choice(one.published, one.lite) for name, one in content.settings.items()},
        gflop=content.gflop,
        steps=[_step(one) for one in content.steps],
        conditions={
            n: Condition(**msgspec.structs.asdict(c)) for n, c in content.conditions.items()
        },
        figures=[_figures(one) for one in content.figures],
    )
    names = {step.name for step in study.steps}
    for step in study.steps:
        _require(set(step.after) <= names, f"step {step.name} comes after one that is not there")
        costs = {cost for each in step.costs.values() for cost in each}
        tables = all(costs <= table.keys() for table in study.gflop.values())
        _require(tables, f"step {step.name} costs what gflop does not know")
        words = [word for words in (step.words, step.published, step.lite) for word in words]
        for word in words:
            _require(_is_known(word, study), f"step {step.name}: {word} names what is not there")
    for figures in study.figures:
        known = set(figures.depends) <= study.conditions.keys()
        _require(known, f"{figures.title} depends on a condition that is not there")
    return study


# what a command may name besides data, models and settings
_NAMES = ("out", "study", "title", "best", "first", "last", "on_page")


def _is_known(word: str, study: Study) -> bool:
    template = Template(word)
    known = {*_NAMES, *study.data, *study.models, *study.settings}
    return template.is_valid() and set(template.get_identifiers()) <= known


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _NoStudy(what)


def _step(one: _Step) -> Step:
    try:
        words, published, lite = map(shlex.split, (one.command, one.published, one.lite))
    except ValueError as error:
        raise _NoStudy(f"step {one.name}: {error}") from None
    makes = f"{one.name}/run.json" if one.makes is None else one.makes
    return Step(
        one.name, one.does, words, published, lite, one.after, makes, one.costs, one.on_page
    )


def _figures(one: _Figures) -> Figures:
    fields = msgspec.structs.asdict(one)
    for name in ("rows", "bars"):
        fields[name] = {str(row): str(value) for row, value in fields[name].items()}
        for row, value in fields[name].items():
            is_decimal = re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", value) is not None
            _require(is_decimal, f"{one.title}: {row} is {value}, no decimal number")
    return Figures(**fields)
