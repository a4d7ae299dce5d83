"""Several captioners over the same images, or several files of captions, held against the best.

Of `captune caption --model A --model B` each has a run of its own, RUN/captioners/NAME, in which it
resumes; RUN itself says what each comes to, by scores, speed and memory. Of `captune compare A B C`
there are the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import structs

from captune.answer_files import row_files, row_paths
from captune.captions import CaptionFile, match_captions, read_references
from captune.captions.file import CAPTION_ENDINGS
from captune.errors import UserError
from captune.files import home_path, real_path
from captune.images import ImageSet, Skipped, find_images
from captune.jobs import MOST_ANSWERS, Result, check_outputs, files_among, page_tables
from captune.options.captioning import CaptionOptions
from captune.options.scoring import CompareOptions, MetricOptions
from captune.progress import SILENT, Progress
from captune.runs import RunWriter
from captune.runs.evaluation import CaptionerFigures, CaptionersMetrics, SideFigure
from captune.runs.metrics import AgainstBest
from captune.runs.records import CaptionersRecord, ComparedCaption, json_value
from captune.runs.writer import captioner_run, writes_run
from captune.scoring.compare import compare_with_best
from captune.scoring.score import (
    ScoredCaptions,
    by_ids_of,
    chosen_metrics,
    inputs_of,
    origin_of,
    score_files,
    small_sample_note,
)
from captune.statistics import is_settled
from captune.tables import Column, Table
from captune.text import counted, decimal, listed, p_value, short_names, signed
from captune_metrics.catalogue import leading, title_of
from captune_metrics.display import printable
from captune_metrics.scores import intervals_of

if TYPE_CHECKING:
    from captune.captioning.caption import Caption
    from captune.jobs.caption import CaptionResult

_FEW = 20  # images whose captions are printed
Texts = Mapping[str, Mapping[str, str]]  # captioner -> image -> caption
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(kw_only=True, eq=False)
class CaptionersResult(Result):
    """What several captioners said of the same images; its items are their captions.

    captioners: what each came to, by its name; none of files. metrics: what metrics.json holds.
    """

    metrics: CaptionersMetrics
    captioners: dict[str, CaptionResult] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; answers: of each image and captioner, null above 10,000."""
        figures = json_value(self.metrics)
        shown = ("captioners", "alike", "scored", "best", "against_best", "verdict", "names")
        is_all = self.images * len(self.metrics.captioners) <= MOST_ANSWERS
        return {
            **super().summary(),
            **{name: figures[name] for name in shown},
            "notes": self.notes,
            "answers": self.kept_answers if is_all else None,
        }

    def tables(self) -> list[Table]:
        """Captions of few images, or that are written nowhere, and the captioners side by side."""
        said: dict[str, dict[str, str]] = {}
        for one in self.kept_answers:
            said.setdefault(one["image"], {})[one["captioner"]] = one["caption"]
        columns = [Column("image"), *(Column(name, wide=True) for name in self.captioners)]
        rows = [[image, *map(captions.get, self.captioners)] for image, captions in said.items()]
        captions = [Table("images", "captions", columns, rows)]
        is_shown = bool(rows) and (self.images <= _FEW or not self.written)
        return [*(captions if is_shown else []), *page_tables("captioners", self.metrics)]

    def headline(self) -> str:
        """Which captioner is the best, and how surely."""
        return " ".join(f"{sentence}." for sentence in self.metrics.verdict)

    def sentences(self) -> list[str]:
        """How many images; recipes stand below the table."""
        return [counted(self.images, "image")]


def takes_several(job: F) -> F:
    """Decorate captioning: of several --model each describes the images, and they are compared."""

    @wraps(job)
    def inside(options: CaptionOptions, *args: Any, **named: Any) -> Any:
        if isinstance(options.model, str):
            return job(options, *args, **named)
        return _run(options, *args, job=job, **named)

    return cast("F", inside)


@writes_run("captioners")
def _run(
    options: CaptionOptions,
    progress: Progress = SILENT,
    *,
    job: Callable[..., CaptionResult],
    command: Sequence[str] = (),
    each: Callable[[Caption], None] | None = None,
    found: ImageSet | None = None,
) -> CaptionersResult:
    """One captioner after the other, then their scores and the page. job: captions with one."""
    from captune.captioning.any_captioner import prepare_captioner  # it loads torch
    from captune.jobs.caption_outputs import check_somewhere

    found = find_images(options.images, limit=options.limit) if found is None else found
    if each is None:
        check_somewhere(options, len(found.images))
    scoring = _scoring(options, found)
    read = files_among(*options.images) | ({} if scoring is None else inputs_of(scoring, {}))
    check_outputs(read, {}, options.out, row_paths(options.to, (".csv", ".jsonl", ".parquet")))
    ones = {name: _one_of(options, model, name) for name, model in _named(options.model).items()}
    # each that cannot be taken is refused before the first one writes
    prepared = {name: prepare_captioner(one) for name, one in ones.items()}
    texts: dict[str, dict[str, str]] = {name: {} for name in ones}
    captioners: dict[str, CaptionResult] = {}
    answers: list[dict[str, Any]] = []

    def take(name: str, caption: Caption) -> None:
        named, about = replace(caption, captioner=name), prepared[name].about
        texts[name][caption.image.name] = caption.caption
        answer = named.answer()
        if len(answers) < MOST_ANSWERS:
            answers.append(answer)
        kept = {key: answer[key] for key in ("image", "captioner", "caption", "log_probability")}
        add_row({**kept, "model": about["spec"], "weights_id": about["weights_id"]})
        if each is not None:
            each(named)

    with row_files(options.to, {}, raw=options.raw_csv) as add_row:
        for name, one in ones.items():
            progress.message(f"{name}: captioner {len(captioners) + 1} of {len(ones)}")
            captioners[name] = job(
                one,
                progress,
                command=command,
                found=found,
                prepared=prepared[name],
                each=partial(take, name),
            )
    images = [one.name for one in found.images if all(one.name in said for said in texts.values())]
    if not images:
        raise UserError("there is no image that each of the captioners could describe")
    said = {name: {image: captions[image] for image in images} for name, captions in texts.items()}
    figures = {name: _figures_of(one) for name, one in captioners.items()}
    skipped = list(dict.fromkeys(item for one in captioners.values() for item in one.skipped))
    metrics = _compared(figures, said, skipped)
    scored: dict[str, ScoredCaptions] = {}
    if scoring is not None:
        files = [_captions(name, texts) for name, texts in said.items()]
        scored = dict(zip(said, score_files(files, scoring, progress, quiet=True), strict=True))
        metrics = _with_scores(metrics, scored, scoring)
    result = CaptionersResult(
        images=len(images),
        skipped=skipped,
        found=found,
        kept_answers=answers,
        captioners=captioners,
        metrics=metrics,
    )
    result.add_written(options.to)
    paths = {image: image for image in images}
    models = [one.about for one in prepared.values()]
    _finish(options, result, _records(said, paths, scored), found.root, progress, command, models)
    return result


def _figures_of(one: CaptionResult) -> CaptionerFigures:
    return CaptionerFigures(
        spec=one.captioner["spec"],
        images=one.images,
        words_mean=one.words / one.images,
        ended=one.ended,
        images_per_second=one.images / one.writing_s if one.writing_s else None,
        peak_bytes=one.peak_bytes,
    )


def compare_several(
    options: CompareOptions, progress: Progress, command: Sequence[str]
) -> CaptionersResult:
    """More than two files of captions, as `captune compare A B C`; images go by the ids of A."""
    places = [options.first, options.second, *options.others]
    first, *others = score_files(places, options, progress, quiet=True)
    files = [first, *(by_ids_of(first, one) for one in others)]
    names = short_names([real_path(place) for place in places], CAPTION_ENDINGS)
    if len(set(names)) < len(names):
        names = [f"{letter} {name}" for letter, name in zip(ascii_uppercase, names, strict=False)]
    scored = dict(zip(names, files, strict=True))
    said = {name: one.candidates for name, one in scored.items()}
    images = len(first.candidates)
    figures = {
        name: CaptionerFigures(
            spec=one.file.source,
            images=images,
            words_mean=sum(len(text.split()) for text in one.candidates.values()) / images,
        )
        for name, one in scored.items()
    }
    metrics = _with_scores(_compared(figures, said), scored, options)
    result = CaptionersResult(images=images, metrics=metrics)
    paths = {image: file.name for image, file in first.images.items()}
    root = first.root or options.out or Path()
    _finish(options, result, _records(said, paths, scored), root, progress, command)
    return result


def _finish(
    options: CaptionOptions | CompareOptions,
    result: CaptionersResult,
    records: Iterable[CaptionersRecord],
    root: Path,
    progress: Progress,
    command: Sequence[str],
    models: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Say the notes; write the run that was asked for, and its page."""
    result.notes = result.metrics.notes
    for note in result.notes:
        progress.message(note)
    if options.out is None:
        return
    with RunWriter(options.out, "captioners", options, root, models, command, keeps=True) as run:
        for record in records:
            run.record(record)
        run.metrics = result.metrics
    result.finish(options.out, progress)


def _named(models: Sequence[str]) -> dict[str, str]:
    """Captioners by their own names: hf:USER/NAME is NAME. Raises UserError for one given twice."""
    places = [real_path(home_path(model.removeprefix("hf:"))) for model in models]
    for model, place in zip(models, places, strict=True):
        if places.count(place) > 1:
            raise UserError(f"--model {printable(model)} is given twice; name each captioner once")
    return dict(zip(short_names(places), models, strict=True))


def _one_of(options: CaptionOptions, model: str, name: str) -> CaptionOptions:
    """The options of one of several captioners."""
    out = None if options.out is None else captioner_run(options.out, name)
    return replace(options, model=model, out=out, references=None, metrics=None, to=[])


def _scoring(options: CaptionOptions, found: ImageSet) -> MetricOptions | None:
    """How the captions are scored; None where nobody asks. Raises UserError before any work."""
    if options.references is None and options.metrics is None:
        return None
    metrics = options.metrics or "bleu,rouge_l,cider"
    in_files = found.root.is_absolute()
    known = chosen_metrics(metrics, references=options.references is not None, images=in_files)
    if options.references is not None:
        here = _captions("IMAGES", {image.name: "" for image in found.images})
        match_captions(here, read_references(options.references), subset=True, ignore_extra=True)
    place = Path(options.images[0]) if options.dataset else found.root
    return MetricOptions(
        references=options.references,
        images=place if any(metric.needs_images for metric in known) else None,
        metrics=metrics,
        subset=True,
        ignore_extra=True,
        device=options.device,
        dtype=options.dtype,
        workers=options.workers,
        no_cache=options.no_cache,
    )


def _captions(name: str, texts: Mapping[str, str]) -> CaptionFile:
    """Captions by the names of their images, as if they were a file."""
    captions = {image: [text] for image, text in texts.items()}
    return CaptionFile(name, "captions", captions, {image: image for image in texts}, sha256="")


def _compared(
    figures: Mapping[str, CaptionerFigures], said: Texts, skipped: Sequence[Skipped] = ()
) -> CaptionersMetrics:
    """What there is to say without scores."""
    of_image = list(zip(*(texts.values() for texts in said.values()), strict=True))
    alike = sum(len(set(captions)) == 1 for captions in of_image)
    return CaptionersMetrics(
        images=len(of_image),
        captioners=dict(figures),
        alike=alike,
        verdict=[f"The captions are the same for {alike:,} of {counted(len(of_image), 'image')}"],
        skipped=list(skipped),
    )


def _with_scores(
    known: CaptionersMetrics, scored: Mapping[str, ScoredCaptions], options: MetricOptions
) -> CaptionersMetrics:
    """Who is best by the first score, and the others against that one by each."""
    how = {"resamples": options.resamples, "seed": options.seed}
    figures = {}
    for name, one in scored.items():
        intervals = intervals_of(one.scores, **how)
        scores = {id: SideFigure(found.corpus, intervals[id]) for id, found in one.scores.items()}
        figures[name] = structs.replace(known.captioners[name], scores=scores)
    first = next(iter(scored.values()))
    ids = leading(list(first.scores)) or list(first.scores)
    by = {name: {id: one.scores[id] for id in ids} for name, one in scored.items()}
    best = max(by, key=lambda name: by[name][ids[0]].corpus)
    against = compare_with_best(by, best, **how)
    notes = [note for one in scored.values() for note in one.notes]
    # what captioners said is in no file
    read = {name: origin_of(one.file) for name, one in scored.items() if one.file.sha256}
    return structs.replace(
        known,
        captioners=figures,
        scored=len(first.candidates),
        best=best,
        against_best=against,
        verdict=[*_verdict(best, by[best][ids[0]].corpus, ids[0], against), *known.verdict],
        names={id: found.name for id, found in first.scores.items()},
        recipes={id: found.recipe for id, found in first.scores.items()},
        notes=list(dict.fromkeys([*notes, *small_sample_note(len(first.candidates))])),
        inputs=first.inputs() | {"candidates": read},
    )


def _verdict(
    best: str, figure: float, metric: str, against: Mapping[str, Mapping[str, AgainstBest]]
) -> list[str]:
    said = [f"{best} has the highest {title_of(metric)}, {decimal(figure)}"]
    for settled, claim in (
        (True, "Significantly lower"),
        (False, "Not significantly different on these images"),
    ):
        told = [
            f"{name} ({signed(one[metric].difference)}, p {p_value(one[metric].p_holm)})"
            for name, one in against.items()
            if metric in one and is_settled(one[metric].p_holm, one[metric].interval) == settled
        ]
        said += [f"{claim}: {listed(told)}"] if told else []
    return said


def _records(
    said: Texts, paths: Mapping[str, str], scored: Mapping[str, ScoredCaptions]
) -> Iterator[CaptionersRecord]:
    """paths: image id -> the name of its image, where it has one."""
    references = next(iter(scored.values())).references if scored else {}
    scores = {name: one.scores for name, one in scored.items()}
    for image in next(iter(said.values())):
        sides = {
            name: ComparedCaption(
                texts[image],
                {
                    id: float(found.per_image[image])
                    for id, found in scores.get(name, {}).items()
                    if image in found.per_image
                },
            )
            for name, texts in said.items()
        }
        yield CaptionersRecord(
            image=image, path=paths.get(image), references=references.get(image, []), captions=sides
        )
