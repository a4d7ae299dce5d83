"""`captune report`: run folders become one page that can be handed to somebody."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.cli.terminal import (
    command_line,
    note,
    print_json,
    print_written,
    progress,
    report_skipped,
)
from captune.errors import UserError
from captune.files import printable
from captune.options import ReportOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import counted

if TYPE_CHECKING:
    from captune.pages.checking import Checked
    from captune.pages.page import Report

HELP = "one page of any runs, to be handed to somebody: answer, pictures, how to make it again"
EXAMPLES = """  captune report runs/zero-shot --out report.html
  captune report runs/zero-shot runs/prompts runs/tuned runs/score --out report.html
  captune report runs/tuned --out report.html --figures figures/
  captune report runs/prompts runs/tune runs/score-lora --published dlcv-hw3 --out report.html
  captune report from-ann/run --images images/ --out report.html
  captune report --check report.html
  captune report runs/a runs/b --out ab.html --title "Adapter against LoRA" --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, ReportOptions)


def run(arguments: argparse.Namespace) -> int:
    """Write the page and the figures, or check a page."""
    options = read_options(ReportOptions, arguments)
    if options.check is not None:
        if options.out is not None or options.figures is not None:
            raise UserError("--check: reads a page and writes none; leave --out and --figures away")
        return _check(options, arguments)
    if options.out is None:
        raise UserError("no page to write; name one with --out FILE.html")
    from captune.files import check_writable
    from captune.pages.page import write_report
    from captune.pages.settings import Settings

    check_writable(options.out)
    if options.figures is not None:
        check_writable(options.figures / "tables")
    settings = Settings(options.title or "", options.limit, options.top, options.published or "")
    report = write_report(
        options.runs,
        options.out,
        settings,
        command=command_line(arguments),
        images=options.images,
        bar=partial(progress, quiet=arguments.json),
    )
    written = {"page": options.out}
    if options.figures is not None:
        from captune.pages.exporting import export

        export(
            report,
            options.figures,
            say=partial(note, quiet=arguments.json),
            raw_csv=options.raw_csv,
        )
        written["figures"] = options.figures
    if report.hidden:
        note(report.hidden, quiet=arguments.json)
    report_skipped(_missing(report), quiet=arguments.json)
    if arguments.json:
        print_json(_summary(report, written))
    else:
        _print(report, written)
    return 0


def _missing(report: Report) -> list[Any]:
    from captune.images import Skipped
    from captune.pages.thumbnails import HIDDEN

    missing = report.album.missing.items()
    return [Skipped(path, reason) for path, reason in missing if reason != HIDDEN]


def _summary(report: Report, written: dict[str, Path]) -> dict[str, Any]:
    sources = report.given.sources
    return {
        "command": "report",
        "run": str(sources[0].run.folder),
        "images": max(int(source.run.metrics.get("images") or 0) for source in sources),
        "skipped": [{"path": item.path, "reason": item.reason} for item in _missing(report)],
        "runs": [
            {"name": source.name, "folder": str(source.run.folder), "kind": source.run.kind}
            for source in sources
        ],
        "notes": [report.hidden] if report.hidden else [],
        "title": report.title,
        "answers": [_plain(said) for said, _ in report.answers],
        "thumbnails": len(report.album.pictures),
        "bytes": written["page"].stat().st_size,
        "written": {what: str(path) for what, path in written.items()},
    }


def _plain(said: Any) -> str:
    """A sentence of the page without its markup."""
    return str(said.striptags()) if hasattr(said, "striptags") else str(said)


def _print(report: Report, written: dict[str, Path]) -> None:
    out = console()
    for said, _ in report.answers:
        out.print(_plain(said))
    size = written["page"].stat().st_size / 1e6
    images = counted(len(report.album.pictures), "image")
    out.print(f"{counted(len(report.given.sources), 'run')}, {images}, {size:.1f} MB")
    print_written(out, written)


def _check(options: ReportOptions, arguments: argparse.Namespace) -> int:
    from captune.pages.checking import check_page

    assert options.check is not None
    found = check_page(options.check, options.runs)
    if arguments.json:
        print_json({"command": "report", **found.summary()})
        return 0 if found.holds else 2
    _print_check(found)
    if not found.holds:
        shown = printable(str(options.check))
        raise UserError(f"{shown}: does not hold; {counted(len(found.differing), 'difference')}")
    return 0


def _print_check(found: Checked) -> None:
    out = console()
    for sentence in found.differing[:20]:
        out.print(sentence, soft_wrap=True)
    if len(found.differing) > 20:
        out.print(f"... and {len(found.differing) - 20:,} more (all of them in --json)")
    for sentence in found.notes:
        out.print(sentence, soft_wrap=True)
    if found.holds:
        figures = counted(found.figures, "figure")
        out.print(f"{figures} of {counted(found.runs, 'run')} derived again: the page holds")
