"""Fields of the options dataclasses: defaults are shared with nobody, numbers are checked."""

from __future__ import annotations

import dataclasses

import pytest

from captune.cli.commands import COMMANDS
from captune.errors import UserError
from captune.options.base import option, require_at_least

JOBS = [name for name, command in COMMANDS.items() if command.options]


@dataclasses.dataclass(kw_only=True)
class Job:
    words: list[str] = option("words", ["a"], repeat=True)
    batch_size: int = option("size", 1, metavar="N")
    top: int = option("how many", ...)


class TestOption:
    def test_a_list_is_each_ones_own(self):
        first, second = Job(top=1), Job(top=1)
        first.words.append("b")
        assert second.words == ["a"]

    def test_without_default_it_must_be_given(self):
        with pytest.raises(TypeError, match="top"):
            Job()

    def test_metadata(self):
        field = {field.name: field for field in dataclasses.fields(Job)}["batch_size"]
        assert dict(field.metadata) == {"help": "size", "metavar": "N"}

    @pytest.mark.parametrize("name", JOBS)
    def test_each_option_of_a_job_is_explained(self, name):
        fields = dataclasses.fields(COMMANDS[name].options_type())
        assert fields
        assert [field.name for field in fields if not field.metadata.get("help")] == []


class TestRequireAtLeast:
    def test_the_least_is_enough(self):
        require_at_least(Job(top=0), top=0, batch_size=1)

    def test_the_first_that_is_below_is_named_as_its_flag(self):
        with pytest.raises(UserError, match=r"^batch-size must be 2 or more, not 0$"):
            require_at_least(Job(top=0, batch_size=0), top=0, batch_size=2)
        with pytest.raises(UserError, match=r"^top must be 1 or more, not 0$"):
            require_at_least(Job(top=0, batch_size=0), top=1, batch_size=2)
