"""The commands: their options, and what runs each; what `--help` says of them is commands.toml."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from captune.cli.console import (
    command_line,
    discard_stream,
    job_arguments,
    print_json,
    print_line,
    print_result,
    print_tables,
    say,
)
from captune.errors import MissingExtra, UserError
from captune.escaping import bare
from captune.files import check_folder_name, check_writable
from captune.options.base import RowOptions
from captune.options.codec import names_a_path, read_options, typed_options

_WRITTEN = ("out", "csv", "to", "predictions", "sidecar")  # options that write files


@cache
def help_texts() -> dict[str, dict[str, str]]:
    """What each command is for ("help"), and its "examples"; read when somebody asks for help."""
    import tomllib

    return tomllib.loads(Path(__file__).with_name("commands.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Command:
    """options: their dataclass, below `captune.options`; loaded when used.

    A command is a job of `captune.jobs`, unless it has a `run` or a `module` with one. tables:
    whether it prints tables. answers: whether --jsonl prints what its job gives to `each`.
    verbs: words that may stand first, of which the first stands for a place alone.
    """

    options: str = ""
    tables: bool = True
    answers: bool = False
    run: Callable[[argparse.Namespace], int] | None = None
    module: str | None = None
    verbs: tuple[str, ...] = ()

    def options_type(self) -> type[Any]:
        """The dataclass of its options."""
        module, _, name = self.options.partition(".")
        found: type[Any] = getattr(import_module(f"captune.options.{module}"), name)
        return found

    def __call__(self, arguments: argparse.Namespace) -> int:
        """Run it. Returns the exit status."""
        if self.run is not None:
            return self.run(arguments)
        if self.module is not None:
            status: int = import_module(self.module).run(arguments)
            return status
        options = read_options(self.options_type(), arguments)
        streams = self.answers and arguments.jsonl
        how = job_arguments(arguments)
        if getattr(options, "is_sharded", False):
            from captune.jobs.shards import run_sharded  # whose driver loads no model library

            if streams:
                raise UserError(
                    "--jsonl is not for shards, whose answers stand in --out; leave it out"
                )
            return print_result(run_sharded(arguments.command, options, **how), arguments)
        _check_places(options, getattr(options, "kind", arguments.command))
        job = import_module(f"captune.jobs.{arguments.command}")
        each = {"each": _answer_printer(options)} if streams else {}
        return print_result(job.run(options, **each, **how), arguments)


def _answer_printer(options: Any) -> Callable[[Any], None]:
    """Prints each answer; what is written to files goes on when nobody reads any more."""
    writes = any(getattr(options, name, None) for name in _WRITTEN)

    def print_answer(item: Any) -> None:
        try:
            print_line(item.answer())
        except BrokenPipeError:
            if not writes:
                raise
            discard_stream(sys.stdout)

    return print_answer


def _check_places(options: Any, kind: str) -> None:
    """Refuse images and files before the libraries of the job are imported, which takes long."""
    if isinstance(options, RowOptions):
        from captune.answer_files import check_ending, row_paths

        check_ending("--csv", getattr(options, "csv", None), ".csv")
        check_ending("--predictions", getattr(options, "predictions", None), ".json")
        row_paths(options.to)
    out = getattr(options, "out", None)
    # into the captioner's own run: the job refuses it in better words; shards are merged in place
    own = [vars(options).get(name) for name in ("model", "place")]
    if out is not None and hasattr(options, "overwrite") and str(out) not in own:
        from captune.runs.writer import check_run_folder

        check_run_folder(out, kind, overwrite=options.overwrite)
    images = getattr(options, "images", None)
    if isinstance(images, list):
        from captune.images.find import check_sources

        check_sources(images)


def _tune(arguments: argparse.Namespace) -> int:
    """With the options of --config; of several processes the first one prints."""
    from captune.captioning.training.checks import check_possible, read_inputs
    from captune.captioning.training.state import with_config
    from captune.options.tuning import TuneOptions

    typed = typed_options(TuneOptions, arguments, command_line(arguments))
    options = with_config(read_options(TuneOptions, arguments), typed)
    check_possible(options)
    inputs = read_inputs(options)
    from captune.captioning.training.frozen import this_process
    from captune.jobs.tune import run

    is_first = this_process(options).is_main_process
    how = job_arguments(arguments, quiet=arguments.json or not is_first)
    result = run(options, inputs=inputs, **how)
    return print_result(result, arguments) if is_first else 0


def _push(arguments: argparse.Namespace) -> int:
    """Show what would be sent, and send it once somebody says yes; or write it to --to."""
    from captune.jobs.push import plan, run
    from captune.options.pages import PushOptions

    options = read_options(PushOptions, arguments)
    if options.to is not None:
        return print_result(run(options, **job_arguments(arguments)), arguments)
    planned = plan(options)
    if not options.yes:
        say(*planned.described(), "", *planned.card.splitlines(), quiet=arguments.json)
        if arguments.json or not sys.stdin.isatty():
            raise UserError("nothing was sent; add --yes to send it without being asked")
        say(f"send these files to {options.repo}? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("nothing was sent")
        options.yes = True
    else:
        say(*planned.described(), quiet=arguments.json)
    return print_result(run(options, **job_arguments(arguments)), arguments)


def _app(arguments: argparse.Namespace) -> int:
    from captune.options.pages import AppOptions

    options = read_options(AppOptions, arguments)
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("captune app", "app")
    from captune.webapp.server import Running, serve

    def started(app: Running) -> None:
        if arguments.json:
            print_json("app", url=app.address, host=options.host)
            sys.stdout.flush()
        say(f"captune is at {app.address}  (Ctrl-C ends it)", quiet=arguments.json)
        if options.shared:
            say(
                "--shared: whoever has that address can use the app, and what they type is not"
                f" opened; behind a proxy it is https://{options.name[0]}/?token={app.entry.token}",
                quiet=arguments.json,
            )
        if options.open:
            import webbrowser

            webbrowser.open(app.opening())

    serve(options, started)
    return 0


def run_words(words: list[str], arguments: argparse.Namespace) -> tuple[int, str]:
    """Run a command as if it were typed: (exit status, the JSON that it was asked for or "").

    What it prints for `--json` is held back, as a command prints one object, unless it failed.
    """
    from captune.cli import main

    say(f"$ {shlex.join(['captune', *words])}", quiet=arguments.json)
    flags = [f"--{flag}" for flag in ("json", "offline", "debug") if getattr(arguments, flag)]
    if not arguments.json:
        return main([*words, *flags]), ""
    held = io.StringIO()
    with redirect_stdout(held):
        status = main([*words, *flags])
    if status != 0:
        print(held.getvalue(), end="")
    return status, held.getvalue()


def _demo(arguments: argparse.Namespace) -> int:
    """Gather the images, then run the same commands that a user would type."""
    from captune.demo import gather_images, how_long, steps, why_no_captions
    from captune.options.pages import DemoOptions

    started = time.monotonic()
    options = read_options(DemoOptions, arguments)
    check_folder_name(options.out)
    check_writable(options.out / "images" / "any")
    images = gather_images(options.out)
    reason = why_no_captions()
    result: dict[str, Any] = {}
    if reason is not None:
        result["notes"] = [reason]
        say("", reason, "", quiet=arguments.json)
    say(how_long(captions=reason is None), quiet=arguments.json)
    for verb, words in steps(images, options.out, captions=reason is None).items():
        status, printed = run_words(words, arguments)
        if status != 0:
            return status
        found = json.loads(printed or "{}")
        result[verb] = found
        if verb == "classify":
            result |= {name: found.get(name) for name in ("run", "images", "skipped")}
    page = options.out / "report.html"
    if arguments.json:
        seconds = round(time.monotonic() - started, 1)
        print_json("demo", **result, page=str(page), seconds=seconds)
        return 0
    say("", f"all of it took {time.monotonic() - started:.0f} s; open this page:")
    say(page.resolve().as_uri())
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    """Print the script of a shell (shtab). Raises MissingExtra without it."""
    try:
        import shtab
    except ImportError:
        raise MissingExtra("making the script", "completion") from None
    from captune.cli import build_parser, parsers_of

    parser = build_parser()
    for command in parsers_of(parser).values():
        for action in command._actions:
            if names_a_path(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script = shtab.complete(parser, arguments.shell)
    if arguments.json:
        print_json("completion", shell=arguments.shell, script=script)
        return 0
    # a shell reads it as it is, tabs and all, and nothing in it is of others
    bare(sys.stdout).write(f"{script}\n")
    return 0


def _plugins(arguments: argparse.Namespace) -> int:
    """What can be chosen by name, and which package brings it; none of these is imported."""
    from captune.models.load import backends
    from captune.registry import BRIDGES, MAP_METHODS, TUNING_METHODS
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
        print_json("plugins", plugins={kind: sources for kind, (_, sources) in found.items()})
        return 0
    columns = [Column("name"), Column("package", wide=True)]
    tables = [
        Table(kind.replace(" ", "-"), f"{kind} ({option})", columns, list(sources.items()))
        for kind, (option, sources) in found.items()
    ]
    print_tables(tables, arguments.table)
    return 0


COMMANDS = {
    "app": Command("pages.AppOptions", run=_app, tables=False),
    "cache": Command("pages.CacheOptions", module="captune.cli.cache"),
    "caption": Command("captioning.CaptionOptions", answers=True),
    "cite": Command("pages.CiteOptions", tables=False),
    "classify": Command("recognition.ClassifyOptions", answers=True),
    "compare": Command("scoring.CompareOptions"),
    "completion": Command("pages.CompletionOptions", run=_completion, tables=False),
    "demo": Command("pages.DemoOptions", run=_demo, tables=False),
    "embed": Command("recognition.EmbedOptions", tables=False),
    "env": Command(module="captune.cli.env", tables=False),
    "explain": Command("captioning.ExplainOptions", answers=True),
    "faithful": Command("captioning.FaithfulOptions"),
    "models": Command("pages.ModelsOptions", module="captune.cli.models"),
    "plugins": Command(run=_plugins),
    "prompts": Command("recognition.PromptsOptions"),
    "push": Command("pages.PushOptions", run=_push),
    "rank": Command("scoring.RankOptions"),
    "report": Command("pages.ReportOptions", tables=False),
    "reproduce": Command("pages.ReproduceOptions", module="captune.cli.reproduce", tables=False),
    "score": Command("scoring.ScoreOptions"),
    "shards": Command("shards.ShardsOptions", verbs=("status", "merge")),
    "tune": Command("tuning.TuneOptions", run=_tune),
    "verify": Command("pages.VerifyOptions"),
}
