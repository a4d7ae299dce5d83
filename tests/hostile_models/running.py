"""Each folder before the command that reads it, in a process of its own; time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hostile_models.made import CAPTIONER, CONFIG, Hostile, words_of, write_models

SECONDS = 10.0  # longest time, without the import of torch
MEBIBYTES = 1536.0  # most memory over that of an idle process


@dataclass(frozen=True)
class Outcome:
    """What came of one folder. verdict: answered, refused, crashed, hung, memory."""

    case: Hostile
    verdict: str
    said: str
    seconds: float
    mebibytes: float

    @property
    def is_as_it_must_be(self) -> bool:
        """Whether it was answered or refused as the case asks, in time and memory."""
        wanted = "refused" if self.case.refused else "answered"
        named = not self.case.refused or any(w in self.said for w in self.case.refused.split("|"))
        small = self.seconds <= SECONDS and self.mebibytes <= MEBIBYTES
        return self.verdict == wanted and named and small


def judge(status: int | None, out: str, err: str) -> tuple[str, str]:
    """(verdict, the sentence) of a command that has ended."""
    lines = [line for line in err.splitlines() if not line.endswith("(weights_only=True)")]
    said = " ".join(lines)[:600]
    if status == 0:
        captions = json.loads(out).get("captions")
        empty = captions is not None and not any(one["caption"] for one in captions)
        return ("crashed" if empty else "answered"), said or "no word"
    # a sentence: one line, and no list of what Python was doing
    is_sentence = status == 2 and len(lines) == 1 and "Traceback" not in err
    return ("refused" if is_sentence else "crashed"), said


def run_here(words: Sequence[str], out: Path, err: Path, knows_ids: bool) -> None:
    """The command in this process, which it then ends; what it prints goes to the two files.

    knows_ids: whoever made the folder wrote the ids of its parts into the captioner's config.
    """
    import faulthandler

    faulthandler.disable()
    os.environ["CAPTUNE_OFFLINE"] = "1"
    os.environ.pop("RUST_BACKTRACE", None)
    for path, number in ((out, 1), (err, 2)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    import captune.models.load  # noqa: F401  (the import of torch is not what is measured)
    from captune.cli import main

    if knows_ids:
        from captune.captioning import checkpoint, generation

        checkpoint.check_decoder = lambda *_: None
        generation.check_image_encoder = lambda *_: None
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _resident("VmRSS")
    began = time.monotonic()
    status = main(list(words))
    seconds = time.monotonic() - began
    used = max(0.0, _resident("VmHWM") - before)
    Path(f"{out}.used").write_text(f"{seconds} {used}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _resident(name: str, process: int | str = "self") -> float:
    """MiB of a process; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def put_before(case: Hostile, template: Path, folder: Path) -> Outcome:
    """Copy, change, run in a process of its own, measure.

    template: what `write_models` wrote, at the same place as it was written to: specs are paths.
    """
    from tests import processes

    for part in template.iterdir():
        target = folder / part.name
        shutil.copytree(part, target) if part.is_dir() else shutil.copyfile(part, target)
    recipe = folder / CAPTIONER / CONFIG
    recipe.write_text(recipe.read_text().replace(str(template), str(folder)))
    case.change(folder)
    out, err = folder / "stdout", folder / "stderr"
    knows_ids = not case.name.startswith(CAPTIONER)
    process = processes.start(run_here, words_of(case.command, folder), out, err, knows_ids)
    began, most, first = time.monotonic(), 0.0, 0.0
    while process.is_alive():
        process.join(0.05)
        resident = _resident("VmRSS", process.pid or 0)
        first = first or resident
        most = max(most, resident - first)
        spent = time.monotonic() - began
        if spent > 3 * SECONDS or most > 3 * MEBIBYTES:
            process.kill()
            process.join()
            return Outcome(case, "hung" if spent > 3 * SECONDS else "memory", "", spent, most)
    used = Path(f"{out}.used")
    seconds, mebibytes = map(float, used.read_text().split()) if used.exists() else (0.0, most)
    texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    verdict, said = judge(process.exitcode, *texts)
    return Outcome(case, verdict, said, seconds, mebibytes)


def run_all(cases: Sequence[Hostile], on_outcome: Callable[[Outcome], None]) -> list[Outcome]:
    """Every case after the other, each in a folder of its own."""
    found = []
    with tempfile.TemporaryDirectory(prefix="captune-hostile-") as place:
        os.environ["CAPTUNE_CACHE"] = f"{place}/cache"
        template = write_models(Path(place) / "template")
        for number, case in enumerate(cases):
            folder = Path(place) / str(number)
            folder.mkdir()
            found.append(put_before(case, template, folder))
            on_outcome(found[-1])
            shutil.rmtree(folder)
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    """tried, answered, refused with a sentence, crashed, hung, most memory, longest time."""
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    names = ("answered", "refused", "crashed", "hung", "memory")
    rows = [("tried", str(len(outcomes))), *((name, str(verdicts[name])) for name in names)]
    rows += [
        ("otherwise than it must be", str(sum(not one.is_as_it_must_be for one in outcomes))),
        ("most memory over idle", f"{max(one.mebibytes for one in outcomes):.0f} MiB"),
        ("longest time", f"{max(one.seconds for one in outcomes):.1f} s"),
    ]
    return "\n".join(f"{name:26} {value}" for name, value in rows)
