"""A kind of run from outside takes its types, its section and one row of `runs.kinds`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest
from tests.report_runs import images

from captune.pages.checking import check_page
from captune.pages.notebook import as_html
from captune.pages.page import write_report
from captune.pages.sources import PageSettings
from captune.runs import DamagedRun, RunWriter, read_run
from captune.runs.kinds import KINDS

# what the package of somebody else has: three files
PACKAGE = {
    "__init__.py": """
        '''How bright images are.'''
        """,
    "types.py": """
        from captune.runs.kinds import Kind
        from captune.runs.metrics import Metrics
        from captune.json_yaml import Share
        from captune.runs.records import Record

        class BrightnessRecord(Record, frozen=True):
            path: str
            brightness: Share

        class BrightnessMetrics(Metrics, frozen=True):
            mean: Share

        KIND = Kind(BrightnessRecord, BrightnessMetrics, "brightness", "scratch_kind.section")
        """,
    "section.py": """
        from captune.pages.blocks import Card, Cards, Section
        from captune.pages.sources import words
        from captune.tables import Column, Table
        from captune.text import count, percent

        def answer(source):
            said = words("The {} images are {} bright.", source.figure(count, "images"),
                         source.figure(percent, "mean"))
            return said, None

        def tables(source):
            row = [source.figure(count, "images"), source.figure(percent, "mean")]
            columns = [Column("images", number=True), Column("mean", number=True)]
            return [Table(f"brightness-{source.number}", "Brightness", columns, [row])]

        def section(source, context):
            cards = [
                Card(record["path"], context.album.picture(source.run, record["path"]))
                for record in source.run.records()
            ]
            blocks = [*tables(source), Cards("The images", cards)]
            return Section(f"brightness-{source.number}", "Brightness", source.name, blocks)
        """,
}


@dataclass
class Options:
    seed: int = 0


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "packages" / "scratch_kind"
    package.mkdir(parents=True)
    for name, text in PACKAGE.items():
        (package / name).write_text(dedent(text))
    monkeypatch.syspath_prepend(str(package.parent))
    from importlib import import_module

    monkeypatch.setitem(KINDS, "brightness", import_module("scratch_kind.types").KIND)
    root = images(tmp_path / "images", ["a.jpg", "b.jpg"])
    options = Options()
    with RunWriter(tmp_path / "run", kind="brightness", options=options, root=root) as writer:
        writer.record({"path": "a.jpg", "brightness": 0.25})
        writer.record({"path": "b.jpg", "brightness": 0.75})
        writer.metrics = {"images": 2, "mean": 0.5, "skipped": []}
    yield tmp_path / "run"
    for name in [name for name in sys.modules if name.startswith("scratch_kind")]:
        del sys.modules[name]


def test_it_has_a_page_that_can_be_checked(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    made = write_report([run], page, PageSettings())
    assert made.title == "Brightness on 2 images"
    assert [part.title for part in made.sections] == ["Brightness", "How to make this again"]
    assert "The 2 images are 50.0 % bright." in str(made.answers[0][0].striptags())
    assert page.read_text().count('src="data:image/jpeg') == 2
    assert check_page(page).holds


def test_it_shows_itself_in_a_notebook(run: Path) -> None:
    assert "The 2 images are 50.0 % bright." in as_html(read_run(run))


def test_a_damaged_run_of_it_names_the_field(run: Path) -> None:
    records = run / "records.jsonl"
    records.write_text(records.read_text().replace("0.75", '"much"'))
    with pytest.raises(DamagedRun, match=r"records\.jsonl .*line 2: brightness: expected a number"):
        list(read_run(run).records())
