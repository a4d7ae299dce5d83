from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.report_runs import classify_run, images

from captune.cli import main
from captune.runs.writer import claim

NAMES = [f"{n}.jpg" for n in range(4)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return classify_run(tmp_path / "run", images(tmp_path / "images", NAMES), NAMES)


def test_the_page_is_written_and_the_answer_printed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(page), "--title", "For <you>"]) == 0
    out = capsys.readouterr().out
    assert "lite recognises 3 of 4 images" in out
    assert f"page: {page}" in out
    assert "<h1>For &lt;you&gt;</h1>" in page.read_text()
    assert main(["verify", str(page)]) == 0
    assert "figures of 1 run derived again: the page holds" in capsys.readouterr().out


def test_json_is_one_object(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images" / "1.jpg").write_text("no image")
    page = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(page), "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert (found["command"], found["run"], found["images"]) == ("report", str(run), 4)
    assert [Path(item["path"]).name for item in found["skipped"]] == ["1.jpg"]
    assert found["answers"][0].startswith("lite recognises 3 of 4 images")
    assert found["written"] == {"page": str(page)}
    assert found["bytes"] == page.stat().st_size
    page.write_text(page.read_text().replace(">75.0 %<", ">85.0 %<"))
    assert main(["verify", str(page), "--json"]) == 2
    checked = json.loads(capsys.readouterr().out)
    assert (checked["command"], checked["page"]) == ("verify", str(page))
    assert not checked["holds"]
    assert "/prompts/0/accuracy" in checked["differing"][0]


def test_a_stopped_run_is_named_and_the_rest_is_reported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = tmp_path / "stopped" / "lora"
    stopped.mkdir(parents=True)
    (stopped / "tuning.json").write_text("{}")
    page = tmp_path / "report.html"
    assert main(["report", str(run), str(stopped.parent), "--out", str(page)]) == 0
    captured = capsys.readouterr()
    assert "lite recognises 3 of 4 images" in captured.out
    assert f"{stopped.parent} was stopped, and is left out; run its command" in captured.err
    assert main(["verify", str(page)]) == 0
    capsys.readouterr()
    assert main(["report", str(stopped.parent), "--out", str(page)]) == 2
    assert "was stopped" in capsys.readouterr().err
    with claim(stopped.parent, "tune", goes_on=True):
        assert main(["report", str(run), str(stopped.parent), "--out", str(page)]) == 0
        told = f"{stopped.parent} is running now, and is left out; report it when it is done\n"
        assert capsys.readouterr().err.startswith(told)
        assert main(["verify", str(stopped.parent)]) == 2
        assert "is a run that is running now; wait for it\n" in capsys.readouterr().err
    assert main(["report", str(stopped.parent), "--out", str(page)]) == 2
    assert "was stopped" in capsys.readouterr().err


def test_a_page_that_does_not_hold_ends_with_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    main(["report", str(run), "--out", str(page)])
    page.write_text(page.read_text().replace(">75.0 %<", ">85.0 %<"))
    capsys.readouterr()
    assert main(["verify", str(page)]) == 2
    captured = capsys.readouterr()
    assert 'the page shows "85.0 %", the run gives "75.0 %"' in captured.out
    assert "does not hold" in captured.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{run}"], "no page to write; name one with --out"),
        (["--out", "{tmp}/p.html"], "no run to report"),
        (["nowhere", "--out", "{tmp}/p.html"], "nowhere does not exist"),
        (["{run}", "--out", "{tmp}"], "is a folder"),
        (["{run}", "--out", "{tmp}/p.html", "--limit", "0"], "limit must be 1 or more, not 0"),
    ],
)
def test_mistakes_are_one_sentence(
    run: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", *(word.format(run=run, tmp=tmp_path) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "p.html").exists()


def test_a_page_is_html(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.pdf")]) == 2
    assert "r.pdf writes HTML; name it *.html" in capsys.readouterr().err
    assert not (tmp_path / "r.pdf").exists()
