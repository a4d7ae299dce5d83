"""One method's folder in the run of a tune: begun, gone on with, finished.

tuning.json         what was asked for; there from the first moment on
checkpoints/        what a killed training goes on from; removed in the end
model.safetensors, config.json      the tuned captioner
records.jsonl, metrics.json, run.json   a run like any other, written last
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from captune.captioning.training.diagnosis import Finding
from captune.captioning.training.trainer import History
from captune.errors import UserError
from captune.files import holds_files, whole_file
from captune.metrics.scores import Scores
from captune.models.checkpoint_files import read_object
from captune.runs import read_run
from captune.runs.reader import METRICS, damaged
from captune.statistics import Interval, bootstrap_each
from captune.text import shorten

_ASKED = "tuning.json"
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What came of one method.

    trained: parameters, by part ("bridge.layers", ...). scores, intervals: over all validation
    images, by metric id. val_loss: of the validation sample in the best epoch; None where it was
    no number.
    """

    method: str
    trained: dict[str, int]
    scores: dict[str, dict[str, Any]]
    best_epoch: int
    val_loss: float | None
    seconds: float
    findings: list[dict[str, Any]]
    history: dict[str, Any]
    images: int

    @property
    def parameters(self) -> int:
        """All that was trained."""
        return sum(self.trained.values())

    def figure(self, select: str) -> float:
        """What methods are compared by; higher is better."""
        if select == "loss":
            return -math.inf if self.val_loss is None else -self.val_loss
        return float(self.scores[select]["corpus"])

    def row(self) -> dict[str, Any]:
        """One line of the table."""
        cells: dict[str, Any] = {"method": self.method, "trained": self.parameters}
        for id in ("cider", "clipscore", "bleu_4"):
            score = self.scores.get(id)
            low, high = (score["interval"] or (None, None)) if score else (None, None)
            cells |= {id: score and score["corpus"], f"{id}_low": low, f"{id}_high": high}
        return cells | {"best_epoch": self.best_epoch, "seconds": round(self.seconds, 1)}


def tuned_of(
    method: str,
    trained: Mapping[str, int],
    scores: Mapping[str, Scores],
    history: History,
    findings: list[Finding],
    *,
    seed: int,
) -> Tuned:
    """The figures of a training that has come to its end."""
    best = next(e for e in history.epochs if round(e["epoch"]) == history.best_epoch)
    intervals = _intervals(scores, seed)
    return Tuned(
        method=method,
        trained=dict(trained),
        scores={
            id: {
                "name": score.name,
                "corpus": score.corpus,
                "interval": intervals[id],
                "recipe": score.recipe,
            }
            for id, score in scores.items()
        },
        best_epoch=history.best_epoch,
        val_loss=best["loss"],
        seconds=history.seconds,
        findings=[dataclasses.asdict(finding) for finding in findings],
        history={
            "losses": [list(pair) for pair in history.losses],
            "epochs": history.epochs,
            "stopped_early": history.stopped_early,
        },
        images=len(next(iter(scores.values())).per_image),
    )


def _intervals(scores: Mapping[str, Scores], seed: int) -> dict[str, list[float] | None]:
    known = {id: score.sums() for id, score in scores.items() if len(score.per_image) > 1}
    found: list[Interval] = (
        bootstrap_each(list(known.values()), resamples=_RESAMPLES, seed=seed) if known else []
    )
    by_id = {id: [low, high] for id, (low, high) in zip(known, found, strict=True)}
    return {id: by_id.get(id) for id in scores}


def begin(folder: Path, asked: Mapping[str, Any]) -> None:
    """Note what is asked for, or check that the training in `folder` is of the same.

    Raises UserError where the folder holds something else, or a training of other options or data.
    """
    path = folder / _ASKED
    if not path.is_file():
        if folder.is_dir() and holds_files(folder):
            raise UserError(f"{folder}: holds files that are not of a tune; choose a new --out")
        with whole_file(path) as file:
            json.dump(asked, file, indent=1, default=str)
        return
    before = read_object(path)
    now = json.loads(json.dumps(asked, default=str))
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            was, is_now = (_shown(side.get(name)) for side in (before, now))
            raise UserError(
                f"{folder}: was begun with {name.replace('_', '-')} {was}, and now it is {is_now};"
                " run the same command to go on, or choose a new --out"
            )


def is_finished(folder: Path) -> bool:
    """Whether its run was written, which is the last thing that happens."""
    return (folder / "run.json").is_file() and (folder / "metrics.json").is_file()


def read_finished(folder: Path) -> Tuned:
    """The figures of a finished folder. Raises UserError for a damaged one."""
    tuned = read_run(folder).metrics.get("tuned")
    if tuned is None:
        raise damaged(folder, METRICS, "it is of no method of a tune")
    return Tuned(**{field.name: tuned[field.name] for field in dataclasses.fields(Tuned)})


def clear(folder: Path) -> None:
    """Remove what only a training needs."""
    shutil.rmtree(folder, ignore_errors=True)


def _shown(value: Any) -> str:
    text = str(value)
    return text if " " in text else shorten(text, 16)
