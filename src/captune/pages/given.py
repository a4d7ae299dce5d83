"""The runs that a page is about: read, named, and a tune's methods found below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captune.errors import UserError
from captune.files import named, printable
from captune.pages.numbers import Source
from captune.runs import Run, read_run
from captune.runs.reader import ABOUT, METRICS, RECORDS, damaged


@dataclass(frozen=True)
class Given:
    """The sources of a page, in the order given; a tune is followed by its methods.

    methods: number of a tune -> name of a method -> its run.
    """

    sources: list[Source]
    methods: dict[int, dict[str, Source]] = field(default_factory=dict)

    def of_kind(self, *kinds: str) -> list[Source]:
        """The runs of these jobs; the methods below a tune are not among them."""
        below = {source.number for methods in self.methods.values() for source in methods.values()}
        return [s for s in self.sources if s.run.kind in kinds and s.number not in below]

    def by_folder(self, folder: object) -> Source | None:
        """The run in a folder, if it is one of these."""
        if not isinstance(folder, str):
            return None
        wanted = Path(folder).resolve()
        return next((s for s in self.sources if s.run.folder.resolve() == wanted), None)


def read_given(
    folders: Sequence[str | Path],
    kinds: Sequence[str],
    names: Sequence[str] = (),
    images: Path | None = None,
) -> Given:
    """Read the runs. Raises UserError for none, one given twice, and one of another kind.

    names: of all runs, methods too, where they had others than their folders have. images: the
    folder of their images, for runs from elsewhere.
    """
    if not folders:
        raise UserError("no run to report; name one or more: captune report RUN... --out FILE.html")
    paths = [Path(folder) for folder in folders]
    twice = [str(path) for i, path in enumerate(paths) if path.resolve() in _resolved(paths[:i])]
    if twice:
        raise UserError(f"{named(twice, 'run')}: given twice; name each once")
    given = [(path, read_run(path, images=images)) for path in paths]
    for path, run in given:
        if run.kind not in kinds:
            raise UserError(
                f"{printable(str(path))}: is a run of captune {printable(run.kind)}, of which this "
                f"captune's report knows nothing; it knows {', '.join(kinds)}"
            )
    # a method that is named beside its tune comes along with it all the same
    below = {child.resolve() for _, run in given for child in _methods(run)}
    found: list[tuple[Path, Run, int | None]] = []
    for path, run in given:
        if path.resolve() not in below:
            tune = len(found)
            found.append((path, run, None))
            found += [(child, _method(child, images), tune) for child in _methods(run)]
    if len(names) != len(found):
        names = _names([path for path, _, _ in found])
    sources = [Source(i + 1, names[i], run) for i, (_, run, _) in enumerate(found)]
    methods: dict[int, dict[str, Source]] = {}
    for i, (path, _, above) in enumerate(found):
        if above is not None:
            methods.setdefault(above + 1, {})[path.name] = sources[i]
    return Given(sources, methods)


def _resolved(paths: Sequence[Path]) -> set[Path]:
    return {path.resolve() for path in paths}


def _methods(run: Run) -> list[Path]:
    """The runs of a tune's methods, as far as they are still there."""
    rows = run.metrics.get("methods") if run.kind == "tune" else None
    if not isinstance(rows, list):
        return []
    names = [row.get("method") for row in rows if isinstance(row, dict)]
    # a run from elsewhere leads to nothing outside its own folder
    plain = [name for name in names if isinstance(name, str) and Path(name).name == name]
    return [run.folder / name for name in plain if (run.folder / name / ABOUT).is_file()]


def _method(folder: Path, images: Path | None) -> Run:
    """The run of one method. Raises DamagedRun for another one in its place."""
    run = read_run(folder, images=images)
    if run.kind != "tune" or run.metrics.get("tuned") is None:
        raise damaged(folder, METRICS, "it is not of the method that the tune above it names")
    return run


def _names(paths: Sequence[Path]) -> list[str]:
    """The last folders of each path: as few of them as tell the runs apart."""
    resolved = [path.resolve() for path in paths]
    names = [path.name for path in resolved]
    for depth in range(2, 6):
        double = {name for name in names if names.count(name) > 1}
        if not double:
            break
        for i, path in enumerate(resolved):
            if names[i] in double:
                names[i] = "/".join(path.parts[-depth:])
    return names


def digests_of(run: Run) -> dict[str, str]:
    """File of the run -> sha256 of its bytes, for those that are there."""
    names = (ABOUT, METRICS, RECORDS)
    return {name: run.digest(name) for name in names if (run.folder / name).is_file()}
