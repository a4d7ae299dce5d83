from __future__ import annotations

import os
from pathlib import Path

from benchmarks.app import load

from captune.options import AppOptions
from captune.webapp.serving import running


def test_nothing_is_lost_and_mistakes_are_sentences(colours: object, tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path / "runs")) as app:
        found = load(app.url, os.getpid(), clients=8, requests=60)
        assert len(list((app.folder / "photos").rglob("*.jpg"))) == 16
    assert found.wrong == []
    assert found.lost == 0
    assert (len(found.seconds), found.sentences) == (60, 6)
