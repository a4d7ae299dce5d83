"""Does a metrics.json hold? The same inputs, scored again by the recipe that it names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import read_text
from captune.images import printable
from captune.options import MetricOptions, ScoreOptions
from captune.runs import versions
from captune.scoring.recording import inputs_of, score_captions

if TYPE_CHECKING:
    from captune.embedding import Bar

# Text metrics are arithmetic and come out the same on any machine; a model's features move with
# the processor and the libraries below it.
_TEXT_TOLERANCE = 1e-9
_MODEL_TOLERANCE = 1e-3
_PATHS = ("references", "photos")


@dataclass(frozen=True)
class Check:
    """One figure of the file: as recorded, as computed again, and whether they agree."""

    metric: str
    name: str
    recorded: float
    computed: float
    holds: bool


@dataclass
class Verification:
    """What came of it. changed: what is not as it was then, one sentence each."""

    file: Path
    images: int
    checks: list[Check]
    changed: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every figure came out again, from the same inputs."""
        return not self.changed and all(check.holds for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "run": str(self.file),
            "images": self.images,
            "skipped": [],
            "holds": self.holds,
            "changed": self.changed,
            "metrics": {
                check.metric: {
                    "recorded": check.recorded,
                    "computed": check.computed,
                    "holds": check.holds,
                }
                for check in self.checks
            },
        }


def verify(
    options: ScoreOptions, *, bar: Bar, say: Callable[[str], None] = lambda sentence: None
) -> Verification:
    """Compute the metrics.json (or score run) `options.verify` again.

    Inputs are taken from where they were; candidates, references and photos that are given in
    `options` are taken instead, for a run that moved. Raises UserError for a file that is no
    metrics.json of `captune score` and for inputs that cannot be read.
    """
    assert options.verify is not None
    path = options.verify / "metrics.json" if options.verify.is_dir() else options.verify
    recorded = _read(path)
    again = _options(recorded, options, path)
    result = score_captions(again, bar=bar, say=say)
    checks = [_check(id, about, result.metrics[id]) for id, about in recorded["metrics"].items()]
    verification = Verification(path, result.images, checks)
    verification.changed = [
        *_changed_inputs(recorded["inputs"], inputs_of(result.scored)),
        *_changed_recipes(recorded["metrics"], result.metrics),
    ]
    if result.images != recorded["images"]:
        verification.changed.append(
            f"{recorded['images']:,} images were scored then, {result.images:,} now"
        )
    then = recorded.get("versions", {})
    for package, version in versions().items():
        if package in then and then[package] != version:
            say(f"{package} was {then[package]} then and is {version} now")
    return verification


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(str(path)))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error})") from None
    expected = {"images": int, "metrics": dict, "inputs": dict, "options": dict}
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), kind) for name, kind in expected.items()
    ):
        raise UserError(
            f"{path}: is not the metrics.json of a score; make one with captune score ... --out RUN"
        )
    return content


def _options(recorded: dict[str, Any], given: ScoreOptions, path: Path) -> ScoreOptions:
    """The recorded options, with the paths that were given now in the place of the old ones."""
    known = {field.name for field in dataclasses.fields(MetricOptions)}
    values = {name: value for name, value in recorded["options"].items() if name in known}
    values["metrics"] = ",".join(recorded["metrics"])
    for name in _PATHS:
        values[name] = getattr(given, name) or _path_of(recorded["inputs"], name)
    values["candidates"] = given.candidates or _path_of(recorded["inputs"], "candidates")
    for name in ("device", "batch_size", "workers", "no_cache"):
        values[name] = getattr(given, name)
    try:
        return ScoreOptions(**values, no_interval=True)
    except TypeError as error:
        raise UserError(f"{path}: its options are not those of a score ({error})") from None


def _path_of(inputs: dict[str, Any], name: str) -> Path | None:
    about = inputs.get(name)
    return Path(about["path"]) if isinstance(about, dict) and "path" in about else None


def _check(id: str, recorded: dict[str, Any], computed: dict[str, Any]) -> Check:
    then, now = float(recorded["corpus"]), float(computed["corpus"])
    tolerance = _MODEL_TOLERANCE if "model" in computed["recipe"] else _TEXT_TOLERANCE
    return Check(id, computed["name"], then, now, abs(then - now) <= tolerance)


def _changed_inputs(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changed = []
    for name, about in now.items():
        before = then.get(name)
        if about is None or not isinstance(before, dict):
            continue
        if before.get("sha256") != about["sha256"]:
            changed.append(
                f"the {name} are others: {printable(about['path'])} has sha256"
                f" {about['sha256'][:12]}, scored were {str(before.get('sha256'))[:12]}"
            )
    return changed


def _changed_recipes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Entries of a recipe that are others today, such as a model's weights."""
    changed = []
    for id, about in now.items():
        before = then[id].get("recipe", {})
        differing = [
            key for key, value in about["recipe"].items() if key in before and before[key] != value
        ]
        for key in differing:
            if key != "device":
                changed.append(f"{id}: {key} was {before[key]} and is {about['recipe'][key]}")
    return changed
