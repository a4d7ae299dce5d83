"""What a page shows, as files: every table as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from captune.files import whole_file
from captune.report.blocks import Table, blocks_of
from captune.report.page import Report


def export(report: Report, folder: Path) -> list[Path]:
    """Write all into `folder`; returns the files. Raises UserError where one cannot be written."""
    written = []
    for part in report.sections:
        for table in blocks_of(part.blocks, Table):
            path = folder / "tables" / f"{table.name}.csv"
            with whole_file(path) as file:
                csv.writer(file, lineterminator="\n").writerows(table.values())
            written.append(path)
    return written
