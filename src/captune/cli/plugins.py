"""`captune plugins`: what can be chosen by name, and which package brings it."""

from __future__ import annotations

import argparse

from captune.cli.console import print_json, print_tables
from captune.registry import BRIDGES, MAP_METHODS, TUNING_METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(arguments: argparse.Namespace) -> int:
    """List them; nothing of another package is imported."""
    from captune.models.load import backends
    from captune.tables import Column, Table
    from captune_metrics import catalogue

    found = {
        "tuning methods": ("tune --method", TUNING_METHODS.sources()),
        "bridges": ("tune --bridge", BRIDGES.sources()),
        "map methods": ("explain --method", MAP_METHODS.sources()),
        "metrics": ("score --metrics", catalogue.sources()),
        "model backends": ("--model, as in NAME:...", backends()),
    }
    if arguments.json:
        named = {kind: sources for kind, (_, sources) in found.items()}
        print_json("plugins", plugins=named)
        return 0
    columns = [Column("name"), Column("package", wide=True)]
    tables = [
        Table(kind.replace(" ", "-"), f"{kind} ({option})", columns, list(sources.items()))
        for kind, (option, sources) in found.items()
    ]
    print_tables(tables, arguments.table)
    return 0
