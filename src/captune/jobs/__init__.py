"""The jobs: one module per verb, called alike by Python, the command line and the app.

Each has `run(options, progress, *, command)`, which returns a `Result`, and the public function of
its name. Every `run` has five steps: refuse early; load; compute and write records as they come;
close the run; figures and page. The run folder is held over all of them.

This module imports no job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captune.errors import UserError
from captune.files import check_writable, real_path
from captune.images import ImageSet, Skipped
from captune.images.find import ENDINGS
from captune.progress import SILENT, Progress
from captune.runs import read_run
from captune.tables import NotebookDisplay, Table
from captune_metrics.display import printable

# what captune reads in a folder: runs, image folders, sidecars
_READ_NAMES = ("run.json", "records.jsonl", "metrics.json", "metadata.csv", "metadata.jsonl")
_READ_ENDINGS = ("txt", *ENDINGS)
PAGE = "report.html"
MOST_ANSWERS = 10_000  # in the object of --json
PAGE_IMAGES = 200  # in a gallery of the page that a job leaves


@dataclass(kw_only=True, eq=False)
class Result(NotebookDisplay, Sequence[Any]):
    """What a job came to; a sequence of its items.

    images: how many were read. skipped: files that were not, and why. notes: sentences about the
    result. written: what was written -> where; "run" is the run folder.
    items: a Prediction, Caption or Explanation per image: all of them from the functions of
    Python, the first ones from `run`, and none of a job that has no such values.
    found: the images that were asked for, None of a job that looks at none.
    kept_answers: what other programs are told of each image, of the first 10,000.
    """

    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    written: dict[str, Path] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list, repr=False)
    found: ImageSet | None = field(default=None, repr=False)
    kept_answers: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    @property
    def run(self) -> Path | None:
        """The run folder, or None where none was asked for."""
        return self.written.get("run")

    def finish(self, out: Path, progress: Progress = SILENT, figures: str = "") -> Path:
        """Draw the figures of the finished run `out`, and leave and return its page.

        figures: what they are called in `written`; "" for none.
        """
        from captune.pages.figures import draw_figures
        from captune.pages.page import write_report
        from captune.pages.sources import PageSettings

        self.written["run"] = out
        if figures:
            for _ in draw_figures(read_run(out), self.skipped):
                self.written[figures] = out / "plots"
        page = self.written["page"] = out / PAGE
        write_report([out], page, PageSettings(limit=PAGE_IMAGES), progress=progress)
        return page

    def summary(self) -> dict[str, Any]:
        """What `--json` prints: these keys, and those of the job. Paths are as they were given."""
        skipped = self.skipped if self.found is None else self.found.as_given(self.skipped)
        return {
            "run": None if self.run is None else str(self.run),
            "images": self.images,
            "skipped": [{"path": item.path, "reason": item.reason} for item in skipped],
            "written": {what: str(path) for what, path in self.written.items()},
        }

    def keep(self, answer: dict[str, Any]) -> None:
        """One more answer, if there is room for it."""
        if len(self.kept_answers) < MOST_ANSWERS:
            self.kept_answers.append(answer)

    def add_written(self, names: Sequence[str]) -> None:
        """What --to has written."""
        for number, name in enumerate(names, 1):
            self.written["answers" if number == 1 else f"answers {number}"] = Path(name)

    def answers_summary(self) -> dict[str, Any]:
        """The answers for `--json`; above 10,000 the file that has them, or None."""
        if self.images <= MOST_ANSWERS:
            return {"answers": self.kept_answers, "answers_file": None}
        records = None if self.run is None else self.run / "records.jsonl"
        others = (self.written.get("predictions"), self.written.get("csv"))
        file = self.written.get("answers") or records or next(filter(None, others), None)
        return {"answers": None, "answers_file": None if file is None else str(file)}

    def tables(self) -> list[Table]:
        """What the terminal, `--table` and a notebook show.

        A table named "images" has a row per item, for which a notebook shows the items themselves.
        """
        return []

    def headline(self) -> str:
        """What came out, above the tables; "" where the tables say it."""
        return ""

    def sentences(self) -> list[str]:
        """What a person reads below the tables.

        The first one stands above them in a notebook where there is no headline.
        """
        return []

    def failure(self) -> str:
        """What failed of a job whose rest is done, a sentence; "" where nothing did."""
        return ""


def page_tables(kind: str, figures: Any) -> list[Table]:
    """The tables of a run's page, of a result that need not be written.

    figures: what metrics.json holds of it.
    """
    from captune.pages.sections import section_of
    from captune.pages.sources import RunSource
    from captune.runs import Run
    from captune.runs.records import json_value

    run = Run(Path(), {"kind": kind}, json_value(figures))
    return section_of(kind).tables(RunSource(1, "", run))


def check_answers(command: Sequence[str], images: int, files: Sequence[object]) -> None:
    """Refuse a `--json` of more answers than it prints, where none of `files` has them."""
    if "--json" in command and images > MOST_ANSWERS and not any(files):
        raise UserError(
            f"{images:,} images: --json holds the answers of {MOST_ANSWERS:,} at most; say where to"
            " write them, with --to FILE or --out RUN, or take --jsonl"
        )


def check_outputs(
    inputs: Mapping[str, Path],
    files: Mapping[str, Path | None],
    run: Path | None,
    to: Sequence[Path] = (),
) -> None:
    """Refuse to write what would destroy something, before any work is done.

    inputs: what is read, by its name in a sentence; files: what is written, by its option; run: the
    run folder of --out; to: the files of --to. Raises UserError.
    """
    outputs = [(option, path) for option, path in files.items() if path is not None]
    outputs += [("--to", path) for path in to]
    for number, (option, path) in enumerate(outputs):
        for what, read in inputs.items():
            if _same(path, read) or _is_read_in(path, read):
                raise _refusal(option, path, f"would replace what is read ({what})")
        for other, written in outputs[:number]:
            if _same(path, written):
                raise _refusal(option, path, f"is the file of {other} too")
        if run is not None and _within(path, run):
            raise _refusal(option, path, "lies in the run folder that --out writes")
    if run is not None:
        for what, read in inputs.items():
            if _within(read, run):
                raise _refusal("--out", run, f"holds what is read ({what})")
        for other, written in outputs:
            if _within(run, written):
                raise _refusal("--out", run, f"lies below the file of {other}")
    for _, path in outputs:
        check_writable(path)


def files_among(*words: Any) -> dict[str, Path]:
    """The words of IMAGES, --labels and --truth that name something: inputs of `check_outputs`."""
    names = (word for word in words if isinstance(word, str))
    # of a source of a dataset the folder; pathlib's exists() raises for a name that is too long
    places = {name: name.partition("#split=")[0] for name in names}
    return {
        name: Path(name if os.path.exists(name) else place)  # noqa: PTH110
        for name, place in places.items()
        if os.path.exists(name) or (place and os.path.exists(place))  # noqa: PTH110
    }


def _refusal(option: str, path: Path, why: str) -> UserError:
    return UserError(f"{option} {printable(path)} {why}; choose another place")


def _same(one: Path, other: Path) -> bool:
    try:
        if one.exists() and not one.is_file() and not one.is_dir():
            return False  # a terminal or a pipe: nothing in it is lost
        both = one.exists() and other.exists()
        return real_path(one) == real_path(other) or (both and one.samefile(other))
    except (OSError, ValueError):  # no path at all, which is said where it is opened
        return False


def _within(path: Path, folder: Path) -> bool:
    try:
        return real_path(path).is_relative_to(real_path(folder)) or _same(path, folder)
    except (OSError, ValueError):
        return False


def _is_read_in(path: Path, folder: Path) -> bool:
    is_read = path.name in _READ_NAMES or path.suffix[1:].lower() in _READ_ENDINGS
    return is_read and folder.is_dir() and _within(path, folder)
