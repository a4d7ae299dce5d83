"""How to make a page again: commands, models, inputs, versions, hardware, hashes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from captune.pages.blocks import Code, Fold, Paragraph, Section
from captune.pages.sources import RunSet, RunSource, digests_of
from captune.runs.reader import ABOUT
from captune.tables import Column, Table
from captune.text import one_line, plain

_MOST_SKIPPED = 200


def section(runs: RunSet, command: Sequence[str], page: str) -> Section:
    """Commands first, then what they ran on. command: that made the page, called `page`."""
    part = Section("again", "How to make this again")
    typed = [_shell(source.at("command", file=ABOUT)) for source in runs.given]
    typed += [_shell(command)] if command else []
    part.blocks.append(Code("\n".join(dict.fromkeys(line for line in typed if line))))
    check = _shell(["captune", "verify", page])
    part.blocks.append(
        Paragraph(
            "Every number of this page carries the place in a run folder that it is from. The next"
            " line derives all of them again and names what differs.",
            soft=True,
        )
    )
    part.blocks.append(Code(check))
    part.blocks.append(_runs(runs))
    models = _models(runs)
    if models:
        columns = [
            Column("model"),
            Column("weights", wide=True),
            Column("preprocessing", wide=True),
            Column("licence"),
        ]
        part.blocks.append(Table("models", "Models", columns, models))
    inputs = _inputs(runs)
    if inputs:
        columns = [Column("file", wide=True), Column("read as", wide=True), Column("sha256")]
        part.blocks.append(Table("inputs", "Inputs", columns, inputs))
    part.blocks.append(_machine(runs))
    part.blocks.append(Fold("Options of each run", [_options(runs)]))
    part.blocks.append(Fold("Hashes of the run folders", [_files(runs)]))
    skipped = [[source.name, *row] for source in runs.sources for row in _skipped(source)]
    if skipped:
        columns = [Column("run"), Column("file", wide=True), Column("reason")]
        shown = Table("skipped", "Skipped files", columns, skipped[:_MOST_SKIPPED])
        part.blocks.append(Fold(f"Skipped files ({len(skipped):,})", [shown]))
    return part


def _shell(words: Any) -> str:
    return shlex.join(one_line(str(word)) for word in words) if isinstance(words, list) else ""


def _runs(runs: RunSet) -> Table:
    rows = []
    for source in runs.given:
        about = source.run.about
        rows.append(
            [
                source.name,
                about["kind"],
                one_line(about["started"]),
                source.figure(plain, "seed", file=ABOUT) if about.get("seed") is not None else None,
                one_line(str(about.get("device", ""))),
                one_line(about["root"]),
            ]
        )
    columns = [
        Column("run"),
        Column("command"),
        Column("made"),
        Column("seed", number=True),
        Column("device"),
        Column("images below", wide=True),
    ]
    return Table("runs", "Runs", columns, rows)


def _models(runs: RunSet) -> list[list[Any]]:
    found: dict[tuple[str, str], list[Any]] = {}
    for source in runs.sources:
        for model in source.run.about["models"]:
            if isinstance(model, Mapping):
                spec, weights = str(model.get("spec")), str(model.get("weights_id"))
                others = (model.get(key) or "" for key in ("preprocessing_id", "licence"))
                row = [one_line(str(text)) for text in (spec, weights, *others)]
                found.setdefault((spec, weights), row)
    return list(found.values())


def _inputs(runs: RunSet) -> list[list[Any]]:
    """A row a file, whatever read it."""
    found: dict[tuple[str, str], list[str]] = {}
    for source in runs.sources:
        for name, path, sha256 in _each_input(source.run.metrics.get("inputs")):
            found.setdefault((path, sha256), []).append(f"{name} of {source.name}")
    return [
        [one_line(path), one_line(", ".join(read)), one_line(sha256)]
        for (path, sha256), read in found.items()
    ]


def _each_input(inputs: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    if not isinstance(inputs, Mapping):
        return
    for name, about in inputs.items():
        if isinstance(about, Mapping) and "sha256" in about:
            yield f"{prefix}{name}", str(about.get("path")), str(about["sha256"])
        else:
            yield from _each_input(about, f"{name} ")


def _machine(runs: RunSet) -> Table:
    """A row where all runs agree, else a row a run."""
    told = {
        source.name: (_hardware(source.run.about["hardware"]), _versions(source.run.about))
        for source in runs.sources
    }
    if len(set(told.values())) == 1:
        rows = [["all runs", *next(iter(told.values()))]]
    else:
        rows = [[name, *texts] for name, texts in told.items()]
    columns = [Column("run"), Column("hardware"), Column("packages", wide=True)]
    return Table("machine", "Machine and packages", columns, rows)


def _hardware(hardware: Mapping[str, Any]) -> str:
    parts = [hardware.get("system"), f"{hardware.get('cores')} cores", hardware.get("gpu")]
    return one_line(", ".join(str(part) for part in parts if part))


def _versions(about: Mapping[str, Any]) -> str:
    return one_line(", ".join(f"{name} {version}" for name, version in about["versions"].items()))


def _options(runs: RunSet) -> Table:
    rows = [
        [source.name, name, one_line(plain(value))]
        for source in runs.given
        for name, value in source.run.about["options"].items()
        if value not in (None, [], False)
    ]
    columns = [Column("run"), Column("option"), Column("value", wide=True)]
    return Table("options", "Options", columns, rows)


def _files(runs: RunSet) -> Table:
    rows = [
        [source.name, file, sha256]
        for source in runs.sources
        for file, sha256 in digests_of(source.run).items()
    ]
    columns = [Column("run"), Column("file"), Column("sha256", wide=True)]
    return Table("files", "Files of the runs", columns, rows)


def _skipped(source: RunSource) -> list[list[str]]:
    skipped = source.run.metrics.get("skipped")
    return [
        [one_line(str(item.get("path"))), one_line(str(item.get("reason")))]
        for item in (skipped if isinstance(skipped, list) else [])
        if isinstance(item, Mapping)
    ]


def stamp(runs: RunSet) -> str:
    """A hash of all run folders, for the foot of the page."""
    import hashlib

    told = json.dumps([digests_of(source.run) for source in runs.sources], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]
