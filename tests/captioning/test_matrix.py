from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from tests.captioning.checks import CHECKS_BY_NAME
from tests.captioning.tester import (
    EVERYTHING,
    PAIRWISE,
    Combination,
    combinations,
)

from captune.captioning.bridge import BRIDGES
from captune.captioning.tuning import TUNING_METHODS


@pytest.mark.parametrize("check", CHECKS_BY_NAME.values(), ids=CHECKS_BY_NAME)
@pytest.mark.parametrize("combination", combinations(), ids=str)
def test_matrix(combination: Combination, check: Callable[..., Any], tmp_path: Path) -> None:
    wanted = signature(check).parameters
    check(combination, **({"folder": tmp_path} if "folder" in wanted else {}))


def test_the_matrix_covers_every_pair() -> None:
    found = combinations()
    families = (*EVERYTHING, *PAIRWISE)
    assert {(c.bridge, c.method) for c in found} == {
        (b, m) for b in BRIDGES.names() for m in TUNING_METHODS.names()
    }
    assert {(c.bridge, c.family) for c in found} == {
        (b, f) for b in BRIDGES.names() for f in families
    }
    assert {(c.method, c.family) for c in found} == {
        (m, f) for m in TUNING_METHODS.names() for f in families
    }
