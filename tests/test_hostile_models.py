"""A part of `python -m tests.hostile_models`: a model from elsewhere is read, or one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from captune.cli import main
from tests.hostile_models import HOSTILE, Hostile, put_before
from tests.hostile_models.made import CAPTIONER, CONFIG, words_of, write_models

# what would hang, or fill the memory, where it is not refused: in processes of their own
_APART = (
    "captioner/config.json is a pipe",
    "decoder/tokenizer_config.json is /dev/zero",
    "captioner/model.safetensors of 64 GB of nothing",
    "captioner: bridge.config.width = 1000000000",
    "decoder: num_hidden_layers = 1000000000",
    "tokenizer: pre_tokenizer #0",
    "timm: model_args = {'depth': 1000000000}",
)
_EVERY = 13
_DANGEROUS = ("pipe", "/dev/zero", " GB", "0000000")
CASES = {case.name: case for case in HOSTILE}
HERE = [
    case
    for case in HOSTILE
    if case.name.startswith(CAPTIONER) and not any(word in case.name for word in _DANGEROUS)
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models") / "template")


def test_every_folder_has_a_name_of_its_own() -> None:
    assert len(CASES) == len(HOSTILE) >= 100


@pytest.mark.parametrize("name", _APART)
def test_a_folder_that_would_take_for_ever(name: str, template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    outcome = put_before(CASES[name], template, folder)
    assert outcome.is_as_it_must_be, outcome


@pytest.mark.parametrize("case", HERE[::_EVERY], ids=str)
def test_a_captioner_from_elsewhere(
    case: Hostile, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "models"
    shutil.copytree(template, root)
    recipe = root / CAPTIONER / CONFIG
    recipe.write_text(recipe.read_text().replace(str(template), str(root)))
    case.change(root)
    capsys.readouterr()
    status = main(words_of(case.command, root))
    said = capsys.readouterr().err
    assert status == (2 if case.refused else 0), said
    if case.refused:
        assert said.count("\n") == 1
        assert any(word in said for word in case.refused.split("|")), said
