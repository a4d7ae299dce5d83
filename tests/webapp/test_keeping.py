from __future__ import annotations

from pathlib import Path

from benchmarks.app import Client

from captune.options import AppOptions
from captune.runs import read_run
from captune.webapp.server import running


def test_what_is_kept_is_a_run_with_its_images_beside_it(colours: object, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with running(AppOptions(runs=runs)) as app:
        client = Client(app.address, 0)
        fields = ["red, green", "", "lite", False, False]

        def keep(name: str) -> str:
            return " ".join(client.ask("keep-classify", "click", [name, client.images, *fields]))

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
