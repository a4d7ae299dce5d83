"""The command line: `captune COMMAND` parses, calls the job of that name, and prints.

Here a command ends, too: exit status, Ctrl-C, and the one sentence of what went wrong.
"""

from __future__ import annotations

import argparse
import atexit
import errno
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import captune
from captune.cli.commands import COMMANDS, help_texts
from captune.cli.console import discard_stream, open_streams, print_json, say
from captune.errors import UserError
from captune.escaping import plain_streams
from captune.options.codec import add_options
from captune.storage import cache_folder, is_offline, set_offline
from captune.text import counted
from captune_metrics.display import nearest, quoted, shorten

_LONGEST_SENTENCE = 4_000  # characters; it may quote what was typed
# what flags are called elsewhere
_OTHER_NAMES = {
    "--photos": "--images",
    "--image-dir": "--images",
    "--val-photos": "--val-images",
    "--output": "--out",
    "--csv": "--to",
}
_QUOTA = getattr(errno, "EDQUOT", errno.ENOSPC)


class _Misuse(Exception):
    """Words that no command takes; its text is the sentence for the user."""


class _ArgumentParser(argparse.ArgumentParser):
    """Mistakes are one sentence, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise _Misuse(f"{self.prog}: {message}; {self.prog} --help shows what it takes")

    def _get_option_tuples(self, option_string: str) -> Any:
        """The flags that a shortened one may be; --label is --labels, not --label-column."""
        found: Any = super()._get_option_tuples(option_string)
        plural = option_string.partition("=")[0] + "s"
        return [one for one in found if one[1] == plural] or found

    def format_help(self) -> str:
        """With the texts of the command, where it is one's."""
        if texts := help_texts().get(self.prog.partition(" ")[2]):
            self.description, self.epilog = texts["help"], f"examples:\n{texts['examples']}"
        return super().format_help()


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wide enough that the longest name of a command has its help beside it."""

    def __init__(self, prog: str, **how: Any) -> None:
        super().__init__(prog, **how)
        self._action_max_length = max(map(len, COMMANDS)) + 4


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; with `only` (a name, or ""), the others have no options."""
    parser = _ArgumentParser(
        prog="captune",
        description="Teach frozen vision and language models your images, and see the evidence.",
        epilog="captune COMMAND --help shows a command's options and examples.\n"
        "A first try: captune demo",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"captune {captune.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        listed: dict[str, Any] = {} if only else {"help": help_texts()[name]["help"]}
        sub = commands.add_parser(
            name, **listed, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if only is None or only == name:
            if command.options:
                add_options(sub, command.options_type())
            _add_common(sub, has_tables=command.tables, has_answers=command.answers)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, has_tables: bool, has_answers: bool) -> None:
    writes = {"--out", "--to"} & parser._option_string_actions.keys()
    rule = "Missing folders of files that are written are made." if writes else None
    group = parser.add_argument_group("everywhere", rule)
    printed = group.add_mutually_exclusive_group()
    printed.add_argument(
        "--json", action="store_true", help="print one JSON object, and nothing else"
    )
    if has_answers:
        printed.add_argument(
            "--jsonl",
            action="store_true",
            help="print one JSON object per image, each as soon as it is computed",
        )
    if has_tables:
        printed.add_argument(
            "--table",
            choices=("md", "tex"),
            help="print the tables alone, as Markdown or LaTeX (booktabs)",
        )
    group.add_argument("--offline", action="store_true", help="never reach the network")
    group.add_argument("--debug", action="store_true", help="show tracebacks and library messages")


def program() -> NoReturn:
    """The command that was typed, and the end of the process."""
    status: list[int] = []
    atexit.register(_end, status)  # what is registered first is called last
    status.append(main())
    sys.exit(status[0])


def _end(status: Sequence[int]) -> None:
    """End at once, with what Python does at its end done already, but for taking itself apart.

    Behind torch and a model that is freeing object by object: half a second, and many seconds after
    a Ctrl-C on a busy machine.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it is closed, or its reader has gone
            stream.flush()
    if status:
        os._exit(status[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 2 for the user's mistake, 1 for ours, 130 after Ctrl-C.

    Nobody has to read what it prints: a stream that is closed, or whose reader has gone, changes
    nothing of that.
    """
    open_streams()
    with plain_streams(), _second_interrupt_ends():
        try:
            return _run(argv)
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError:
                    # Python would try again when it ends, and end with status 120
                    discard_stream(stream)


@contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """The first Ctrl-C ends a command in good order, and the second one at once."""
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:
        yield
        return

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # after a first one, the end of Python's threads can be broken off as well
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, before)


def _stop_decoding() -> None:
    """Let no thread go on with a slow image; Python waits for threads before it ends."""
    decoding = sys.modules.get("captune.images.decode")
    if decoding is not None:
        decoding.stop_decoding()


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    # `captune --json classify ...` means what it says
    early = list(takewhile({"--json", "--offline", "--debug"}.__contains__, words))
    words = [*words[len(early) :], *early]
    only = next((word for word in words if not word.startswith("-")), None)
    try:
        arguments = _parsed(words, only)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BrokenPipeError:
        return 0  # argparse of Python 3.11.2 lets it through where the help is written
    except _Misuse as misuse:
        if "--json" in words:
            _print_error(only, misuse)
        say(str(misuse))
        return 2
    _prepare(arguments)
    return _done(arguments)


def _parsed(words: Sequence[str], only: str | None) -> argparse.Namespace:
    """only: the command that they name. Raises _Misuse, and SystemExit behind a page of help."""
    parser = build_parser(only or "")
    if only is not None and only not in COMMANDS:
        meant = nearest(only, COMMANDS)
        meaning = f" (did you mean {meant}?)" if meant else ""
        raise _Misuse(f"captune: no command {only}{meaning}; captune --help shows all of them")
    words = _with_verb(words, only)
    try:
        arguments, unknown = parser.parse_known_args(words)
    except _Misuse:
        # what is missing may be there with a typing error
        if not (unknown := _unknown_flags(parser, only, words)):
            raise
    if unknown:
        raise _Misuse(_unknown_sentence(parser, only, unknown))
    if arguments.command is None:
        parser.print_help()
        parser.exit()
    arguments.typed = words
    return arguments


def _done(arguments: argparse.Namespace) -> int:
    """The exit status of a command."""
    try:
        status = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        if arguments.debug:
            logging.getLogger("captune").exception("the user's mistake")
        if arguments.json:
            _print_error(arguments.command, error)
        say(f"captune {arguments.command}: {shorten(str(error), _LONGEST_SENTENCE, keep='both')}")
        return 2
    except KeyboardInterrupt:
        _stop_decoding()
        say("", _stopped(arguments))
        return 130
    except BrokenPipeError:
        return 0  # `captune ... | head` closed the pipe: not an error
    except Exception as error:
        if arguments.json:
            _print_error(arguments.command, error)
        if arguments.debug:
            say(*traceback.format_exc().rstrip().split("\n"))
            return 1
        mistake = _of_machine(error)
        bug = (
            f"a bug in captune ({type(error).__name__}: {error}); please report it with the output"
            " of --debug and of `captune env`"
        )
        say(f"captune {arguments.command}: {mistake or bug}")
        return 2 if mistake else 1


def _of_machine(error: Exception) -> str:
    """What the machine lacks, where that is what an error says; else ""."""
    if not isinstance(error, OSError):
        return ""
    if error.errno in (errno.ENOSPC, _QUOTA):
        return "the disk is full; make room and run it again"
    if error.errno == errno.ENAMETOOLONG:
        return f"{quoted(str(error.filename))} is too long for the name of a file"
    if isinstance(error, FileNotFoundError) and not _has_working_folder():
        return "the working folder was deleted; change to another one and run it again"
    return ""


def _stopped(arguments: argparse.Namespace) -> str:
    """What Ctrl-C left of a command, and where."""
    from captune.options.shards import PLAN, is_address, spelled
    from captune.runs.writer import JOURNAL

    if not hasattr(arguments, "no_cache"):
        return "stopped; run the same command again"
    kept = []
    out = getattr(arguments, "out", None)
    if out is not None and (is_address(str(out)) or (out / PLAN).is_file()):
        return (
            f"stopped; finished shards are kept in {spelled(str(out))}. Run the same command again"
            " to continue"
        )
    if arguments.command == "caption" and out is not None and (out / JOURNAL).is_file():
        with (out / JOURNAL).open("rb") as file:
            kept.append(f"{counted(sum(1 for _ in file) - 1, 'image')} captioned in {out}")
    if arguments.command == "tune" and out is not None:
        for folder in sorted(path.parent for path in out.glob("*/tuning.json")):
            steps = [int(path.name[11:]) for path in folder.glob("checkpoints/checkpoint-*")]
            if (folder / "run.json").is_file():
                kept.append(f"{folder.name}, finished, in {folder}")
            elif steps:
                kept.append(f"{folder.name} up to update {max(steps):,} in {folder}")
    if not arguments.no_cache:
        kept.append(f"computed features in {cache_folder()}")
    if not kept:
        return "stopped; nothing was kept (--no-cache): the same command starts from the beginning"
    return (
        f"stopped; kept: {', '.join(kept)}; nothing else was kept. Run the same command again to"
        " continue"
    )


def _with_verb(words: Sequence[str], command: str | None) -> list[str]:
    """With the first verb of the command, where a single word that is no flag is no verb either."""
    verbs = COMMANDS[command].verbs if command else ()
    at = words.index(command) + 1 if command and verbs else len(words)
    is_flag = [word.startswith("-") for word in words[at : at + 2]]
    is_place = is_flag in ([False], [False, True]) and words[at] not in verbs
    return [*words[:at], *verbs[: int(is_place)], *words[at:]]


def parsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


def _known_flags(parser: argparse.ArgumentParser, command: str | None) -> list[str]:
    return list(parsers_of(parser)[command]._option_string_actions) if command else []


def _unknown_flags(
    parser: argparse.ArgumentParser, command: str | None, words: Sequence[str]
) -> list[str]:
    """The words that look like flags and are no beginning of one."""
    known = _known_flags(parser, command)
    flags = [word for word in words if word.startswith("--") and word != "--"]
    return [
        flag for flag in flags if not any(one.startswith(flag.partition("=")[0]) for one in known)
    ]


def _unknown_sentence(
    parser: argparse.ArgumentParser, command: str | None, unknown: Sequence[str]
) -> str:
    """What was typed that the command does not take, and what it may have been meant to be."""
    known = _known_flags(parser, command)
    name = f"captune {command}" if command else "captune"
    flag = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
    off, named = flag.replace("--no-", "--", 1), _OTHER_NAMES.get(flag, "")
    # without the dashes, which all have in common
    names = {one[2:]: one for one in known if one.startswith("--")}
    near = named[2:] if named in known else nearest(flag[2:], names)
    meant = f" (did you mean {names[near]}?)" if near else ""
    if off != flag and off in known:
        meant = f" ({off} is off unless it is given)"
    if command == "score" and not unknown[0].startswith("-"):
        meant = " (captune compare holds two files or more against each other)"
    elif flag == "--limit" and command in ("score", "compare"):
        meant = " (every caption counts; captune caption --limit N describes a sample of images)"
    typed = " ".join(unknown)
    return f"{name}: unrecognized arguments: {typed}{meant}; {name} --help shows what it takes"


class _Said(logging.Handler):
    """What captune logs is said: a message in one line, and the lines of a traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        say(record.getMessage(), *trace.splitlines())


def _has_working_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _print_error(command: str | None, error: Exception) -> None:
    """The one object of `--json`, where nothing came out."""
    with suppress(OSError):  # the sentence on standard error still has to come
        print_json(command, error=str(error))


def _prepare(arguments: argparse.Namespace) -> None:
    """Set what must be set before a library is imported."""
    for stream in (sys.stdout, sys.stderr):
        # a file name that is not UTF-8 must not end a run when it is printed
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    level = logging.DEBUG if arguments.debug else logging.INFO
    logger = logging.getLogger("captune")
    if not logger.handlers:
        logger.addHandler(_Said())
        logger.propagate = False
    logger.setLevel(level)
    if not arguments.debug:
        # Pillow warns of what is odd in files that it reads all the same; a refusal has a reason
        warnings.filterwarnings("ignore", module="PIL")
        logging.getLogger("PIL").setLevel(logging.CRITICAL)
    if arguments.offline or is_offline():
        # also for CAPTUNE_OFFLINE=1: the hub library has a variable of its own
        set_offline(True)
