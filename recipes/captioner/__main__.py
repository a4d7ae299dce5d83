"""From data to the captioner that ships.

    python -m recipes.captioner --flickr8k DIR --coco DIR --coco-text FILE WORK

Every step is a command that is printed before it runs and could be typed. A step that has ended is
in WORK/steps.jsonl with its words, seconds and figures, and is not run again while its words and
those of the steps before it are the same; a training that was killed goes on by itself. In the end
WORK/captioner is what would ship, and WORK/card.md and WORK/steps.md are its tables.

    data            both sets of images in one folder of links, and three views of each image
    words           people's captions of the views, each also mirrored, and captions without images;
                    tags stand before each
    reward, ...     self-critical training with CIDEr, three times, of both
    captioner       trained parameters in half precision
    candidates      five captions of each validation image
    choose          a summary of the training captions, and weights of the choice among candidates
    agreement       how likely people agree with a caption
    likeliest, scores    figures on the validation images: the likeliest beams, the chosen captions

Seeds are those of the commands. --dry takes a few images and updates: a test of the way, not of the
captioner. --ship copies the result into packages/captune-lite.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from captune.cli import main as captune
from captune.errors import UserError
from captune.files import whole_file

ROOT = Path(__file__).parents[2]
LITE = ROOT / "packages" / "captune-lite"
_CIDER_STEPS = (  # name, begins with, rate, images, seed
    ("reward", "words", "1e-4", 9000, 4),
    ("reward-2", "reward", "8e-5", 4000, 5),
    ("reward-3", "reward-2", "8e-5", 12000, 6),
)
_DRY = ("--limit", "12", "--epochs", "1", "--batch-size", "12", "--val-sample", "2")


@dataclass(frozen=True)
class Step:
    """A command: `captune`, or a script of the checkout, and its words."""

    name: str
    program: str
    words: Sequence[str]


@dataclass(frozen=True)
class Done:
    """A step that has ended. figures: on the validation images, where it has some."""

    step: str
    program: str
    words: Sequence[str]
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)


def steps_of(
    work: Path, flickr8k: Path, coco: Path, coco_text: Path, more: Sequence[str], *, dry: bool
) -> list[Step]:
    """All steps, in their order. more: options of every training."""
    data, made = work / "data", work / "captioner"
    train, val = str(data / "train.json"), str(data / "val.json")
    lite = "packages/captune-lite"
    shared = [str(data / "views"), "--captions", str(data / "views.json"),
              "--val-images", str(data / "val"), "--val-captions", val, "--val-sample", "60",
              "--method", "lora", "--vocabulary", "captions", "--score-model", "none",
              "--augment", "mirror", "--prompt", "tags", "--tags", "everyday",
              "--tags-model", "lite-research", "--extra-text", str(coco_text)]  # fmt: skip
    sizes = ["lora.rank=32", "lora.alpha=64", "lora.last=12", "bridge.last=12", "bridge.every=2",
             "bridge.width=256"]  # fmt: skip
    if not dry:
        shared += [word for size in sizes for word in ("--set", size)]
    last = [*more, *(_DRY if dry else ())]

    def tune(name: str, *words: str) -> Step:
        return Step(name, "captune", ["tune", *shared, *words, *last, "--out", str(work / name)])

    both = ["--flickr8k", str(flickr8k), "--coco", str(coco)]
    steps = [
        Step("data", f"{lite}/gather.py", [str(data), *both]),
        tune("words", "--captions-per-image", "1", "--epochs", "5", "--batch-size", "128", "--lr",
             "1e-3", "--warmup", "0.04", "--set", "bridge.dropout=0.1", "--max-tokens", "40",
             "--seed", "0"),
        *(
            tune(name, "--start", str(work / start), "--objective", "cider", "--samples", "5",
                 "--epochs", "1", "--limit", str(images), "--batch-size", "150", "--lr", rate,
                 "--warmup", "0.05", "--max-tokens", "24", "--seed", str(seed))
            for name, start, rate, images, seed in _CIDER_STEPS
        ),
    ]  # fmt: skip
    images = ["--images", str(data / "images")]
    pairs = [*images, "--captions", train, "--val-captions", val]
    folder = str(made)
    matched = ["--rerank", "match", "--rerank-model", "lite-research", "--keep-candidates"]
    return [
        *steps,
        Step("captioner", f"{lite}/adopt.py", [str(work / steps[-1].name), "--to", folder,
                                               "--tags-least", "0.3"]),
        Step("candidates", "captune", ["caption", str(data / "val"), "--model", folder, *matched,
                                       "--out", str(work / "candidates")]),
        Step("choose", f"{lite}/choose.py", [str(work / "candidates"), *pairs, "--to", folder]),
        # which takes 100 images
        *([] if dry else [Step("agreement", f"{lite}/agreement.py",
                               [folder, *images, "--captions", val])]),
        *(
            Step(name, "benchmarks/captioner.py", [folder, *pairs, "--beam", "5", "--rerank", how,
                                                   "--out", str(work / name)])
            for name, how in (("likeliest", "none"), ("scores", "auto"))
        ),
        Step("card", f"{lite}/card.py", [str(work / "scores" / "result.json"), "--card",
                                         str(work / "card.md"), "--captioner", folder]),
    ]  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Run what is left to run."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.captioner", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--flickr8k", type=Path, required=True, metavar="DIR")
    parser.add_argument("--coco", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--coco-text", type=Path, required=True, metavar="FILE", help="captions without images"
    )
    parser.add_argument("--until", metavar="STEP", help="the last step to run")
    parser.add_argument("--dry", action="store_true", help="a few images and updates")
    parser.add_argument("--ship", action="store_true", help="put the result into the package")
    parser.add_argument(
        "--more", default="", metavar="WORDS", help="further options of every training"
    )
    asked = parser.parse_args(words)
    data = (asked.flickr8k, asked.coco, asked.coco_text)
    steps = steps_of(asked.work, *data, asked.more.split(), dry=asked.dry)
    names = [step.name for step in steps]
    if asked.until is not None and asked.until not in names:
        parser.error(f"--until {asked.until}: the steps are {', '.join(names)}")
    asked.work.mkdir(parents=True, exist_ok=True)
    if not (asked.work / "card.md").exists():
        shutil.copy(LITE / "README.md", asked.work / "card.md")
    try:
        done = run(steps, asked.work, asked.until)
    except UserError as error:
        print(f"recipes.captioner: {error}", file=sys.stderr)
        return 2
    with whole_file(asked.work / "steps.md") as file:
        file.write(table(done))
    print(table(done), end="")
    if asked.ship and len(done) == len(steps):
        for path in (asked.work / "captioner").iterdir():
            shutil.copy(path, LITE / "captune_lite" / "captioner" / path.name)
        shutil.copy(asked.work / "card.md", LITE / "README.md")
    return 0


def run(steps: Sequence[Step], work: Path, until: str | None = None) -> list[Done]:
    """Every step that is not done yet. Raises UserError where one fails."""
    log = work / "steps.jsonl"
    done = (
        [Done(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []
    )
    same = [
        (one.step, one.program, list(one.words)) == (step.name, step.program, list(step.words))
        for one, step in zip(done, steps, strict=False)
    ]
    done = done[: same.index(False) if False in same else len(same)]
    for step in steps[len(done) :]:
        if until is not None and until in [one.step for one in done]:
            break
        print(f"\n{step.name}: {step.program} {' '.join(step.words)}", flush=True)
        begun = time.monotonic()
        status = program(step.program)(list(step.words))
        if status:
            raise UserError(f"{step.name} ended with status {status}; run the same again to go on")
        seconds = round(time.monotonic() - begun, 1)
        done.append(Done(step.name, step.program, step.words, seconds, figures(work / step.name)))
        with whole_file(log) as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in done)
    return done


def program(name: str) -> Callable[[list[str]], int]:
    """What runs the words of a step."""
    if name == "captune":
        return captune
    path = ROOT / name
    for place in (str(ROOT), str(path.parent)):  # a script finds those beside it
        if place not in sys.path:
            sys.path.insert(0, place)
    spec = importlib.util.spec_from_file_location(f"recipe_{path.parent.name}_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    found: Callable[[list[str]], int] = module.main
    return found


def figures(out: Path) -> dict[str, float]:
    """What a tune or a measurement that was written to `out` gave on the validation images."""
    if (out / "result.json").is_file():
        result = json.loads((out / "result.json").read_text())
        (name,) = result["captioners"]
        (row,) = [row for row in result["rows"] if row["name"] == name]
        return {id: row["scores"][id]["corpus"] for id in ("cider", "bleu_4")}
    if not (out / "metrics.json").is_file():
        return {}
    content: Any = json.loads((out / "metrics.json").read_text())
    methods = content.get("methods") or [{}]
    scores = methods[0].get("scores") or {}
    return {id: scores[id]["corpus"] for id in ("cider", "bleu_4") if id in scores}


def table(done: Sequence[Done]) -> str:
    """Quality against time, as Markdown."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    lines = [
        f"At {commit or 'no commit'}, {os.cpu_count()} processors, torch {torch.__version__}.",
        "",
        "| step | minutes | minutes so far | CIDEr-D | BLEU-4 |",
        "|---|--:|--:|--:|--:|",
    ]
    total = 0.0
    for one in done:
        total += one.seconds
        cells = [
            f"{one.figures[id]:.3f}" if id in one.figures else "" for id in ("cider", "bleu_4")
        ]
        lines.append(
            f"| {one.step} | {one.seconds / 60:.1f} | {total / 60:.1f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
