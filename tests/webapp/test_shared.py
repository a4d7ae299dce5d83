"""An app that other machines reach opens nothing that is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report_runs import caption_run, photos

from captune.errors import UserError
from captune.options import AppOptions
from captune.webapp.jobs import Jobs
from captune.webapp.pages import Pages
from captune.webapp.site import Site
from captune.webapp.uploads import Uploads


def site(tmp_path: Path, host: str) -> Site:
    uploads = Uploads(tmp_path, most_photos=1, most_bytes=1)
    options = AppOptions(runs=tmp_path / "runs", host=host)
    return Site(options, tmp_path, Jobs(), uploads, Pages(tmp_path))


@pytest.mark.parametrize(
    ("host", "is_private"),
    [
        *(("127.0.0.1", True), ("127.3.2.1", True), ("localhost", True), ("::1", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("example.org", False)),
    ],
)
def test_only_loopback_is_private(host: str, is_private: bool) -> None:
    assert AppOptions(host=host).is_private is is_private


def test_a_typed_folder_or_model_is_refused_and_an_offered_run_is_not(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", ["1.jpg"])
    caption_run(tmp_path / "runs" / "mine", root, {"1.jpg": "a dog"})
    shared, private = site(tmp_path, "0.0.0.0"), site(tmp_path, "127.0.0.1")
    assert shared.runs("caption") == ["mine"]
    assert shared.run_folder("mine") == tmp_path / "runs" / "mine"
    for typed in (str(tmp_path), "/etc", "../photos", "mine/../../photos"):
        with pytest.raises(UserError, match="opens no run folder that is typed"):
            shared.run_folder(typed)
    with pytest.raises(UserError, match="opens no model that is typed"):
        shared.model("hf:some/repository")
    assert private.run_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/x", "~", ".hidden", "a\\b", "x" * 90])
def test_a_new_run_lies_in_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="give it a plain name"):
        site(tmp_path, "127.0.0.1").new_run(name)
    assert site(tmp_path, "127.0.0.1").new_run("my run 1.2") == tmp_path / "runs" / "my run 1.2"
