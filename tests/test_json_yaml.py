"""YAML of anybody's: a few lines of references may stand for billions of values."""

from __future__ import annotations

import time

import pytest

from captune.errors import UserError
from captune.json_yaml import parse_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "line 5 (more than 100,000 values)"),
        ("&a [*a]", "something that holds itself"),
        ("a: &a {b: {c: *a}}", "something that holds itself"),
        ("[" * 100_000, "nested more than 32 deep"),
        ("day: 2001-99-99", "a value that nothing can hold"),
        ("n: " + "9" * 5000, "a value that nothing can hold"),
        ("a: *b", "undefined alias 'b'"),
        ("!!python/object/apply:os.system ['ls']", "could not determine a constructor"),
        ("? [a]\n: b", "found unhashable key"),
        ("x: " + "y" * 2**20, "is over 1 MiB"),
        ("a: b: c", "at line 1"),
    ],
)
def test_what_is_none_is_one_sentence(text: str, told: str) -> None:
    start = time.monotonic()
    with pytest.raises(UserError) as refusal:
        parse_yaml(text, "FILE", "give another")
    assert str(refusal.value).startswith("FILE is ")
    assert told in str(refusal.value)
    assert str(refusal.value).endswith("; give another")
    assert "\n" not in str(refusal.value)
    assert time.monotonic() - start < 10


def test_a_few_references_are_read() -> None:
    """The study that comes with captune has some."""
    found = parse_yaml("a: &a [1, 2]\nb: *a\nc: {d: *a}", "FILE", "")
    assert found == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
