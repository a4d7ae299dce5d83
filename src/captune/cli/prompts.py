"""`captune prompts`: which prompt is best for these images, and how sure is that?"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from captune.cli.terminal import print_json, print_written, report_skipped, told
from captune.options import PromptsOptions
from captune.options.codec import add_options, read_options
from captune.printing import console
from captune.text import p_value, percent

if TYPE_CHECKING:
    from rich.console import Console

    from captune.zeroshot.study import PromptStudy

HELP = "compare prompt templates, also negated ones, over one image pass"
EXAMPLES = """  captune prompts images/ --labels id2label.json --truth from-name
  captune prompts images/ --labels names.txt --truth truth.csv --prompt "a photo of a {}" \\
      --prompt "not a photo of a {}" --out runs/prompts
  captune prompts images/ --labels names.txt --truth from-folder --prompt openai-7 --csv t.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the options dataclass."""
    add_options(parser, PromptsOptions)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the table, and draw the plots where a run folder was asked for."""
    from captune.runs.place import run_place
    from captune.zeroshot.study import compare_prompts

    options = read_options(PromptsOptions, arguments)
    heard = told(arguments)
    with run_place(options, "prompts", heard["say"]):
        study = compare_prompts(options, **heard)
        report_skipped(study.skipped, quiet=arguments.json)
        if options.out is not None:
            _draw(study, options.out)
    if arguments.json:
        print_json({"command": "prompts", **study.summary()})
    else:
        _print(study)
    return 0


def _draw(study: PromptStudy, out: Path) -> None:
    from captune.pages.figures import draw_prompt_study

    paths = draw_prompt_study(study.comparison, study.probes, out / "plots")
    study.written["plots"] = paths[0].parent


def _print(study: PromptStudy) -> None:
    out = console()
    comparison = study.comparison
    out.print(
        f"{comparison.images} images ({comparison.known} with a truth), "
        f"{len(comparison.labels)} labels, model {study.model['spec']}",
    )
    _print_templates(study, out)
    if study.probes:
        _print_probes(study, out)
    if comparison.best is not None:
        _print_changes(study, out)
    print_written(out, study.written)


def _print_templates(study: PromptStudy, out: Console) -> None:
    from rich.table import Table

    table = Table(title="prompts", title_justify="left", box=None, pad_edge=False)
    table.add_column("prompt", overflow="fold", ratio=1)
    for heading in ("accuracy", "95 %", "vs best", "p (Holm)", "ECE", "T", "ECE at T"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, result in enumerate(study.comparison.results):
        best = " (best)" if index == study.comparison.best else ""
        against, calibration = result.against_best, result.calibration
        interval = result.interval
        table.add_row(
            result.template + best,
            _or_empty(percent, result.accuracy),
            f"{100 * interval.low:.1f}–{100 * interval.high:.1f}" if interval else "",
            f"{100 * against.difference:+.1f}" if against else "",
            _or_empty(p_value, against.p_holm if against else None),
            _or_empty(percent, calibration.raw.ece if calibration else None),
            f"{calibration.temperature:.2f}" if calibration else "",
            _or_empty(
                percent, calibration.scaled.ece if calibration and calibration.scaled else None
            ),
        )
    out.print(table)
    if study.comparison.best is not None:
        out.print(
            "p: exact McNemar against the best, adjusted for the number of prompts (Holm); the "
            "best was chosen on these images. T: fitted temperature; ECE at T is cross-fitted."
        )
    else:
        out.print("no truth given (--truth): nothing to score, only agreement in --json and --out")


def _print_probes(study: PromptStudy, out: Console) -> None:
    from rich.table import Table

    table = Table(title="does it read “not”?", title_justify="left", box=None, pad_edge=False)
    table.add_column("denied prompt", overflow="fold", ratio=1)
    for heading in ("same answer", "still right", "“not” wins", "elsewhere"):
        table.add_column(heading, justify="right", no_wrap=True)
    for probe in study.probes:
        table.add_row(
            probe.negated,
            _or_empty(percent, probe.same_answer.share),
            _or_empty(percent, probe.right_answer.share if probe.right_answer else None),
            _or_empty(percent, probe.denial_wins.share),
            _or_empty(percent, probe.denial_wins_elsewhere),
        )
    out.print(table)
    out.print(
        "share of images where the denied prompts give the same answer, give the right class, or "
        "beat the plain prompt of the right class: 0 % for a reader of “not”; elsewhere: of the "
        "wrong classes, where the denial is true: 100 % for a reader of “not”"
    )


def _print_changes(study: PromptStudy, out: Console) -> None:
    comparison = study.comparison
    assert comparison.best is not None
    others = [i for i in range(len(comparison.results)) if i != comparison.best]
    if not others:
        return
    best = comparison.results[comparison.best].template
    out.print(f'classes that change most against "{best}":')
    for index in others:
        changes = comparison.class_changes(index, top=4)
        words = ", ".join(f"{c.label} {c.change:+d} of {c.images}" for c in changes) or "none"
        out.print(f"  {comparison.results[index].template}: {words}")


def _or_empty(show: Callable[[float], str], value: float | None) -> str:
    return "" if value is None else show(value)
