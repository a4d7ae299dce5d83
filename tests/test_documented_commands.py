"""Every command that the guides show is one that captune takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from captune.cli import build_parser
from captune.cli.commands import COMMANDS, help_texts

ROOT = Path(__file__).parents[1]
GUIDES = ["README.md", "CONTRIBUTING.md", "packages/captune-lite/README.md"]
GUIDES += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md"))
VARIABLE = re.compile(r'^(\w+)="([^"]*)"$', re.MULTILINE)
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of fenced blocks that begin with `captune`, joined where they go on."""
    blocks = "".join(FENCE.findall(text)).replace("\\\n", " ")
    for name, value in VARIABLE.findall(blocks):
        blocks = blocks.replace(f"${name}", value)
    return [line for line in blocks.splitlines() if line.startswith("captune ")]


def words(command: str) -> list[str]:
    """As a shell would split it, up to a comment; patterns stay as they are."""
    return shlex.split(command, comments=True)[1:]


@pytest.mark.parametrize("guide", GUIDES)
def test_captune_takes_what_a_guide_shows(guide: str) -> None:
    parser = build_parser()
    for command in commands((ROOT / guide).read_text(encoding="utf-8")):
        parser.parse_args(words(command))


@pytest.mark.parametrize("name", COMMANDS)
def test_captune_takes_its_examples(name: str) -> None:
    examples = help_texts()[name]["examples"]
    lines = [line.strip() for line in re.sub(r"\\\n +", "", examples).splitlines()]
    shown = [line.rpartition("| ")[2] for line in lines]  # find ... | captune classify -
    shown = [line for line in shown if line.startswith("captune ")]
    assert shown
    for command in shown:
        build_parser().parse_args(words(re.sub(r"  +.*", "", command)))  # what follows explains it
