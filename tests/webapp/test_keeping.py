from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.app import Client

from captune.options.pages import AppOptions
from captune.runs import read_run
from captune.webapp import site
from captune.webapp.server import Running, running

FIELDS = ["", "lite", False, False]


def keeper(app: Running) -> Callable[..., str]:
    """A browser that keeps what it found under a name, and what it is told then."""
    client = Client(app.address, 0)

    def keep(name: str, labels: str = "red, green") -> str:
        data = [name, client.images, labels, *FIELDS]
        return " ".join(client.ask("keep-classify", "click", data))

    return keep


def test_what_is_kept_is_a_run_with_its_images_beside_it(colours: object, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with running(AppOptions(runs=runs)) as app:
        keep = keeper(app)
        assert "the tab Report offers it" in keep("mine")
        assert "is there already; give the run another name" in keep("mine")
        assert "give it a plain name" in keep("../mine")
        assert app.context.runs("classify") == ["mine"]
    # the app is over, and its private folder gone
    run = read_run(runs / "mine")
    assert run.about["command"] == [
        *("captune", "classify", str(runs / "mine-images"), "--labels", "red,green"),
        *("--out", str(runs / "mine")),
    ]
    assert [(run.root / record["path"]).is_file() for record in run.records()] == [True, True]
    assert (runs / "mine" / "report.html").is_file()


def test_a_shared_app_holds_so_many_runs_and_bytes_and_no_more(
    colours: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    written = "the tab Report offers it"
    with running(AppOptions(runs=runs, shared=True, name=["127.0.0.1"])) as app:
        keep = keeper(app)
        assert written in keep("one")
        with monkeypatch.context() as patch:
            patch.setattr(site, "MOST_WRITTEN", 1)
            assert "no more runs fit: a shared app holds 1, and " in keep("two")
        with monkeypatch.context() as patch:
            patch.setattr(site, "MOST_WRITTEN_BYTES", 100)
            assert "no more runs fit: a shared app holds 200, and 0 MB of them" in keep("three")
        assert written in keep("four")
    assert {path.name for path in runs.iterdir()} == {*("one", "one-images", "four", "four-images")}
    # for its owner alone there is no such limit
    monkeypatch.setattr(site, "MOST_WRITTEN", 0)
    with running(AppOptions(runs=runs)) as app:
        assert written in keeper(app)("five")


def test_labels_that_spell_a_file_are_labels(colours: object, tmp_path: Path) -> None:
    """In a shared app nothing that is typed is opened."""
    secret = tmp_path / "red,green.txt"
    secret.write_text("secret\nblue\n")
    for name in ("red", "red,green.txt,"):
        (tmp_path / name).write_text("secret\nblue\n")
    runs = tmp_path / "runs"
    with running(AppOptions(runs=runs, shared=True, name=["127.0.0.1"])) as app:
        keep = keeper(app)
        for name, labels in (("one", str(tmp_path / "red")), ("two", str(secret))):
            assert "the tab Report offers it" in keep(name, labels)
            (first, *_) = read_run(runs / name).records()
            found = {answer["name"] for answer in first["top"]}
            assert found == {label.strip() for label in labels.split(",")}
