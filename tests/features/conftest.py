"""A cache in a folder of its own, and what captune warned of."""

import logging

import pytest

from captune.features.cache import FeatureCache


@pytest.fixture
def cache(tmp_path):
    with FeatureCache(tmp_path / "features") as opened:
        yield opened


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What captune warned of; the command line's handler may have switched propagation off."""
    monkeypatch.setattr(logging.getLogger("captune"), "propagate", True)
    caplog.set_level(logging.WARNING, "captune")
    return caplog
