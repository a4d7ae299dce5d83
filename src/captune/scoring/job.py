"""Candidates and references -> scores: which metrics, on which captions, with which photos."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from captune.captions import CaptionFile, Matched, match_captions, match_photos, read_captions
from captune.errors import UserError
from captune.images import Photo, find_photos, printable
from captune.metrics.catalogue import Metric, load_plugin, metric_of, parse_metrics
from captune.metrics.corpus import Corpus
from captune.metrics.frequency import DocumentFrequency, resolve_df
from captune.metrics.scores import Scores
from captune.options import MetricOptions

if TYPE_CHECKING:
    from captune.embedding import Bar
    from captune.models.image_text import ImageTextModel


@dataclass
class Scored:
    """The scores of one file of candidates.

    candidates, references, photos: by image id, as the candidates spell it; photos and references
    may be empty where no metric needs them. scores: by metric id. notes: what a reader must know.
    root: the folder that the photos' names are relative to.
    """

    file: CaptionFile
    reference_file: CaptionFile | None
    candidates: dict[str, str]
    references: dict[str, list[str]]
    photos: dict[str, Photo]
    root: Path
    scores: dict[str, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Inputs:
    """What was read besides the candidates."""

    metrics: list[Metric]
    references: CaptionFile | None
    df: DocumentFrequency | None
    photos: Path | None


def score_many(
    files: Sequence[Path | CaptionFile],
    options: MetricOptions,
    *,
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
) -> list[Scored]:
    """Score each file of candidates against the same references, by the same recipe.

    bar: opens a progress bar. say: hears what a reader must know besides the numbers.
    Raises UserError for what cannot be read, matched or scored.
    """
    inputs = read_inputs(options)
    read = [file if isinstance(file, CaptionFile) else read_captions(file) for file in files]
    scored = [_matched(file, inputs, options) for file in read]
    model = _load_model(inputs, options)
    for result in scored:
        _score(result, inputs, options, bar, model)
        for sentence in result.notes:
            say(sentence)
    return scored


def read_inputs(options: MetricOptions) -> Inputs:
    """The metrics asked for and what they rest on; everything that can be refused early is."""
    metrics = parse_metrics(
        options.metrics,
        references=options.references is not None,
        photos=options.photos is not None,
    )
    if any(metric.kind == "meteor" for metric in metrics):
        from captune.metrics.meteor import check_installed

        check_installed()
    df = resolve_df(options.df)
    references = None if options.references is None else read_captions(options.references)
    return Inputs(metrics, references, df, options.photos)


def _matched(file: CaptionFile, inputs: Inputs, options: MetricOptions) -> Scored:
    # without references it is matched with itself: the same sentence for an image with two captions
    matched = match_captions(file, inputs.references or file, allow_missing=options.allow_missing)
    if not matched.candidates:
        raise UserError(f"{file.source}: holds no captions to score")
    scored = Scored(
        file=file,
        reference_file=inputs.references,
        candidates=matched.candidates,
        references=matched.references if inputs.references else {},
        photos={},
        root=Path.cwd(),
        notes=matched.notes if inputs.references else [],
    )
    if inputs.photos is not None:
        needed = any(metric.needs_photos for metric in inputs.metrics)
        _find_photos(scored, matched, inputs.photos, strict=needed)
    return scored


def _find_photos(scored: Scored, matched: Matched, folder: Path, *, strict: bool) -> None:
    """Photos by image id; a metric that looks at photos needs every one of them."""
    found = find_photos([folder])
    scored.photos, without = match_photos(matched, found)
    scored.root = found.root
    if without and (strict or not scored.photos):
        first = ", ".join(printable(id) for id in without[:3])
        more = f" and {len(without) - 3:,} more" if len(without) > 3 else ""
        reasons = "; ".join(f"{printable(s.path)}: {s.reason}" for s in found.skipped[:2])
        raise UserError(
            f"{folder}: has no photo for {first}{more} of {len(scored.candidates):,} images"
            + (f" ({reasons})" if reasons else "")
        )
    if without:
        scored.notes.append(f"{folder}: has no photo for {len(without):,} of the images")


def _load_model(inputs: Inputs, options: MetricOptions) -> ImageTextModel | None:
    """Loaded once for all files, and only where a metric looks at photos."""
    if all(metric.kind != "clip" for metric in inputs.metrics):
        return None
    from captune.models.load import load_image_text_model

    return load_image_text_model(options.model, device=options.device, dtype=options.dtype)


def _score(
    scored: Scored, inputs: Inputs, options: MetricOptions, bar: Bar, model: ImageTextModel | None
) -> None:
    kinds = [metric.kind for metric in inputs.metrics]
    found: dict[str, Scores] = {}
    if "text" in kinds or "meteor" in kinds:
        found |= _text_scores(scored, inputs, options, bar)
    if "clip" in kinds:
        from captune.metrics.clipscore import clip_scores

        found |= clip_scores(
            [metric.id for metric in inputs.metrics if metric.kind == "clip"],
            scored.candidates,
            scored.references or None,
            scored.photos,
            options,
            bar=bar,
            model=model,
        )
    for metric in inputs.metrics:
        if metric.kind == "plugin":
            found[metric.id] = _from_plugin(metric.id, scored)
    scored.scores = {metric.id: found[metric.id] for metric in inputs.metrics}
    for score in scored.scores.values():
        scored.notes.extend(note for note in score.notes if note not in scored.notes)


def _text_scores(
    scored: Scored, inputs: Inputs, options: MetricOptions, bar: Bar
) -> dict[str, Scores]:
    from captune.metrics.bleu import bleu_of
    from captune.metrics.cider import cider_of, cider_original_of
    from captune.metrics.rouge import rouge_l_of

    asked = [metric.id for metric in inputs.metrics]
    corpus = make_corpus(scored.candidates, scored.references, options.tokenizer)
    passes: list[tuple[str, Callable[[], dict[str, Scores]]]] = [
        ("bleu_", lambda: bleu_of(corpus)),
        ("rouge_l", lambda: {"rouge_l": rouge_l_of(corpus)}),
        ("cider_original", lambda: {"cider_original": cider_original_of(corpus, df=inputs.df)}),
        ("cider", lambda: {"cider": cider_of(corpus, df=inputs.df)}),
        ("meteor", lambda: {"meteor": _meteor(corpus)}),
    ]
    wanted = [
        run
        for name, run in passes
        if any(id == name or (name == "bleu_" and id.startswith(name)) for id in asked)
    ]
    found: dict[str, Scores] = {}
    with bar("scoring", len(wanted)) as advance:
        for run in wanted:
            found |= run()
            advance(1)
    return found


def _meteor(corpus: Corpus) -> Scores:
    from captune.metrics.meteor import meteor_of

    return meteor_of(corpus)


def _from_plugin(id: str, scored: Scored) -> Scores:
    """A third party's scores, held to what everything here relies on."""
    result = load_plugin(id)(scored.candidates, scored.references)
    if not isinstance(result, Scores) or list(result.per_image) != list(scored.candidates):
        raise UserError(
            f"metric {id}: its package must return captune.metrics.Scores with one value an image"
        )
    values = list(result.per_image.values())
    if not all(map(math.isfinite, [result.corpus, *values])):
        raise UserError(f"metric {id}: its package gave a score that is no finite number")
    mean = math.fsum(values) / len(values)
    if result.statistics is None and not math.isclose(result.corpus, mean, abs_tol=1e-9):
        raise UserError(
            f"metric {id}: its corpus score is not the mean of its images, so its package must give"
            " `statistics` and `of_sums`; without them no interval belongs to it"
        )
    return result


def make_corpus(
    candidates: dict[str, str], references: dict[str, list[str]], tokenizer: str
) -> Corpus:
    """Captions tokenised as `--tokenizer` says: ptb, or none for words between spaces."""
    if tokenizer == "none":
        return Corpus(candidates, references, tokenize=list, tokenizer_name="none")
    return Corpus(candidates, references)


def label(id: str) -> str:
    """CIDEr-D for cider, and so on."""
    return metric_of(id).label
