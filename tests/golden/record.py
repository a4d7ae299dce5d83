"""Run the commands and keep what came out: `python -m tests.golden.record [COMMAND ...]`.

What is typed is in commands.py, what it is typed on in material.py, how it is read in reading.py.
Without names all of it is recorded; with names these only, after the commands that they need.
Differences are printed as they are written; a number that stayed within its tolerance stays in the
file as it is, so that a diff shows what changed and not the noise of another processor.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import json
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.golden import captioner
from tests.golden.commands import COMMANDS, MISTAKES, MISTAKES_NEED, Command
from tests.golden.material import write_material
from tests.golden.reading import (
    Plain,
    file_lines,
    help_lines,
    json_lines,
    page_lines,
    run_lines,
    snapshot,
)

EXPECTED = Path(__file__).parent / "expected"
HELP, REFUSED = "help", "mistakes"
NAMES = (*COMMANDS, HELP, REFUSED)
_ENVIRONMENT = {
    "CAPTUNE_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "1000", "NO_COLOR": "1",
    "CUDA_VISIBLE_DEVICES": "", "CAPTUNE_PROGRESS": "none",
}  # fmt: skip
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Output:
    """What one command printed."""

    status: int
    out: str
    err: str


class Recorder:
    """Types commands in a folder of material; each is typed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plain = Plain(folder)
        self._texts: dict[str, dict[str, str]] = {}
        write_material(folder)
        _write_study(folder / "hw3")

    def texts(self, name: str) -> dict[str, str]:
        """Aspect -> what is pinned of this command."""
        if name not in self._texts:
            make = {HELP: self._help, REFUSED: self._mistakes}.get(name)
            lines = make() if make else self._command(COMMANDS[name])
            self._texts[name] = {
                aspect: "\n".join(found).rstrip("\n") + "\n" for aspect, found in lines.items()
            }
        return self._texts[name]

    def _command(self, command: Command) -> dict[str, list[str]]:
        for needed in command.after:
            self.texts(needed)
        before = snapshot(self.folder)
        words = shlex.split(command.words)
        typed = self._type(words)
        found = {"terminal": self._terminal(command.words, typed)}
        if typed.status != 0:
            raise RuntimeError(f"captune {command.words}\n{typed.out}{typed.err}")
        names = sorted(name for name, at in snapshot(self.folder).items() if before.get(name) != at)
        if names:
            found["files"] = file_lines(self.folder, names, self._plain)
        for name in names:
            path = self.folder / name
            if path.name == "run.json":
                kind = path.parent.relative_to(self.folder / "runs").parts
                found["-".join(("run", *kind[1:]))] = run_lines(path.parent, self._plain)
            elif path.suffix == ".html":
                found["page"] = self._page(path.read_text(), command)
        if command.json:
            typed = self._type([*words, "--json"])
            content = json.loads(typed.out)
            metrics = self.folder / str(content["run"]) / "metrics.json"
            known = json.loads(metrics.read_text()) if metrics.is_file() else {}
            found["json"] = json_lines(content, self._plain, known) + _errors(typed, self._plain)
        if command.name == "tune":
            for name, scale in (("captioner", 1.0), ("blind", 0.0)):
                captioner.lay(
                    self.folder / "runs/tune/adapter", self.folder / "models" / name, scale
                )
        return found

    def _page(self, html: str, command: Command) -> list[str]:
        """Of the page of one run, parts that the page of its job has too are only named."""
        parts = "\n".join(page_lines(html, self._plain)).split("\n\n")
        kind = command.name.removeprefix("report-")
        if kind != command.name:
            known = self.texts(kind)["page"].rstrip("\n").split("\n\n")
            parts = [
                f"{part.partition(chr(10))[0]}: as in the page of {kind}"
                # probabilities of records are rounded, so their last digit may be another one
                if any(settled(one, part, command.tolerance) == one for one in known)
                else part
                for part in parts
            ]
        return "\n\n".join(parts).split("\n")

    def _terminal(self, words: str, typed: Output) -> list[str]:
        lines = [f"$ captune {words}", *self._plain.lines(typed.out)]
        return [*lines, *_errors(typed, self._plain)]

    def _help(self) -> dict[str, list[str]]:
        whole = self._type(["--help"])
        commands = re.findall(r"^ {4}(\w+) ", whole.out, re.MULTILINE)
        found = {"captune": help_lines(whole.out, self._plain)}
        for name in commands:
            found[name] = help_lines(self._type([name, "--help"]).out, self._plain)
        return found

    def _mistakes(self) -> dict[str, list[str]]:
        for needed in MISTAKES_NEED:
            self.texts(needed)
        lines = []
        for words in MISTAKES:
            typed = self._type(shlex.split(words))
            lines += [f"$ captune {words}", *self._plain.lines(typed.out + typed.err)]
            lines.append(f"status {typed.status}")
        return {"terminal": [line for line in lines if line]}

    def _type(self, words: list[str]) -> Output:
        from captune.cli import main

        out, err = _stream(), _stream()
        with _place(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(words)
        return Output(status, _text_of(out), _text_of(err))


def _errors(typed: Output, plain: Plain) -> list[str]:
    said = [line for line in plain.lines(typed.err) if line]
    return ["", "standard error:", *said] if said else []


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[None]:
    """In `folder`, with one thread, a cache beside it and nothing of the machine's settings."""
    import torch

    from captune.storage import set_offline

    environment, threads = dict(os.environ), torch.get_num_threads()
    logger = logging.getLogger("captune")
    handlers, propagates = list(logger.handlers), logger.propagate
    logger.handlers.clear()  # the one of an earlier command writes where that command wrote
    os.environ.update(_ENVIRONMENT, CAPTUNE_CACHE=str(folder.with_name(f"{folder.name}-cache")))
    torch.set_num_threads(1)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        torch.set_num_threads(threads)
        set_offline(False)  # before the variables, one of which it gives back
        os.environ.clear()
        os.environ.update(environment)
        logger.handlers[:] = handlers
        logger.propagate = propagates


def _write_study(folder: Path) -> None:
    """The layout of the assignment's data, which a dry run only looks for."""
    for name in ("p1_data/val", "p2_data/images/train", "p2_data/images/val", "p3_data/images"):
        (folder / name).mkdir(parents=True)
    for name in ("p1_data/id2label.json", "p2_data/train.json", "p2_data/val.json"):
        (folder / name).write_text("{}")


def settled(old: str, new: str, tolerance: float) -> str:
    """`new`, with the lines of `old` where they differ by no more than the tolerance."""
    before, after = old.split("\n"), new.split("\n")
    was, is_now = ([_NUMBER.sub("#", line) for line in lines] for lines in (before, after))
    if was == is_now:
        blocks = [(0, 0, len(before))]
    else:
        matcher = difflib.SequenceMatcher(None, was, is_now, autojunk=False)
        blocks = [(a, b, size) for a, b, size in matcher.get_matching_blocks()]
    for first, second, count in blocks:
        for i in range(count):
            if _close(before[first + i], after[second + i], tolerance):
                after[second + i] = before[first + i]
    return "\n".join(after)


def _close(old: str, new: str, tolerance: float) -> bool:
    pairs = zip(_NUMBER.findall(old), _NUMBER.findall(new), strict=True)
    return all(_near(a, b, tolerance) for a, b in pairs)


def _near(old: str, new: str, tolerance: float) -> bool:
    """Whole numbers are equal, others by the tolerance or one step of the last place shown."""
    if old == new:
        return True
    if "." not in old + new and "e" not in old + new:
        return False
    places = [len(number.partition(".")[2]) for number in (old, new)]
    if places[0] != places[1] and max(places) <= 3:
        return False  # it is shown with more places, or with fewer
    step = 1.01 * 10.0 ** -max(places) if max(places) <= 3 else 1e-6
    return abs(float(old) - float(new)) <= max(step, tolerance * abs(float(old)))


def tolerance_of(name: str) -> float:
    return COMMANDS[name].tolerance if name in COMMANDS else 0.0


def difference(name: str, aspect: str, new: str) -> list[str]:
    """The lines of a unified diff against what is recorded; none where nothing changed."""
    path = EXPECTED / name / f"{aspect}.txt"
    old = path.read_text() if path.is_file() else ""
    new = settled(old, new, tolerance_of(name))
    if old == new:
        return []
    label = str(path.relative_to(EXPECTED.parent))
    return list(difflib.unified_diff(old.split("\n"), new.split("\n"), label, label, "", "", n=1))


def recorded_aspects(name: str) -> set[str]:
    return {path.stem for path in (EXPECTED / name).glob("*.txt")}


def _record(recorder: Recorder, names: Iterable[str], say: Callable[[str], None]) -> None:
    for name in names:
        texts = recorder.texts(name)
        for gone in recorded_aspects(name) - texts.keys():
            say(f"--- {name}/{gone}.txt is no more")
            (EXPECTED / name / f"{gone}.txt").unlink()
        for aspect, text in texts.items():
            path = EXPECTED / name / f"{aspect}.txt"
            changed = difference(name, aspect, text)
            if not changed:
                continue
            known = path.is_file()
            say("\n".join(changed) if known else f"+++ {name}/{aspect}.txt is new")
            path.parent.mkdir(parents=True, exist_ok=True)
            old = path.read_text() if known else ""
            path.write_text(settled(old, text, tolerance_of(name)))


def main(words: list[str] | None = None) -> None:
    """Record, and print what changed."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden.record", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="COMMAND", help=f"of: {', '.join(NAMES)}")
    names = parser.parse_args(words).names
    if unknown := set(names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "material")
        place.mkdir()
        _record(Recorder(place), names or NAMES, print)


if __name__ == "__main__":
    main()
