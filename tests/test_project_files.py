"""What a newcomer and GitHub look for beside the code: it parses, and says what pyproject says."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import captune

ROOT = Path(__file__).parents[1]
YAML_FILES = [
    "CITATION.cff",
    ".pre-commit-config.yaml",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / ".github").rglob("*.yml"))),
]

# one form that several modules have: jobs and commands, sections of a page, model libraries, parts
# found by name, and what another package calls as we do
FORMS = {
    *("run", "main", "records_of", "metrics_of", "answer", "section", "tables"),
    *("load", "fetch", "patches_of", "METHOD", "BRIDGE", "cider", "logger"),
    *("TUNING_METHODS", "BRIDGES", "MAP_METHODS"),  # registries, typed where their parts are
}


def read(name: str) -> Any:
    """The YAML file `name` of the repository's root."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def pyproject() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", YAML_FILES)
def test_it_is_yaml(name: str) -> None:
    assert isinstance(read(name), dict)


def test_the_citation_is_of_this_version() -> None:
    citation = read("CITATION.cff")
    assert str(citation["version"]) == captune.__version__
    assert citation["license"] == pyproject()["project"]["license"]


def test_workflows_try_the_oldest_and_the_newest_python_on_three_systems() -> None:
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(
        int(line.removeprefix(prefix))
        for line in pyproject()["project"]["classifiers"]
        if line.startswith(prefix)
    )
    ends = [f"3.{minors[0]}", f"3.{minors[-1]}"]
    for name, job in (("tests", "test"), ("packages", "install")):
        matrix = read(f".github/workflows/{name}.yml")["jobs"][job]["strategy"]["matrix"]
        assert matrix["python"] == ends
        assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]


@pytest.mark.parametrize("name", ["tests", "packages"])
def test_a_workflow_may_only_read_and_ends(name: str) -> None:
    workflow = read(f".github/workflows/{name}.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job


def test_a_bug_report_asks_for_versions() -> None:
    fields = {field["id"]: field for field in read(".github/ISSUE_TEMPLATE/bug.yml")["body"]}
    assert "captune env" in fields["environment"]["attributes"]["label"]
    assert fields["environment"]["validations"]["required"]


@pytest.mark.parametrize("name", ["demo", "dev"])
def test_a_lock_file_has_hashes_and_no_address(name: str) -> None:
    """So a registry, a mirror or whoever stands between cannot put in another file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    assert "//" not in text
    packages = text.replace("\\\n", " ").splitlines()
    assert len(packages) > 80
    assert all("==" in line and "--hash=sha256:" in line for line in packages)


def test_what_the_project_depends_on_is_locked() -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    metrics = tomllib.loads((ROOT / "packages/captune-metrics/pyproject.toml").read_text("utf-8"))
    own = [*project["dependencies"], *metrics["project"]["dependencies"]]
    own = [one for one in own if not one.startswith("captune-metrics")]  # it is in the checkout
    for name, wanted in (("demo", own), ("dev", [*own, *extras["app"], *extras["dev"][1:]])):
        text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
        locked = {line.partition("==")[0] for line in text.splitlines() if "==" in line}
        names = {re.split(r"[<>=\[ ]", one)[0].lower().replace("_", "-") for one in wanted}
        assert names <= locked


def test_what_comes_from_npm_is_locked() -> None:
    text = (ROOT / "requirements" / "package-lock.json").read_text(encoding="utf-8")
    assert "//" not in text
    packages = json.loads(text)["packages"]
    assert all("integrity" in one for name, one in packages.items() if name)


def test_no_sentence_has_a_colon_before_its_verb() -> None:
    """`runs/three is not a folder`, not `runs/three: is no folder`."""
    verb = re.compile(
        r"\}: (is|are|was|has|holds|does|cannot|must|needs|names|takes|lacks|writes|reads) "
    )
    for place in ("src", "packages/captune-metrics/src"):
        for path in (ROOT / place).rglob("*.py"):
            assert not verb.search(path.read_text(encoding="utf-8")), path


def public_names(path: Path) -> Iterator[str]:
    """Of classes, functions and constants at the top of a module; no type variables."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_") and len(name) > 1)


def test_a_public_name_means_one_thing() -> None:
    homes = defaultdict(set)
    for package in ("src/captune", "packages/captune-metrics/src/captune_metrics"):
        for path in (ROOT / package).rglob("*.py"):
            for name in public_names(path):
                homes[name].add(str(path.relative_to(ROOT)))
    twice = {name: sorted(where) for name, where in homes.items() if len(where) > 1}
    assert {name: where for name, where in twice.items() if name not in FORMS} == {}
    assert twice.keys() == FORMS  # none that has gone
