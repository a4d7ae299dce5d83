"""Things by name, out of a package's files and entry points."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.registry import Registry
from captune_metrics import plugins

PACKAGE = "captune_animals"


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[str]]:
    """`cat` and `guinea-pig` as files, `dog` as an entry point, and a file that they share."""
    for name in ("cat", "guinea_pig", "_fur"):
        (tmp_path / f"{name}.py").write_text(f"ANIMAL = {name!r}\n")
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, PACKAGE, package)
    point = EntryPoint("dog", f"{PACKAGE}.cat:ANIMAL.upper", "animals")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [point])
    plugins.plugins_of.cache_clear()
    yield Registry(PACKAGE, package.__path__, attribute="ANIMAL", group="animals", noun="animal")
    plugins.plugins_of.cache_clear()
    for name in ("cat", "guinea_pig"):
        sys.modules.pop(f"{PACKAGE}.{name}", None)


def test_names_without_importing(animals: Registry[str]) -> None:
    assert animals.names() == ["cat", "dog", "guinea-pig"]
    assert not [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]


def test_a_file_and_an_entry_point(animals: Registry[str]) -> None:
    assert animals.get("guinea-pig") == "guinea_pig"
    assert animals.get("dog")() == "CAT"  # type: ignore[operator]


@pytest.mark.parametrize("name", ["cow", "_fur", "-fur", ""])
def test_an_unknown_name_is_one_sentence(animals: Registry[str], name: str) -> None:
    wanted = f'^animal "{name}" is not known; choose among cat, dog, guinea-pig$'
    with pytest.raises(UserError, match=wanted):
        animals.get(name)
