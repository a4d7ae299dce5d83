"""`captune reproduce`: a published study done again, command by command."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from captune.cli.console import note, print_json, run_words
from captune.errors import UserError
from captune.options import ReproduceOptions
from captune.options.codec import read_options
from captune.printing import console
from captune.text import counted, duration

if TYPE_CHECKING:
    from captune.studies.plan import Plan


def run(arguments: argparse.Namespace) -> int:
    """Plan, say how long it takes, and run the commands of the steps."""
    from captune.studies.plan import Plan, as_rows

    options = read_options(ReproduceOptions, arguments)
    plan = Plan(options)
    if options.dry_run:
        if arguments.json:
            print_json(_summary(plan, as_rows(plan), dry_run=True))
        else:
            _print_commands(plan)
        return 0
    _announce(plan, arguments)
    rows = []
    for place, step in enumerate(plan.asked, 1):
        task = plan.task(step)  # anew: the steps before it tell names that it needs
        lacking = plan.missing(task)
        if lacking:
            raise UserError(
                f"{step.name}: needs {', '.join(lacking)} first; leave --only out, or name"
                f" {'it' if len(lacking) == 1 else 'them'} too"
            )
        heading = f"[{place}/{len(plan.asked)}] {step.name}: {step.does}"
        note("", heading, quiet=arguments.json)
        row: dict[str, Any] = {"step": step.name, "command": ["captune", *task.words]}
        if plan.is_done(task):
            said = "was done before; taken as it is"
            note(f"$ {task.command}", said, quiet=arguments.json)
            rows.append(row | {"done": "before", "seconds": 0.0, "result": None})
            continue
        began = time.monotonic()
        status, printed = run_words(task.words, arguments)
        if status != 0:
            note(
                f"captune reproduce: {step.name} was not finished; the same command resumes there",
                quiet=arguments.json,
            )
            return status
        seconds = round(time.monotonic() - began, 1)
        result = json.loads(printed) if printed else None
        rows.append(row | {"done": "now", "seconds": seconds, "result": result})
    if arguments.json:
        print_json(_summary(plan, rows, dry_run=False))
    else:
        _print_end(plan, rows)
    return 0


def _announce(plan: Plan, arguments: argparse.Namespace) -> None:
    """What is to be done, and about how long that takes."""
    from captune.studies.plan import seconds_of, speed

    left = [task for task in plan.tasks() if not plan.is_done(task)]
    note(plan.study.about, quiet=arguments.json)
    if not left:
        note(f"all {len(plan.asked)} steps were done before", quiet=arguments.json)
        return
    gflops = speed()
    expected = seconds_of(plan, left, gflops)
    longest = max(expected, key=expected.__getitem__)
    note(
        f"{len(left)} of {len(plan.asked)} steps are to be done: about"
        f" {duration(sum(expected.values()))} at {gflops:,.0f} GFLOP/s, most of it {longest}"
        f" ({duration(expected[longest])}); right to a factor of two or three",
        quiet=arguments.json,
    )


def _print_commands(plan: Plan) -> None:
    out = console()
    told: dict[str, None] = {}
    for task in plan.tasks():
        done = " (done)" if plan.is_done(task) else ""
        out.print(f"# {task.step.name}: {task.step.does}{done}", soft_wrap=True)
        out.print(task.command, soft_wrap=True)
        told |= dict.fromkeys(task.unknown)
    if told:
        names = ", ".join(name.upper() for name in told)
        out.print(f"# {names}: known when the steps before have told", soft_wrap=True)


def _print_end(plan: Plan, rows: list[dict[str, Any]]) -> None:
    out = console()
    now = [row for row in rows if row["done"] == "now"]
    spent = sum(row["seconds"] for row in now)
    out.print(
        f"{counted(len(now), 'step')} in {duration(spent)}, {len(rows) - len(now)} done before"
    )
    for task in plan.tasks():
        if task.makes.suffix == ".html" and task.makes.is_file():
            out.print(f"{task.step.name}: {task.makes}", soft_wrap=True)


def _summary(plan: Plan, rows: list[dict[str, Any]], *, dry_run: bool) -> dict[str, Any]:
    results = [row["result"] for row in rows if row.get("result")]
    skipped = {item["path"]: item for result in results for item in result["skipped"]}
    pages = [str(task.makes) for task in plan.tasks() if task.step.name == "report"]
    return {
        "command": "reproduce",
        "run": str(plan.options.out),
        "images": max((int(result["images"]) for result in results), default=0),
        "skipped": list(skipped.values()),
        "study": plan.options.study,
        "dry_run": dry_run,
        "steps": rows,
        "page": pages[0] if pages and not dry_run else None,
    }
