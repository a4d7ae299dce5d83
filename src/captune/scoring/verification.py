"""Does a metrics.json hold? The same inputs, scored again by the recipe that it names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.errors import UserError
from captune.files import printable
from captune.metrics.catalogue import metric_of
from captune.metrics.frequency import CORPUS, SHIPPED
from captune.options import ScoreOptions
from captune.runs import versions
from captune.runs.records import plain
from captune.scoring.recorded import INPUTS, Recorded, is_finite, read_recorded
from captune.scoring.recording import ScoreResult, score_captions
from captune.scoring.score import HOW_COMPUTED, ScoredCaptions

if TYPE_CHECKING:
    from captune.embedding import Bar

# Text metrics are arithmetic and come out the same on any machine; a model's features move with
# the processor and the libraries below it.
_TEXT_TOLERANCE = 1e-9
_MODEL_TOLERANCE = 1e-3
# where the inputs are now; all else but how to compute is the file's to say
_GIVEN = ("verify", "df", *INPUTS)
# of a recipe: where it ran, which decides nothing, and what a reader is told of only
_ANYWHERE = ("device",)
_NOTED = ("tokenizer_version", "package_version")


@dataclass(frozen=True)
class Check:
    """One figure of the file: as recorded, as computed again, and whether they agree.

    holds: the figure and its interval came out again.
    """

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
        """Whether everything came out again, from the same inputs."""
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
    """Compute the metrics.json (or score run) `options.verify` again, and the records beside it.

    Inputs are taken from where they were; candidates, references, images and a table of document
    frequencies that are given in `options` are taken instead, for a run that moved. Other options
    than these and those of the device are refused: the file says how it was scored.
    Raises UserError for a file that is no metrics.json of `captune score` and for inputs that
    cannot be read.
    """
    assert options.verify is not None
    _refuse_others(options)
    recorded = read_recorded(options.verify)
    result = score_captions(_options(recorded, options), bar=bar, say=say)
    checks = [_check(id, about, result.metrics[id]) for id, about in recorded.metrics.items()]
    changed = [*_changed_inputs(recorded, result.scored), *_changed_recipes(recorded, result)]
    if result.images != recorded.images:
        changed.append(f"{recorded.images:,} images were scored then, {result.images:,} now")
    changed += [*_changed_intervals(recorded, result), *_changed_agreement(recorded, result)]
    changed += _changed_records(recorded, result.scored)
    for sentence in _other_versions(recorded, result):
        say(sentence)
    return Verification(recorded.path, result.images, checks, changed)


def _refuse_others(given: ScoreOptions) -> None:
    ignored = [
        f"--{field.name.replace('_', '-')}"
        for field in dataclasses.fields(ScoreOptions)
        if field.name not in (*_GIVEN, *HOW_COMPUTED)
        and getattr(given, field.name) != field.default
    ]
    if ignored:
        raise UserError(
            f"--verify: scores as the file says, so {' and '.join(ignored)} would change nothing;"
            " leave that out"
        )


def _options(recorded: Recorded, given: ScoreOptions) -> ScoreOptions:
    """The recorded options, with the paths that were given now in the place of the old ones."""
    values = {**recorded.options, "metrics": ",".join(recorded.metrics)}
    for name in INPUTS:
        then = recorded.inputs.get(name)
        values[name] = getattr(given, name) or (Path(then["path"]) if then else None)
    metrics = [metric_of(id) for id in recorded.metrics]
    # a plugin may look at whatever there is, captune's own text metrics do not look at images
    if given.images is None and not any(metric.needs_images for metric in metrics):
        values["images"] = None
    if given.df != CORPUS:
        before = values.get("df", CORPUS)
        if before == CORPUS or before in SHIPPED:
            raise UserError(
                f"--df {printable(given.df)}: the file was scored with {before}, which needs no"
                " other place; leave --df out"
            )
        values["df"] = given.df
    for about in recorded.metrics.values():
        dtype = about["recipe"].get("dtype")
        if "model" in about["recipe"] and dtype in ("float32", "float16", "bfloat16"):
            values["dtype"] = dtype
    for name in HOW_COMPUTED:
        values[name] = getattr(given, name)
    try:
        return ScoreOptions(**values, no_interval=not recorded.has_intervals)
    except UserError as error:
        raise UserError(f"{printable(str(recorded.path))}: its {error}") from None


def _tolerance(recipe: dict[str, Any]) -> float:
    return _MODEL_TOLERANCE if "model" in recipe else _TEXT_TOLERANCE


def _check(id: str, recorded: dict[str, Any], computed: dict[str, Any]) -> Check:
    then, now = float(recorded["corpus"]), float(computed["corpus"])
    holds = abs(then - now) <= _tolerance(computed["recipe"])
    return Check(id, computed["name"], then, now, holds)


def _changed_inputs(recorded: Recorded, scored: ScoredCaptions) -> Iterator[str]:
    for name, about in scored.inputs().items():
        before = recorded.inputs.get(name)
        if about is None:
            continue
        if before is None:
            yield f"there were no {name} then"
        elif before["sha256"] != about["sha256"]:
            yield (
                f"the {name} are others: {printable(about['path'])} has sha256"
                f" {about['sha256'][:12]}, scored were {printable(before['sha256'][:12])}"
            )


def _changed_recipes(recorded: Recorded, result: ScoreResult) -> Iterator[str]:
    """Names and entries of a recipe that are others today, such as a model's weights."""
    for id, now in result.metrics.items():
        then = recorded.metrics[id]
        for key, before, after in _differing(then["recipe"], _plain(now["recipe"])):
            if key not in (*_ANYWHERE, *_NOTED):
                yield f"{id}: {printable(key)} was {_shown(before)} and is {_shown(after)}"
        if then["name"] != now["name"]:
            yield f"{id}: its name was {printable(then['name'])} and is {now['name']}"


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """As it reads after it was written: a tuple is a list."""
    read: dict[str, Any] = json.loads(json.dumps(recipe))
    return read


def _differing(then: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*then, *now]):
        before, after = then.get(key, _ABSENT), now.get(key, _ABSENT)
        if before != after:
            yield key, before, after


_ABSENT = object()


def _shown(value: object) -> str:
    return "absent" if value is _ABSENT else printable(f"{value}")


def _changed_intervals(recorded: Recorded, result: ScoreResult) -> Iterator[str]:
    for id, now in result.metrics.items():
        then = recorded.metrics[id]["interval"]
        if not _same(then, now["interval"], _tolerance(now["recipe"])):
            yield f"{id}: its interval was {then} and is {now['interval']}"


def _changed_agreement(recorded: Recorded, result: ScoreResult) -> Iterator[str]:
    then = recorded.agreement
    now = plain(result.agreement)
    tolerance = max(_tolerance(about["recipe"]) for about in result.metrics.values())
    if tolerance > _TEXT_TOLERANCE:
        # ranks move where scores of a model do, and sentences round them
        tolerance *= 10
        then, now = ({**side, "sentences": []} if side else side for side in (then, now))
    if not _same(then, now, tolerance):
        yield "the agreement of the metrics came out otherwise"


def _changed_records(recorded: Recorded, scored: ScoredCaptions) -> Iterator[str]:
    """The first line of the records that is not what was scored now, and how many are."""
    if recorded.records is None:
        return
    tolerances = {id: _tolerance(score.recipe) for id, score in scored.scores.items()}
    images = list(scored.candidates)
    other, lines = [], 0
    for number, record in recorded.lines():
        lines += 1
        image = images[number - 1] if number <= len(images) else None
        if image is None or not _is_record(record, image, scored, tolerances):
            other.append(number)
    shown = printable(str(recorded.records))
    if other:
        more = f" and {len(other) - 1:,} more" if len(other) > 1 else ""
        yield f"{shown}: line {other[0]:,}{more} came out otherwise"
    if lines != len(images):
        yield f"{shown}: has {lines:,} lines for {len(images):,} images"


def _is_record(
    record: Any, image: str, scored: ScoredCaptions, tolerances: dict[str, float]
) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("scores"), dict):
        return False
    scores, file = record["scores"], scored.images.get(image)
    return (
        (record.get("image"), record.get("caption")) == (image, scored.candidates[image])
        and record.get("references") == scored.references.get(image, [])
        and (file is None or record.get("path") == file.name)
        and scores.keys() == tolerances.keys()
        and all(
            _same(scores[id], scored.scores[id].per_image[image], tolerance)
            for id, tolerance in tolerances.items()
        )
    )


def _same(then: Any, now: Any, tolerance: float) -> bool:
    """Whether two JSON values are equal, and their numbers nearly."""
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(
            _same(then[key], now[key], tolerance) for key in then
        )
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(
            _same(one, other, tolerance) for one, other in zip(then, now, strict=True)
        )
    if is_finite(then) and is_finite(now):
        return bool(abs(then - now) <= tolerance)
    return bool(then == now)


def _other_versions(recorded: Recorded, result: ScoreResult) -> Iterator[str]:
    for package, version in versions().items():
        then = recorded.versions.get(package, version)
        if then != version:
            yield f"{package} was {printable(then)} then and is {version} now"
    noted = {
        f"{key} was {_shown(before)} then and is {_shown(after)} now"
        for id, now in result.metrics.items()
        for key, before, after in _differing(recorded.metrics[id]["recipe"], _plain(now["recipe"]))
        if key in _NOTED
    }
    yield from sorted(noted)
