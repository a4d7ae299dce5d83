from __future__ import annotations

import os
from pathlib import Path

from benchmarks.app import Client, load

from captune.options.pages import AppOptions
from captune.webapp.server import running


def test_nothing_is_lost_and_mistakes_are_sentences(colours: object, tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path / "runs")) as app:
        found = load(app.address, os.getpid(), clients=8, requests=60)
        assert len(list((app.folder / "images").rglob("*.jpg"))) == 16
    assert found.wrong == []
    assert found.lost == 0
    assert (len(found.seconds), found.sentences) == (60, 6)


def test_the_examples_are_the_images_of_the_demonstration(tmp_path: Path) -> None:
    with running(AppOptions(runs=tmp_path / "runs")) as app:
        said = " ".join(Client(app.address, 0).ask("examples-classify", "click", [""]))
        assert "12 images" in said
        assert "rocket.jpg" in said
        assert len(list((app.folder / "images").rglob("*.*g"))) == 12 + 2
        # nothing but the images themselves is left of it
        assert {path.name for path in app.folder.iterdir()} == {"gradio", "images", "pages"}
