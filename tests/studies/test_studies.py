from __future__ import annotations

from pathlib import Path
from string import Template

import pytest
import yaml

from captune.cli import build_parser
from captune.errors import UserError
from captune.studies import read_study, study_names


@pytest.mark.parametrize("name", study_names())
def test_a_study_that_ships_is_whole(name: str) -> None:
    study = read_study(name)
    known = {"out", "study", "title", "best", "first", "last", "on_page"}
    known |= study.data.keys() | study.models.keys() | study.settings.keys()
    before: set[str] = set()
    for step in study.steps:
        for lite in (False, True):
            words = step.words(lite=lite)
            for word in words:
                assert set(Template(word).get_identifiers()) <= known
            # what it types is what the command takes
            filled = [Template(w).safe_substitute({"epochs": "1", "limit": "0"}) for w in words]
            build_parser(words[0]).parse_args(filled)
        assert set(step.after) <= before
        before.add(step.name)
        for costs in step.costs.values():
            for table in study.gflop.values():
                assert set(costs) <= table.keys()
    for figures in study.figures:
        assert set(figures.depends) <= study.conditions.keys()
        assert figures.shown in ("share", "score")


def test_the_published_figures_are_those_of_the_report() -> None:
    rows = [list(map(float, figures.rows.values())) for figures in read_study("dlcv-hw3").figures]
    assert rows == [
        [0.68, 0.70, 0.46],
        [0.9215, 0.9265, 0.6283],
        [0.7388, 0.7368, 0.6798],
        [1.005, 0.449],
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is not valid YAML at line"),
        ("just words", "holds no study"),
        ("about: no title", "holds no study"),
        (yaml.safe_dump({"title": "t", "steps": [{"name": "x"}]}), "holds no study"),
        (yaml.safe_dump({"title": "t", "more": 1}), "holds no study"),
        (
            yaml.safe_dump(
                {"title": "t", "figures": [{"title": "f", "shown": "score", "run": "r",
                                            "rows": {"a": "much"}}]}
            ),
            "holds no study",
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=said) as caught:
        read_study(str(path))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_told_those_there_are() -> None:
    with pytest.raises(UserError, match=r"neither a built-in study \(dlcv-hw3"):
        read_study("dlcv-hw4")
    with pytest.raises(UserError, match="cannot be read"):
        read_study("nowhere/mine.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shown": "colour"}, "shown"),
        ({"depends": ["moon"]}, "depends on a condition that is not there"),
        ({"rows": {"a": float("inf")}}, "no decimal number"),
        ({"rows": {"a": "1e5"}}, "no decimal number"),
        ({"at": 3}, "at"),
        ({"at": [[1]]}, "at"),
        ({"more": 1}, "more"),
    ],
)
def test_figures_that_do_not_fit_are_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    """A page would have blamed the first run of it."""
    figures = {"title": "f", "shown": "score", "run": "r", "rows": {"a": 0.5}, **change}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"title": "t", "figures": [figures]}))
    with pytest.raises(UserError, match="holds no study") as caught:
        read_study(str(tmp_path / "mine.yaml"))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"command": "score $moon"}, "names what is not there"),
        ({"command": "score $"}, "names what is not there"),
        ({"command": "score 'x"}, "No closing quotation"),
        ({"after": ["moon"]}, "comes after one that is not there"),
        ({"costs": {"a": ["moon"]}}, "gflop does not know"),
    ],
)
def test_steps_that_do_not_fit_are_refused(
    step: dict[str, object], said: str, tmp_path: Path
) -> None:
    steps = [{"name": "s", "does": "it", "command": "score $out", **step}]
    content = {"title": "t", "steps": steps, "gflop": {"lite": {"learn": 1}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="holds no study") as caught:
        read_study(str(tmp_path / "mine.yaml"))
    assert said in str(caught.value)
