"""A study: what a published piece of work did, on which files, and the figures that came of it.

Those that come with captune lie beside this file, one YAML each; its comments say what it holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.files import printable, read_text
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
    path = Path(name).expanduser()
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
        return _study(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{shown}: holds no study ({printable(reason)}); compare it with the one that comes"
            " with captune, src/captune/studies/dlcv-hw3.yaml"
        ) from None


def _study(content: Any) -> Study:
    if not isinstance(content, Mapping):
        raise TypeError("title and figures were expected")
    known = dict(content)
    return Study(
        title=str(known.pop("title")),
        about=str(known.pop("about", "")),
        data={name: _part(one) for name, one in known.pop("data", {}).items()},
        models=_choices(known.pop("models", {})),
        settings=_choices(known.pop("settings", {})),
        gflop={key: dict(costs) for key, costs in known.pop("gflop", {}).items()},
        steps=[_step(**one) for one in known.pop("steps", [])],
        conditions={name: Condition(**one) for name, one in known.pop("conditions", {}).items()},
        figures=[_figures(**one) for one in known.pop("figures", [])],
        **known,
    )


def _part(one: Mapping[str, Any]) -> Part:
    return Part(one["is"] == "folder", list(one["at"]))


def _choices(content: Mapping[str, Any]) -> dict[str, Choice]:
    return {name: Choice(**one) for name, one in content.items()}


def _step(name: str, does: str, command: str, **more: Any) -> Step:
    return Step(
        name=name,
        does=does,
        words=shlex.split(command),
        published=shlex.split(more.pop("published", "")),
        lite=shlex.split(more.pop("lite", "")),
        after=list(more.pop("after", [])),
        makes=str(more.pop("makes", f"{name}/run.json")),
        costs=dict(more.pop("costs", {})),
        on_page=bool(more.pop("on_page", False)),
        **more,
    )


def _figures(**one: Any) -> Figures:
    for name in ("rows", "bars"):
        one[name] = {str(row): str(value) for row, value in one.get(name, {}).items()}
        for value in one[name].values():
            float(value)
    return Figures(**one)
