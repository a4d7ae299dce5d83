"""What every test has: its own cache, no network, and `needs(...)` that skips with a reason."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # as many processes as cores: one thread each, before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in ("COLUMNS", "LINES"):  # which xdist sets: 80 columns
        os.environ.pop(name, None)

# the tests start captune a thousand times: compiled once
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from tests import browser

SHARED = Path(os.environ.get("CAPTUNE_SHARED", Path(__file__).parents[2] / "shared"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_lite() -> bool:
    from captune.models.catalogue import is_installed

    return is_installed("lite")


def _has_decoder() -> bool:
    from captune.models.lite import assets

    return all(asset.is_cached() for asset in assets.ASSETS["lite-decoder"])


def _has_shtab() -> bool:
    return find_spec("shtab") is not None


def _has_docs() -> bool:
    return all(find_spec(name) for name in ("sphinx", "myst_parser", "furo"))


_PRESENT: dict[str, tuple[Callable[[], bool], str]] = {
    "linux": (
        lambda: sys.platform == "linux",
        "Linux alone has /proc and names that are not UTF-8",
    ),
    "java": (lambda: shutil.which("java") is not None, "Java is not installed"),
    "chromium": (browser.is_present, "Chromium, its driver or selenium is not installed"),
    "axe": (lambda: browser.AXE.is_file(), "axe-core is not there (make test fetches it with npm)"),
    "shared": (lambda: (SHARED / "data").is_dir(), "the folder of real images is not here"),
    "docs": (_has_docs, "the extra docs is not installed (pip install 'captune[docs]')"),
    "jupyter": (
        lambda: all(find_spec(name) for name in ("nbclient", "ipykernel")),
        "nbclient or ipykernel is not installed",
    ),
    "shtab": (_has_shtab, "the extra completion is not installed"),
    "datasets": (
        lambda: find_spec("datasets") is not None,
        "the extra datasets is not installed (pip install 'captune[datasets]')",
    ),
    "s3": (
        lambda: all(find_spec(name) for name in ("s3fs", "moto", "flask")),
        "s3fs or moto's server is not installed (pip install 's3fs' 'moto[s3,server]')",
    ),
    "ray": (
        lambda: find_spec("ray") is not None,
        "the extra ray is not installed (pip install 'captune[ray]')",
    ),
    "quantised": (
        lambda: find_spec("bitsandbytes") is not None,
        "the extra quantised is not installed (pip install 'captune[quantised]')",
    ),
    "gpu": (_has_gpu, "no GPU"),
    "hatchling": (
        lambda: find_spec("hatchling") is not None,
        "hatchling, which builds the packages, is not installed (make setup does it)",
    ),
    "lite": (_has_lite, "the embedded weights are not fetched (captune models fetch lite)"),
    "decoder": (
        _has_decoder,
        "the embedded decoder is not fetched (captune models fetch lite --decoder)",
    ),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = set(filter(None, os.environ.get("CAPTUNE_REQUIRE", "").split(",")))
    for mark in item.iter_markers("needs"):
        for what in mark.args:
            present, reason = _PRESENT[what]
            if present():
                continue
            if what in required:
                pytest.fail(f"{reason}, but CAPTUNE_REQUIRE asks for it", pytrace=False)
            pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def own_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One signing key for all tests, and never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAPTUNE_CONFIG", str(tmp_path_factory.mktemp("config")))
        yield


@pytest.fixture(autouse=True)
def own_cache(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Tests write into a cache of their own; `needs("lite")` sees the fetched weights in it."""
    from captune.storage import cache_folder, set_offline

    fetched = cache_folder() / "assets"
    own = tmp_path / "cache"
    if any("lite" in mark.args for mark in request.node.iter_markers("needs")):
        own.mkdir()
        (own / "assets").symlink_to(fetched, target_is_directory=True)
    monkeypatch.setenv("CAPTUNE_CACHE", str(own))
    monkeypatch.setenv("CAPTUNE_OFFLINE", "1")
    yield
    # a command that ran in this process set both for the whole of it
    set_offline(False)
    logger = logging.getLogger("captune")
    logger.handlers.clear()
    logger.propagate = True


@pytest.fixture
def shared() -> Path:
    """The folder of real images; use with `@pytest.mark.needs("shared")`."""
    return SHARED


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> object:
    """Every command loads the scripted colour model, which is returned."""
    from tests.colour_model import use_colour_model

    return use_colour_model(monkeypatch)


@pytest.fixture
def colour_images(tmp_path: Path) -> Path:
    """A folder of six images, `<class id>_<n>.png`: 7 is red, 8 is green, 9 is blue."""
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for class_id, colour in (("7", (220, 20, 30)), ("8", (10, 200, 40)), ("9", (20, 10, 210))):
        for n in range(2):
            Image.new("RGB", (40 + n, 30), colour).save(folder / f"{class_id}_{n}.png")
    return folder


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family of transformers -> the folder of its random twin, written once a module."""
    from tests.captioning.twins import write_twin  # it loads transformers

    folder = tmp_path_factory.mktemp("twins")
    return cache(lambda family: write_twin(family, folder / family))
