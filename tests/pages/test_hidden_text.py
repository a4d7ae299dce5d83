"""Names, captions and labels that turn around or hide the words beside them, on every page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.browser import browser, complaints
from tests.hostile.run_folders import sign_again
from tests.report_runs import (
    caption_run,
    classify_run,
    compare_run,
    explain_run,
    faithful_run,
    images,
    score_run,
    tune_run,
)

from captune.options.scoring import RankOptions
from captune.pages.figures import figures_of, save_as
from captune.pages.notebook import as_html
from captune.pages.page import write_report
from captune.pages.rank import write_gallery
from captune.pages.sources import PageSettings, RunSource
from captune.runs import read_run
from captune.scoring.rank import rank_run
from captune.webapp.views import choices, refusal

TURNS = "a\u202egnp.live\u2066\u200f\u061c\u200b\u00ad\U000e0041"
NAMES = [f"{n}{TURNS}.jpg" for n in range(4)]
CAPTIONS = {name: f"a {TURNS} dog שלום {n}" for n, name in enumerate(NAMES)}
HIDES = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]"
)


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    root = images(tmp_path / "images", NAMES)
    other = dict.fromkeys(NAMES, f"another {TURNS}")
    made = {
        "classify": classify_run(tmp_path / "classify", root, NAMES),
        "tune": tune_run(tmp_path / "tune", root, {"adapter": CAPTIONS, "lora": other}),
        "caption": caption_run(tmp_path / "captions", root, CAPTIONS),
        "score": score_run(tmp_path / "score", root, CAPTIONS, candidates=TURNS),
        "compare": compare_run(tmp_path / "compare", root, CAPTIONS, other),
        "explain": explain_run(tmp_path / "explain", root, CAPTIONS),
        "faithful": faithful_run(tmp_path / "faithful", root),
    }
    for path in (made["classify"] / name for name in ("records.jsonl", "metrics.json")):
        path.write_text(path.read_text().replace("green", json.dumps(TURNS)[1:-1]))
    sign_again(made["classify"])
    return made


def read_by_people(page: Path) -> str:
    """The page with what its scripts show; its CSV and where it came from are for machines."""
    data = r'<script type="application/json" (?:class="csv"|id="about")>.*?</script>'
    text = re.sub(data, "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    items = r'(?<=<script type="application/json" class="items">).*?(?=</script>)'

    def shown(match: re.Match[str]) -> str:
        return json.dumps(json.loads(match[0]), ensure_ascii=False)

    return re.sub(items, shown, text, flags=re.DOTALL)


def test_no_page_holds_what_turns_or_hides(runs: dict[str, Path], tmp_path: Path) -> None:
    pages = [tmp_path / "report.html", tmp_path / "classify.html"]
    write_report([*runs.values()], pages[0], PageSettings(title=f"Of {TURNS}"))
    write_report([runs["classify"]], pages[1], PageSettings())
    ranking = rank_run(RankOptions(run=runs["score"]))
    pages.append(write_gallery(ranking, tmp_path / "gallery")[0]["page"])
    for page in pages:
        text = read_by_people(page)
        assert r"\u202egnp.live\u2066\u200f\u061c\u200b\xad\U000e0041" in text.replace(r"\\", "\\")
        found = HIDES.search(text)
        assert found is None, ascii(text[found.start() - 90 :][:180])
    assert r"<title>Of a\u202egnp" in pages[0].read_text()


def test_no_notebook_does(runs: dict[str, Path]) -> None:
    for run in runs.values():
        assert HIDES.search(as_html(read_run(run))) is None


def test_no_figure_does(runs: dict[str, Path], tmp_path: Path) -> None:
    source = RunSource(1, "classify", read_run(runs["classify"]))
    drawn = [save_as(figure, tmp_path / name, [".svg"]) for name, figure in figures_of(source, [])]
    texts = [path.read_text() for (path,) in drawn]
    assert texts
    for text in texts:
        assert HIDES.search(text) is None


@pytest.mark.needs("chromium")
def test_a_browser_shows_escapes(runs: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report([*runs.values()], page, PageSettings(title=f"Of {TURNS}"))
    with browser(tmp_path) as driver:
        driver.get(page.as_uri())
        shown = driver.execute_script("return document.title + document.body.innerText")
        isolated = "return getComputedStyle(document.querySelector('.bars .name')).unicodeBidi"
        assert driver.execute_script(isolated) in ("isolate", "isolate-override")
        assert complaints(driver) == []
    assert r"a\u202egnp.live" in shown
    assert HIDES.search(shown) is None


def test_a_list_of_the_app_shows_escapes() -> None:
    assert choices([f"run{TURNS}"])[0][0].startswith(r"runa\u202egnp")
    assert choices(["lite"]) == [("lite", "lite")]


def test_the_app_shows_escapes() -> None:
    assert HIDES.search(refusal(f"{TURNS} is no image")) is None
