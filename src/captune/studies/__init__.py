"""A study: what a published piece of work did, on which files, and the figures that came of it.

Those that come with captune lie beside this file, one YAML each; its comments say what it holds.
"""

from __future__ import annotations

import re
import shlex
from importlib.resources import files
from string import Template
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from captune.errors import UserError
from captune.files import home_path, read_text
from captune.json_yaml import parse_yaml
from captune_metrics.display import printable

_NAME = re.compile(r"[\w-]+")
# what a command may name besides data, models and settings
_NAMES = ("out", "study", "title", "best", "first", "last", "on_page")

Scalar = str | int | float  # YAML reads 0.68 as a number, quoted or not
ValuePath = list[str | int | dict[str, Scalar]]  # of a value in a run's JSON


class DataPart(Struct, forbid_unknown_fields=True):
    """A file or folder of the data. at: paths below the data's folder, the first there counts."""

    at: Annotated[list[str], Meta(min_length=1)]
    is_: Literal["folder", "file"] = msgspec.field(name="is")


class Variant(Struct, forbid_unknown_fields=True):
    """A model or a setting: as published, and with `--lite`."""

    published: Scalar
    lite: Scalar


class Step(Struct, forbid_unknown_fields=True):
    """One command, with names in it unfilled.

    published, lite: more words, of one of the two. after: steps that it needs. makes: the file that
    it ends with, below the folder of the runs. costs: what is counted -> what each of it costs.
    on_page: whether its run is on the report.
    """

    name: str
    does: str
    command: str
    published: str = ""
    lite: str = ""
    after: list[str] = []
    makes: str = ""
    costs: dict[str, list[str]] = {}
    on_page: bool = False

    def __post_init__(self) -> None:
        self.makes = self.makes or f"{self.name}/run.json"
        try:
            self.words(lite=True), self.words(lite=False)
        except ValueError as error:
            raise ValueError(f"step {self.name}: {error}") from None

    def words(self, *, lite: bool) -> list[str]:
        """After `captune`, with the published or with the small models."""
        return shlex.split(self.command) + shlex.split(self.lite if lite else self.published)


class Condition(Struct, forbid_unknown_fields=True):
    """Something that an experiment depends on, and the place in a run that says it.

    same: other ways to write the published value.
    """

    published: Any
    run: str
    at: ValuePath
    file: Literal["metrics.json", "run.json"] = "metrics.json"
    same: list[Any] = []


class Figures(Struct, forbid_unknown_fields=True):
    """Published figures of a kind, by row; each is a text, with as many digits as were published.

    of: what a row is. run, at, low, high: where the new ones stand; $row in them is the name of a
    row. ends: instead of `at`, the score whose highest and lowest image are meant. bars: what was
    to be reached. depends: names of conditions.
    """

    title: str
    shown: Literal["share", "score"]
    run: str
    given_rows: dict[Scalar, Scalar] = msgspec.field(name="rows")
    of: str = "figure"
    at: ValuePath = []
    low: ValuePath = []
    high: ValuePath = []
    ends: str = ""
    given_bars: dict[Scalar, Scalar] = msgspec.field(name="bars", default_factory=dict)
    depends: list[str] = []

    def __post_init__(self) -> None:
        for row, value in [*self.rows.items(), *self.bars.items()]:
            if not re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", value):
                raise ValueError(f"{self.title}: {row} is {value}, no decimal number")

    @property
    def rows(self) -> dict[str, str]:
        """Name -> published figure."""
        return {str(row): str(value) for row, value in self.given_rows.items()}

    @property
    def bars(self) -> dict[str, str]:
        """Name of a row -> what was to be reached."""
        return {str(row): str(value) for row, value in self.given_bars.items()}


class Study(Struct, forbid_unknown_fields=True):
    """A study that was read. gflop: of the published or the lite models, by what is done."""

    title: str
    about: str = ""
    data: dict[str, DataPart] = {}
    models: dict[str, Variant] = {}
    settings: dict[str, Variant] = {}
    gflop: dict[str, dict[str, float]] = {}
    steps: list[Step] = []
    conditions: dict[str, Condition] = {}
    figures: list[Figures] = []

    def __post_init__(self) -> None:
        """Raises ValueError for names of what is not there."""
        known = {*_NAMES, *self.data, *self.models, *self.settings}
        names = {step.name for step in self.steps}
        for step in self.steps:
            if not set(step.after) <= names:
                raise ValueError(f"step {step.name} comes after one that is not there")
            costs = {cost for each in step.costs.values() for cost in each}
            if not all(costs <= table.keys() for table in self.gflop.values()):
                raise ValueError(f"step {step.name} costs what gflop does not know")
            for word in step.words(lite=True) + step.words(lite=False):
                template = Template(word)
                if not (template.is_valid() and set(template.get_identifiers()) <= known):
                    raise ValueError(f"step {step.name}: {word} names what is not there")
        for figures in self.figures:
            if not set(figures.depends) <= self.conditions.keys():
                raise ValueError(f"{figures.title} depends on a condition that is not there")


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
            f"{printable(name)} is neither a built-in study ({', '.join(study_names())})"
            " nor a YAML file"
        )
    else:
        text = read_text(str(path))
    shown = printable(name)
    content = parse_yaml(text, shown, "write a study as the guide to captune reproduce has it")
    try:
        return msgspec.convert(content, Study)
    except msgspec.ValidationError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{shown} holds no study ({printable(reason)}); compare it with the one that comes"
            " with captune, src/captune/studies/dlcv-hw3.yaml"
        ) from None
