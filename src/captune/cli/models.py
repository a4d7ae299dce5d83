"""`captune models`: what there is, what is cached, fetching ahead of time, and what works."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from captune.cli.console import print_json, print_tables, say
from captune.errors import UserError
from captune_metrics.display import printable

if TYPE_CHECKING:
    from captune.models.catalogue import CatalogueEntry
    from captune.tables import Table


_TAKES = {
    "list": ("search", "all"),
    "fetch": ("from_", "decoder", "captioner"),
    "check": ("prompt", "device", "dtype"),
}
_COLUMNS = ("model", "sides", "licence", "download", "needs", "here", "")


def run(arguments: argparse.Namespace) -> int:
    """List, fetch or check."""
    for action, names in _TAKES.items():
        for name in names if action != arguments.action else ():
            if getattr(arguments, name) not in (None, False, "auto"):
                word = "" if action == "list" else " SPEC"
                flag = name.strip("_")
                raise UserError(f"--{flag} is for captune models {action}{word}")
    if arguments.action == "check":
        return _check(arguments)
    if arguments.action == "fetch":
        return _fetch(arguments)
    if arguments.spec is not None:
        raise UserError("list takes no SPEC; to fetch write: captune models fetch SPEC")
    return _list(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from captune.models import catalogue

    if arguments.all or arguments.search is not None:
        entries = catalogue.long_list(arguments.search or "")
        if not catalogue.has_open_clip():
            say("open_clip's list needs: pip install 'captune[openclip]'", quiet=arguments.json)
        decoders = []
    else:
        entries, decoders = catalogue.short_list(), catalogue.decoders()
    if arguments.json:
        from captune.runs.records import json_value

        print_json("models", models=json_value(entries), decoders=json_value(decoders))
        return 0
    if not entries:
        raise UserError(f"no model holds {arguments.search!r}; captune models --all lists them all")
    if arguments.table is not None:
        kinds = {"models": entries, "decoders": decoders}
        print_tables([_table(*kind) for kind in kinds.items() if kind[1]], arguments.table)
        return 0
    rows = [_COLUMNS, *(_row(entry) for entry in entries)]
    if decoders:
        heading = ("decoder", *_COLUMNS[1:])
        rows += [("",) * len(_COLUMNS), heading, *(_row(entry) for entry in decoders)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
    if not (arguments.all or arguments.search):
        say("", "more: captune models --search TEXT, --all; a local folder is a model, too")
    return 0


def _table(kind: str, entries: Sequence[CatalogueEntry]) -> Table:
    from captune.tables import Column, Table

    titles = (kind.removesuffix("s"), *_COLUMNS[1:-1], "note")
    return Table(kind, "", [Column(title) for title in titles], [_row(one) for one in entries])


def _fetch(arguments: argparse.Namespace) -> int:
    from captune.models import catalogue

    spec = arguments.spec
    if spec is None:
        raise UserError("fetch what? write: captune models fetch SPEC, as in fetch lite")
    if spec == "lite":
        from captune.models.lite import assets

        # Without the loaders, which import torch: a second fetch answers at once.
        parts = assets.ASSETS["lite-decoder" if arguments.decoder else "lite"]
        already = assets.are_cached(parts)
        folders = assets.ensure(parts, arguments.from_)
    elif arguments.captioner:
        from captune.captioning.captioner import captioner_files, hub_repository
        from captune.models import hub

        repo = hub_repository(spec)
        already = hub.cached(repo, captioner_files) is not None
        source = arguments.from_
        folders = [
            hub.adopt(repo, source, captioner_files)
            if source
            else hub.repository(repo, captioner_files, spec, fetch_option=" --captioner")
        ]
    elif arguments.decoder:
        from captune.models.decoders import fetch_decoder, is_cached

        already = is_cached(spec)
        folders = fetch_decoder(spec, arguments.from_)
    else:
        from captune.models.load import fetch_model

        catalogue.require_extra(spec)
        already = catalogue.is_installed(spec)
        folders = fetch_model(spec, arguments.from_)
    if arguments.json:
        paths = [str(folder) for folder in folders]
        print_json("models", model=spec, fetched=not already, folders=paths)
    else:
        where = ", ".join(str(folder) for folder in folders)
        part = next((one for one in ("decoder", "captioner") if getattr(arguments, one)), None)
        what = f"the {part} of {spec}" if part else spec
        print(f"{what} {'was already' if already else 'is now'} in {where}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    """0 where all of it works, 1 where something does not."""
    from captune.attribution.vlm_check import checks
    from captune.captioning.captioner import captioner_folder
    from captune.captioning.checkpoint import read_any_recipe
    from captune.captioning.settings import CONFIG
    from captune.files import home_path
    from captune.models.vlm_files import load_vlm
    from captune.tables import Column, Table

    spec = arguments.spec
    wanted = "name a captioner of transformers: captune models check hf:OWNER/NAME, or its folder"
    if spec is None:
        raise UserError(f"check what? {wanted}")
    folder = home_path(spec)
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise UserError(f"{printable(folder)} has no {CONFIG}; {wanted}")
    place = captioner_folder(spec)
    if read_any_recipe(place) is not None:
        raise UserError(f"{printable(spec)} is a captioner of captune's own; {wanted}")
    vlm = load_vlm(place, spec, device=arguments.device, dtype=arguments.dtype)
    say(f"{spec}: a {vlm.family} on {vlm.device}, {vlm.model.dtype}", quiet=arguments.json)
    answers: dict[str, str] = {}
    for what, answer in checks(vlm, arguments.prompt):
        answers[what] = answer
        if not arguments.json and arguments.table is None:
            print(f"{what:20} {answer}", flush=True)
    if arguments.json:
        print_json("models", model=spec, family=vlm.family, checks=answers)
    elif arguments.table is not None:
        columns = [Column("check"), Column("works", wide=True)]
        print_tables([Table("checks", "", columns, list(answers.items()))], arguments.table)
    return int(set(answers.values()) != {"yes"})


def _row(entry: CatalogueEntry) -> tuple[str, ...]:
    return (
        entry.spec,
        entry.sides,
        entry.licence or "see its card",
        f"{entry.download_bytes / 1e6:,.0f} MB" if entry.download_bytes else "",
        f"captune[{entry.extra}]" if entry.extra else "",
        "yes" if entry.cached else "no",
        entry.note,
    )
