from __future__ import annotations

import sys
from pathlib import Path

import pytest

from captune.captioning.captioner import FOLDER, lite_captioner
from captune.errors import MissingExtra, UserError
from captune.models.lite.assets import PACKAGE


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in the place of the real one; to import it is an error."""
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    folder = tmp_path / "site" / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    return folder


def test_the_captioner_is_found_without_importing_its_package(package: Path) -> None:
    with pytest.raises(UserError, match="is not whole"):
        lite_captioner()
    (package / FOLDER).mkdir()
    (package / FOLDER / "config.json").touch()
    with pytest.raises(UserError, match="is not whole"):
        lite_captioner()
    (package / FOLDER / "model.safetensors").touch()
    assert lite_captioner() == package / FOLDER
    assert PACKAGE not in sys.modules


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # Python's own mark for what cannot be imported
    with pytest.raises(MissingExtra, match=r"pip install 'captune\[lite\]'"):
        lite_captioner()
