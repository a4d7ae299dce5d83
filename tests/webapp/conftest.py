"""Apps in processes of their own, which come of one that has imported all of the app."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.webapp import stuck_app

Start = Callable[[str], tuple[Any, dict[str, str]]]


@pytest.fixture(scope="session")
def apps() -> Any:
    """Processes that have imported all of the app."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["captune.webapp.server", "captune.webapp.tabs", "tests.webapp.stuck_app"]
    )
    return context


@pytest.fixture
def start(apps: Any, tmp_path: Path) -> Iterator[Start]:
    begun = []

    def started(kind: str) -> tuple[Any, dict[str, str]]:
        ours, theirs = apps.Pipe()
        app = apps.Process(target=stuck_app.main, args=(tmp_path, kind, theirs))
        app.start()
        begun.append(app)
        theirs.close()
        found = ours.recv()
        if kind != "idle":
            assert ours.recv() == "at work"
        return app, found

    yield started
    for app in begun:
        app.kill()
        app.join()
