"""Images of a run are opened where this machine's captune wrote it, or where somebody says so."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.hostile.run_folders import CAPTIONS, NAMES, from_elsewhere, good_runs, sign_again
from tests.pages.page_reader import outline
from tests.report_runs import change, classify_run, compare_run, explain_run, images, score_run

from captune.cli import main
from captune.options.scoring import RankOptions
from captune.pages.checking import check_page
from captune.pages.notebook import as_html
from captune.pages.page import write_report
from captune.pages.rank import write_gallery
from captune.pages.sources import PageSettings
from captune.runs import read_run, signature
from captune.scoring.rank import rank_run


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder that no test had before."""
    monkeypatch.setenv("CAPTUNE_CONFIG", str(tmp_path / "config"))
    signature._key.cache_clear()
    return tmp_path / "config"


def pictures(page: Path) -> int:
    return page.read_text().count("data:image/jpeg;base64,") - 1  # and the script's own


def test_a_foreign_root_shows_none_of_the_user_s_images(tmp_path: Path) -> None:
    """A run whose root is / names any file of the machine."""
    home = images(tmp_path / "home", NAMES)
    inside = str(home / "0.jpg").lstrip("/")
    for run in (
        classify_run(tmp_path / "classify", home, [inside, *NAMES[1:]]),
        score_run(tmp_path / "score", home, {inside: "a caption"}),
        compare_run(tmp_path / "compare", home, {inside: "a"}, {inside: "b"}),
        explain_run(tmp_path / "explain", home, {inside: "a"}),
    ):
        from_elsewhere(run, "/")
        page = tmp_path / f"{run.name}.html"
        report = write_report([run], page, PageSettings())
        assert pictures(page) == 0
        assert all(one.uri is None for one in report.album.pictures)
        assert "not shown" in report.hidden
        assert report.hidden in outline(page).words
        assert "--images DIR" in report.hidden
        assert check_page(page).differing == []
        assert "<img" not in as_html(read_run(run))
        assert read_run(run).image_path(inside) is None


def test_a_foreign_run_shows_what_lies_in_its_own_folder(tmp_path: Path) -> None:
    private = images(tmp_path / "private", ["me.jpg"])
    run = classify_run(tmp_path / "run", tmp_path / "run" / "images", [*NAMES, "link.jpg"])
    images(run / "images", NAMES)
    (run / "images" / "link.jpg").symlink_to(private / "me.jpg")
    from_elsewhere(run)
    page = tmp_path / "page.html"
    report = write_report([run], page, PageSettings())
    assert report.album.hidden == 1
    assert {one.name for one in report.album.pictures if one.uri is None} == {"link.jpg"}
    assert "1 image is not shown" in report.hidden


def test_the_user_names_the_folder_of_the_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = images(tmp_path / "here", NAMES)
    run = classify_run(tmp_path / "run", tmp_path / "gone", NAMES)
    from_elsewhere(run)
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["skipped"] == []
    assert told["notes"][0].startswith("6 images are not shown: this captune did not write")
    assert main(["report", str(run), "--out", str(page), "--images", str(here), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == []
    assert pictures(page) >= len(NAMES)
    assert main(["verify", str(page)]) == 0
    assert "<img" in as_html(read_run(run, images=here))


@pytest.mark.parametrize(
    "path", ["../private.jpg", "/etc/passwd", "x/../../private.jpg", "a\0.jpg"]
)
def test_no_path_leaves_the_folder_that_was_named(tmp_path: Path, path: str) -> None:
    here = images(tmp_path / "here", NAMES)
    images(tmp_path, ["private.jpg"])
    run = classify_run(tmp_path / "run", here, NAMES)
    for read in (read_run(run), read_run(run, images=here)):
        assert read.image_path(path) is None
        assert read.image_path("0.jpg") == here / "0.jpg"


@pytest.mark.parametrize("name", ["metrics.json", "records.jsonl"])
def test_who_changes_a_run_does_not_keep_its_signature(tmp_path: Path, name: str) -> None:
    home = images(tmp_path / "home", [*NAMES, "secret.jpg"])
    run = score_run(tmp_path / "run", home, CAPTIONS)
    assert read_run(run).is_own
    (run / name).write_text((run / name).read_text().replace("0.jpg", "secret.jpg") + "\n")
    assert not read_run(run).is_own
    sign_again(run)
    assert read_run(run).is_own
    change(run, "run.json", "root", value="/")
    assert not read_run(run).is_own


@pytest.mark.parametrize("signed", [None, 3, "", "x", "ä" * 64, "0" * 64, [], "\ud83d"])
def test_a_signature_that_is_none(tmp_path: Path, signed: object) -> None:
    run = classify_run(tmp_path / "run", tmp_path, NAMES)
    change(run, "run.json", "signature", value=signed)
    assert not read_run(run).is_own


def test_rank_shows_foreign_images_where_their_folder_is_named(tmp_path: Path) -> None:
    home = images(tmp_path / "home", NAMES)
    run = score_run(tmp_path / "run", home, CAPTIONS)
    assert len(rank_run(RankOptions(run=run)).places) == len(NAMES)
    from_elsewhere(run)
    ranking = rank_run(RankOptions(run=run))
    assert ranking.places == {}
    assert ranking.notes[0].startswith("6 images are not shown: this captune did not write the run")
    page = write_gallery(ranking, tmp_path / "out")[0]["page"]
    assert 'src="data:image/jpeg' not in page.read_text()
    ranking = rank_run(RankOptions(run=run, images=home))
    page = write_gallery(ranking, tmp_path / "out")[0]["page"]
    assert 'src="data:image/jpeg' in page.read_text()


def test_figures_of_a_foreign_run_open_no_image(tmp_path: Path) -> None:
    runs = good_runs(tmp_path)
    for name in ("classify", "explain", "score"):
        from_elsewhere(runs[name])
    from captune.images import Skipped
    from captune.pages.figures import export, figures_of
    from captune.pages.sources import RunSource

    said: list[str] = []
    report = write_report([runs["classify"], runs["score"]], tmp_path / "page.html", PageSettings())
    written = export(report, tmp_path / "figures", say=said.append)
    assert not [path for path in written if "top5" in path.name]
    assert "no figure of it: not opened" in said[0]
    skipped: list[Skipped] = []
    assert list(figures_of(RunSource(1, "maps", read_run(runs["explain"])), skipped)) == []
    assert len(skipped) == len(NAMES)


def test_the_key_is_for_the_user_alone_and_made_once(config: Path, tmp_path: Path) -> None:
    classify_run(tmp_path / "one", tmp_path, NAMES)
    key = config / "signing.key"
    before = key.read_bytes()
    if os.name == "posix":
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    signature._key.cache_clear()
    assert read_run(classify_run(tmp_path / "two", tmp_path, NAMES)).is_own
    assert read_run(tmp_path / "one").is_own
    assert key.read_bytes() == before
    assert [path.name for path in config.iterdir()] == ["signing.key"]


def test_another_key_is_another_machine(config: Path, tmp_path: Path) -> None:
    run = classify_run(tmp_path / "run", tmp_path, NAMES)
    (config / "signing.key").write_text("ab" * 32 + "\n")
    signature._key.cache_clear()
    assert not read_run(run).is_own


@pytest.mark.parametrize("content", ["", "ab" * 31, "xy" * 32, "ab" * 5000])
def test_a_key_that_is_none_is_one_line(
    config: Path, tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    config.mkdir()
    (config / "signing.key").write_text(content)
    with caplog.at_level(logging.INFO, logger="captune"):
        run = classify_run(tmp_path / "run", tmp_path, NAMES)
    assert read_run(run).is_own, "what this process wrote is its own all the same"
    assert caplog.text.count("signing.key cannot be used") == 1
    signature._key.cache_clear()
    assert not read_run(run).is_own


def test_a_configuration_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAPTUNE_CONFIG", str(tmp_path / "file" / "config"))
    signature._key.cache_clear()
    assert read_run(classify_run(tmp_path / "run", tmp_path, NAMES)).is_own


def test_two_processes_that_make_a_key_at_once_have_one(config: Path) -> None:
    words = [
        sys.executable,
        "-c",
        "import sys; from captune.runs.signature import _key, config_folder; sys.stdin.readline();"
        " print(_key(config_folder()).hex())",
    ]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    for process in started:  # all of them are at the same line now
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate()[0].strip() for process in started}
    assert len(keys) == 1
    assert keys == {(config / "signing.key").read_text().strip()}


def test_figures_that_others_drew_are_not_copied(tmp_path: Path) -> None:
    """A link in a foreign run's plots would put any file of the user's among the figures."""
    from captune.pages.figures import export

    run = good_runs(tmp_path)["faithful"]
    private = images(tmp_path / "private", ["me.png"])
    (run / "plots").mkdir()
    (run / "plots" / "leaderboard.png").symlink_to(private / "me.png")
    os.mkfifo(run / "plots" / "curves.png")
    from_elsewhere(run)
    said: list[str] = []
    report = write_report([run], tmp_path / "page.html", PageSettings())
    written = export(report, tmp_path / "figures", say=said.append)
    assert [path.suffix for path in written] == [".csv"] * len(written)
    assert "did not draw its figures" in said[0]
    sign_again(run)
    written = export(report, tmp_path / "figures", say=said.append)
    assert not [path for path in written if path.name == "leaderboard.png"]
    report = write_report([run], tmp_path / "page.html", PageSettings())
    written = export(report, tmp_path / "figures", say=said.append)
    assert [path.name for path in written if path.suffix == ".png"] == ["leaderboard.png"]
