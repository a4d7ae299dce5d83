from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from tests.captioning.checks import CHECKS_BY_NAME
from tests.captioning.tester import Combination, combinations

from captune.captioning.bridge import BRIDGES, Bridge
from captune.captioning.bridge.cross_attention import CrossAttention
from captune.captioning.tuning import TUNING_METHODS, TuningMethod
from captune.errors import UserError
from captune_metrics import plugins


def test_names() -> None:
    assert {"bidirectional", "cross-attention", "prefix"} <= set(BRIDGES.names())
    assert {"adapter", "dora", "ia3", "lora", "none", "prefix"} <= set(TUNING_METHODS.names())


@pytest.mark.parametrize("kind", [*map(BRIDGES.get, BRIDGES.names())])
def test_a_bridge_says_what_it_trains(kind: type[Bridge]) -> None:
    assert issubclass(kind, Bridge)
    _assert_documented(kind)


@pytest.mark.parametrize("kind", [*map(TUNING_METHODS.get, TUNING_METHODS.names())])
def test_a_method_says_what_it_trains(kind: type[TuningMethod]) -> None:
    assert issubclass(kind, TuningMethod)
    _assert_documented(kind)


def _assert_documented(kind: Any) -> None:
    assert "parameters" in (sys.modules[kind.__module__].__doc__ or "")
    assert is_dataclass(kind.Config)
    config = kind.Config()
    for field in fields(config):
        assert isinstance(getattr(config, field.name), int | float | str | bool)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match=r'bridge "q-former".*cross-attention'):
        BRIDGES.get("q-former")
    with pytest.raises(UserError, match=r'method "full".*lora'):
        TUNING_METHODS.get("full")


class TheirBridge(CrossAttention):
    pass


def _the_guide_s_method() -> types.ModuleType:
    """The example of docs/add-a-method.md, as it is written there."""
    guide = Path(__file__).parents[2] / "docs" / "add-a-method.md"
    found = re.search(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    module = types.ModuleType("captune_guide_scale")
    sys.modules[module.__name__] = module
    exec(compile(found[1], str(guide), "exec"), module.__dict__)
    return module


@pytest.fixture
def _plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bridge and a method of someone else's, both called `theirs`."""
    method = _the_guide_s_method()

    def points(*, group: str) -> list[EntryPoint]:
        value = {
            "captune.bridges": f"{__name__}:TheirBridge",
            "captune.tuning": f"{method.__name__}:METHOD",
        }[group]
        return [EntryPoint("theirs", value, group)]

    monkeypatch.setattr("importlib.metadata.entry_points", points)
    plugins.plugins_of.cache_clear()
    yield
    plugins.plugins_of.cache_clear()
    del sys.modules[method.__name__]


@pytest.mark.usefixtures("_plugins")
def test_third_parties_come_by_entry_point() -> None:
    assert "theirs" in BRIDGES.names()
    assert BRIDGES.get("theirs") is TheirBridge
    assert "theirs" in TUNING_METHODS.names()
    assert TUNING_METHODS.get("theirs").__name__ == "Scale"
    assert Combination("theirs", "theirs", "gpt2") in combinations()


@pytest.mark.usefixtures("_plugins")
@pytest.mark.parametrize("check", CHECKS_BY_NAME.values(), ids=CHECKS_BY_NAME)
def test_the_guide_s_method_passes(check: Callable[..., Any], tmp_path: Path) -> None:
    wanted = signature(check).parameters
    folder = {"folder": tmp_path} if "folder" in wanted else {}
    check(Combination("cross-attention", "theirs", "llama"), **folder)
