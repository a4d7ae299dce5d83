"""`captune reproduce`: a published study done again, command by command.

A step is done when the file that it ends with is there, its run was made by the same command, and
no step that it needs is younger. How long the rest takes is estimated before it starts: its work in
images and captions, what each costs by the study's table, and how fast the machine multiplies
matrices, measured now. That is right to a factor of two or three.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from captune.captions import read_captions
from captune.cli.commands import run_words
from captune.cli.console import print_json, say
from captune.errors import UserError
from captune.escaping import console
from captune.files import check_folder_name, lines_of, read_text
from captune.images import find_images
from captune.options.codec import read_options
from captune.options.pages import ReproduceOptions
from captune.options.tuning import TuneOptions
from captune.runs import read_run
from captune.studies import Step, Study, read_study
from captune.tables import as_typed
from captune.text import counted, duration, part_of
from captune_metrics.display import printable

_ANYWHERE = ("--json", "--offline", "--debug")
_PAGE = "$on_page"


@dataclass(frozen=True)
class Task:
    """A step with its command. words: after `captune`. unknown: names that a step before it tells.

    makes: the file that it ends with.
    """

    step: Step
    words: list[str]
    unknown: list[str]
    makes: Path

    @property
    def command(self) -> str:
        """As a person types it."""
        return shlex.join(["captune", *self.words])


class StudyPlan:
    """A study on its data, in a folder."""

    def __init__(self, options: ReproduceOptions) -> None:
        """Raises UserError for an unknown study or step, and for data that is not there."""
        self.options = options
        self.study = read_study(options.study)
        if not self.study.steps:
            raise UserError(f"{options.study} has no steps; its figures are for captune report")
        self.names = _names(self.study, options)
        self.asked = _asked(self.study, options)
        self.data = _found(self.study, self.asked, options)

    @property
    def _told(self) -> dict[str, str | None]:
        """What only the runs tell: the best method, the ends of the ranking; None until then."""
        return {"best": _best(self.options.out), **_ends(self.options.out)}

    def task(self, step: Step) -> Task:
        """The step's command, with what is known by now."""
        told = self._told
        known = {name: value or name.upper() for name, value in told.items()}
        known |= self.names | {name: str(path) for name, path in self.data.items()}
        words = step.words(lite=self.options.lite)
        filled = [filled for word in words for filled in self._filled(word, known)]
        unknown = [name for name, value in told.items() if value is None and _uses(words, name)]
        return Task(step, filled, unknown, self.options.out / step.makes)

    def tasks(self) -> list[Task]:
        """Of the steps that were asked for."""
        return [self.task(step) for step in self.asked]

    def _filled(self, word: str, known: Mapping[str, str]) -> Iterator[str]:
        if word == _PAGE:
            yield from (str(self.options.out / s.name) for s in self.study.steps if s.on_page)
        else:
            yield Template(word).substitute(known)

    def is_done(self, task: Task) -> bool:
        """Whether the same command has done it, after all that it needs."""
        if task.unknown or not task.makes.is_file():
            return False
        if task.makes.name == "run.json" and not _made_by(task):
            return False
        made = task.makes.stat().st_mtime_ns
        return all(
            path.is_file() and path.stat().st_mtime_ns <= made for path in self._needed(task)
        )

    def missing(self, task: Task) -> list[str]:
        """Names of steps that it needs and that have not been taken."""
        return [
            name
            for name, path in zip(task.step.after, self._needed(task), strict=True)
            if not path.is_file()
        ]

    def _needed(self, task: Task) -> list[Path]:
        makes = {step.name: step.makes for step in self.study.steps}
        return [self.options.out / makes[name] for name in task.step.after]


def _made_by(task: Task) -> bool:
    try:
        command = read_run(task.makes.parent).about["command"]
    except UserError:
        return False
    return [word for word in command if word not in _ANYWHERE] == ["captune", *task.words]


def _names(study: Study, options: ReproduceOptions) -> dict[str, str]:
    """Models, settings, the folder of the runs."""
    names = {"out": str(options.out), "study": options.study, "title": study.title}
    for name, variant in {**study.models, **study.settings}.items():
        given = getattr(options, name, None)
        usual = variant.lite if options.lite else variant.published
        names[name] = str(usual if given is None else given)
    return names


def _asked(study: Study, options: ReproduceOptions) -> list[Step]:
    known = {step.name: step for step in study.steps}
    for name in options.only:
        if name not in known:
            raise UserError(
                f"--only {printable(name)} is not one of the steps ({', '.join(known)})"
            )
    return [step for step in study.steps if not options.only or step.name in options.only]


def _found(study: Study, steps: Sequence[Step], options: ReproduceOptions) -> dict[str, Path]:
    """Where each part of the data is. Raises UserError naming those that a step lacks."""
    if not options.data.is_dir():
        raise UserError(f"--data {printable(options.data)} is not a folder")
    found, lacking = {}, []
    for name, part in study.data.items():
        places = [options.data / place for place in part.at]
        is_there = Path.is_dir if part.is_ == "folder" else Path.is_file
        there = [path for path in places if is_there(path)]
        found[name] = there[0] if there else places[0]
        if not there and any(_uses(step.words(lite=options.lite), name) for step in steps):
            lacking.append(" or ".join(part.at))
    if lacking:
        raise UserError(
            f"--data {printable(options.data)} lacks {', '.join(lacking)}; it must have"
            " the assignment's folder layout (see docs/reproduce.md)"
        )
    return found


def _uses(words: Sequence[str], name: str) -> bool:
    return any(name in Template(word).get_identifiers() for word in words)


def _best(out: Path) -> str | None:
    try:
        return str(read_run(out / "tune").metrics["best"])
    except (UserError, KeyError):
        return None


def _ends(out: Path) -> dict[str, str | None]:
    """The images of the best and of the worst pair, by the table of the ranking."""
    ends: dict[str, str | None] = {"first": None, "last": None}
    table = next(iter(sorted((out / "rank").glob("rank-*.csv"))), None)
    best = _best(out)
    if table is None or best is None:
        return ends
    try:
        run = read_run(out / f"score-{best}")
    except UserError:
        return ends
    reader = csv.DictReader(lines_of(read_text(str(table), keep_bytes=True)))
    try:
        named = (as_typed(row["path"]) for row in reader if row.get("path"))
        paths = [path for name in named if (path := run.image_path(name))]
    except csv.Error as error:
        raise UserError(
            f"{printable(table)}: line {reader.line_num} is not a table row ({error}); rank again"
        ) from None
    if paths:
        ends |= {"first": str(paths[0]), "last": str(paths[-1])}
    return ends


def as_rows(plan: StudyPlan) -> list[dict[str, Any]]:
    """The steps asked for, as `--json --dry-run` prints them."""
    return [
        {
            "step": task.step.name,
            "does": task.step.does,
            "command": ["captune", *task.words],
            "known_later": task.unknown,
            "done": plan.is_done(task),
        }
        for task in plan.tasks()
    ]


_SIDE, _TIMES = 1024, 8


def counts(plan: StudyPlan) -> dict[str, int]:
    """How much there is to do, by the names that the study's costs use."""
    methods = len(plan.names.get("methods", "").split(","))
    epochs, limit = (int(plan.names.get(name, 0)) for name in ("epochs", "limit"))
    found = {name: len(find_images([plan.data[name]]).images)
             for name in ("recognition", "pictures") if _is_there(plan, name)}  # fmt: skip
    if _is_there(plan, "train") and _is_there(plan, "val"):
        train, val = (read_captions(plan.data[name]) for name in ("train", "val"))
        each = sum(map(len, train.captions.values())) / len(train)
        trained = min(limit, len(train)) if limit else len(train)
        found |= {"trained": trained, "validated": len(val)}
        found["learnt"] = round(each * trained * epochs * methods)
        # after each epoch a sample; at the end all, and some with the images swapped
        sample = min(TuneOptions.val_sample, len(val))
        found["written"] = methods * (sample * epochs + len(val) + sample)
    return found


def _is_there(plan: StudyPlan, name: str) -> bool:
    return name in plan.data and plan.data[name].exists()


def speed() -> float:
    """GFLOP/s of float32 matrix products on the device that models would run on."""
    import torch

    from captune.models.devices import resolve_device

    where = resolve_device("auto")
    matrix = torch.randn(_SIDE, _SIDE, device=where)
    for is_counted in (False, True):  # the first pays for what is set up once
        started = time.perf_counter()
        for _ in range(_TIMES if is_counted else 1):
            product = matrix @ matrix
        product.sum().item()  # on a GPU the work is done only now
    return 2e-9 * _TIMES * _SIDE**3 / (time.perf_counter() - started)


def seconds_of(plan: StudyPlan, tasks: Iterable[Task], gflops: float) -> dict[str, float]:
    """Step name -> about how many seconds it takes."""
    table = plan.study.gflop.get("lite" if plan.options.lite else "published", {})
    there = counts(plan)
    return {
        task.step.name: sum(
            there.get(what, 0) * table[cost]
            for what, costs in task.step.costs.items()
            for cost in costs
        )
        / gflops
        for task in tasks
    }


def run(arguments: argparse.Namespace) -> int:
    """Plan, say how long it takes, and run the commands of the steps."""
    options = read_options(ReproduceOptions, arguments)
    check_folder_name(options.out)
    plan = StudyPlan(options)
    if options.dry_run:
        if arguments.json:
            print_json("reproduce", **_summary(plan, as_rows(plan), dry_run=True))
        else:
            _print_commands(plan)
        return 0
    tell = partial(say, quiet=arguments.json)
    _announce(plan, tell)
    rows = []
    for place, step in enumerate(plan.asked, 1):
        task = plan.task(step)  # anew: the steps before it tell names that it needs
        lacking = plan.missing(task)
        if lacking:
            raise UserError(
                f"{step.name} needs {', '.join(lacking)} first; leave --only out, or name"
                f" {'it' if len(lacking) == 1 else 'them'} too"
            )
        tell("", f"[{place}/{len(plan.asked)}] {step.name}: {step.does}")
        row: dict[str, Any] = {"step": step.name, "command": ["captune", *task.words]}
        if plan.is_done(task):
            tell(f"$ {task.command}", "was done before; taken as it is")
            rows.append(row | {"done": "before", "seconds": 0.0, "result": None})
            continue
        began = time.monotonic()
        status, printed = run_words(task.words, arguments)
        if status != 0:
            tell(f"captune reproduce: {step.name} was not finished; the same command resumes there")
            return status
        seconds = round(time.monotonic() - began, 1)
        result = json.loads(printed) if printed else None
        rows.append(row | {"done": "now", "seconds": seconds, "result": result})
    if arguments.json:
        print_json("reproduce", **_summary(plan, rows, dry_run=False))
    else:
        _print_end(plan, rows)
    return 0


def _announce(plan: StudyPlan, tell: Callable[..., None]) -> None:
    left = [task for task in plan.tasks() if not plan.is_done(task)]
    tell(plan.study.about)
    if not left:
        tell(f"{part_of(len(plan.asked), len(plan.asked), 'step')} done before")
        return
    gflops = speed()
    expected = seconds_of(plan, left, gflops)
    longest = max(expected, key=expected.__getitem__)
    tell(
        f"{part_of(len(left), len(plan.asked), 'step')} to do: about"
        f" {duration(sum(expected.values()))} at {gflops:,.0f} GFLOP/s, most of it {longest}"
        f" ({duration(expected[longest])}); right to a factor of two or three"
    )


def _print_commands(plan: StudyPlan) -> None:
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


def _print_end(plan: StudyPlan, rows: list[dict[str, Any]]) -> None:
    out = console()
    now = [row for row in rows if row["done"] == "now"]
    spent = sum(row["seconds"] for row in now)
    out.print(
        f"{counted(len(now), 'step')} in {duration(spent)}, {len(rows) - len(now)} done before"
    )
    for task in plan.tasks():
        if task.makes.suffix == ".html" and task.makes.is_file():
            out.print(f"{task.step.name}: {task.makes}", soft_wrap=True)


def _summary(plan: StudyPlan, rows: list[dict[str, Any]], *, dry_run: bool) -> dict[str, Any]:
    results = [row["result"] for row in rows if row.get("result")]
    skipped = {item["path"]: item for result in results for item in result["skipped"]}
    pages = [str(task.makes) for task in plan.tasks() if task.step.name == "report"]
    return {
        "run": str(plan.options.out),
        "images": max((int(result["images"]) for result in results), default=0),
        "skipped": list(skipped.values()),
        "study": plan.options.study,
        "dry_run": dry_run,
        "steps": rows,
        "page": pages[0] if pages and not dry_run else None,
    }
