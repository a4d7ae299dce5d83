"""Candidates and references -> scores: which metrics, on which captions, with which images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from captune.captions import (
    CaptionFile,
    Matched,
    images_alike,
    match_captions,
    match_images,
    read_captions,
)
from captune.errors import UserError
from captune.files import named, printable, quoted
from captune.images import ImageFile, find_images
from captune.metrics.catalogue import BLEU, Metric, parse_metrics, score_with_plugin
from captune.metrics.corpus import Corpus
from captune.metrics.frequency import DocumentFrequency, resolve_df
from captune.metrics.scores import Scores
from captune.options import MetricOptions
from captune.scoring.references import read_references

if TYPE_CHECKING:
    from captune.embedding import Bar
    from captune.models.image_text import ImageTextModel

# what tokenizers and models put around a text, and some leave in it
_SPECIAL = re.compile(
    r"<\|[a-z_]+\|>|</?s>|\[(?:SEP|CLS|PAD|UNK|MASK|EOS|BOS)\]"
    r"|<(?:end|start|eos|bos|pad|unk|endofseq|startseq|endseq)>",
    re.IGNORECASE,
)
_MANY = 0.01  # share of the captions from which on they are spoken of


@dataclass
class Scored:
    """The scores of one file of candidates.

    candidates, references, images: by image id, as the candidates spell it; images and references
    may be empty where no metric needs them. scores: by metric id. notes: what a reader must know.
    root: the folder that the images' names are relative to, None without images. missing: images
    without a candidate, scored as empty captions. corpus: the tokenised captions, where kept.
    """

    file: CaptionFile
    reference_file: CaptionFile | None
    candidates: dict[str, str]
    references: dict[str, list[str]]
    images: dict[str, ImageFile]
    root: Path | None = None
    scores: dict[str, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing: int = 0
    corpus: Corpus | None = None


@dataclass(frozen=True)
class Inputs:
    """What was read besides the candidates."""

    metrics: list[Metric]
    references: CaptionFile | None
    df: DocumentFrequency | None
    images: Path | None


def score_many(
    files: Sequence[Path | CaptionFile],
    options: MetricOptions,
    *,
    bar: Bar,
    say: Callable[[str], None] = lambda sentence: None,
    keep_corpus: bool = False,
) -> list[Scored]:
    """Score each file of candidates against the same references, by the same recipe.

    bar: opens a progress bar. say: hears what a reader must know besides the numbers.
    keep_corpus: the tokenised captions stay in memory, in `Scored.corpus`.
    Raises UserError for what cannot be read, matched or scored.
    """
    inputs = read_inputs(options)
    read = [file if isinstance(file, CaptionFile) else read_captions(file) for file in files]
    scored = [_matched(file, inputs, options) for file in read]
    model = _load_model(inputs, options)
    for result in scored:
        _score(result, inputs, options, bar, model)
        if not keep_corpus:
            result.corpus = None
        for sentence in result.notes:
            say(sentence)
    return scored


def read_inputs(options: MetricOptions) -> Inputs:
    """The metrics asked for and what they rest on; everything that can be refused early is."""
    metrics = parse_metrics(
        options.metrics,
        references=options.references is not None,
        images=options.images is not None,
    )
    if any(metric.kind == "meteor" for metric in metrics):
        from captune.metrics.meteor import check_installed

        check_installed()
    df = resolve_df(options.df)
    references = None if options.references is None else read_references(options.references)
    return Inputs(metrics, references, df, options.images)


def _matched(file: CaptionFile, inputs: Inputs, options: MetricOptions) -> Scored:
    # without references it is matched with itself: the same sentence for an image with two captions
    matched = match_captions(file, inputs.references or file, allow_missing=options.allow_missing)
    scored = Scored(
        file=file,
        reference_file=inputs.references,
        candidates=matched.candidates,
        references=matched.references if inputs.references else {},
        images={},
        notes=matched.notes if inputs.references else [],
        missing=len(matched.candidates) - len(file.captions),
    )
    scored.notes.extend(_doubts(file, inputs.references))
    if inputs.images is not None:
        needed = any(metric.needs_images for metric in inputs.metrics)
        _find_images(scored, matched, inputs.images, strict=needed)
    return scored


def _doubts(file: CaptionFile, references: CaptionFile | None) -> list[str]:
    """What looks like a mistake, but may be meant."""
    notes = []
    if references and (references.sha256, references.captions) == (file.sha256, file.captions):
        notes.append(
            f"{printable(references.source)}: the references are the same file as the candidates"
            " (the same sha256), so each caption is scored against itself"
        )
    found = [
        (token[0], captions[0])
        for captions in file.captions.values()
        if (token := _SPECIAL.search(captions[0]))
    ]
    if found and len(found) >= _MANY * len(file):
        example, caption = found[0]
        notes.append(
            f"{printable(file.source)}: {len(found):,} of {len(file):,} captions hold a special"
            f" token such as {printable(example)} ({quoted(caption)}), whose parts the scores count"
            " as words; take such tokens out if the model did not mean them"
        )
    return notes


def _find_images(scored: Scored, matched: Matched, folder: Path, *, strict: bool) -> None:
    """Images by image id; a metric that looks at images needs every one of them."""
    found = find_images([folder])
    scored.images, without = match_images(matched, found)
    scored.root = found.root
    if without and (strict or not scored.images):
        reasons = [f"{printable(s.path)}: {s.reason}" for s in found.skipped[:2]]
        alike = images_alike(matched, without[0], found)
        if len(alike) > 1:
            reasons.insert(0, f"{quoted(without[0])} could be {named(alike)}")
        raise UserError(
            f"{printable(str(folder))}: has no image for {named(without, 'image')} of"
            f" {len(scored.candidates):,}" + (f" ({'; '.join(reasons)})" if reasons else "")
        )
    if without:
        scored.notes.append(
            f"{printable(str(folder))}: has no image for {len(without):,} of the images"
        )


def _load_model(inputs: Inputs, options: MetricOptions) -> ImageTextModel | None:
    """Loaded once for all files, and only where a metric looks at images."""
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
            scored.images,
            options,
            bar=bar,
            model=model,
        )
    for metric in inputs.metrics:
        if metric.kind == "plugin":
            found[metric.id] = score_with_plugin(metric.id, scored.candidates, scored.references)
    scored.scores = {
        metric.id: _with_missing(found[metric.id], scored.missing) for metric in inputs.metrics
    }
    for score in scored.scores.values():
        scored.notes.extend(note for note in score.notes if note not in scored.notes)


def _with_missing(scores: Scores, missing: int) -> Scores:
    """Images scored without a candidate make another figure, so the recipe counts them."""
    if not missing:
        return scores
    return replace(
        scores,
        recipe={**scores.recipe, "missing": missing},
        details=(*scores.details, f"{missing} missing"),
    )


def _text_scores(
    scored: Scored, inputs: Inputs, options: MetricOptions, bar: Bar
) -> dict[str, Scores]:
    from captune.metrics.bleu import bleu_of
    from captune.metrics.cider import cider_of, cider_original_of
    from captune.metrics.rouge import rouge_l_of

    corpus = make_corpus(scored.candidates, scored.references, options.tokenizer)
    scored.corpus = corpus

    def bleu() -> dict[str, Scores]:
        return bleu_of(corpus)

    passes: dict[str, Callable[[], dict[str, Scores]]] = {
        **dict.fromkeys(BLEU, bleu),  # one pass gives all four
        "rouge_l": lambda: {"rouge_l": rouge_l_of(corpus)},
        "cider": lambda: {"cider": cider_of(corpus, df=inputs.df)},
        "cider_original": lambda: {"cider_original": cider_original_of(corpus, df=inputs.df)},
        "meteor": lambda: {"meteor": _meteor(corpus)},
    }
    asked = [metric.id for metric in inputs.metrics]
    wanted = list(dict.fromkeys(passes[id] for id in asked if id in passes))
    found: dict[str, Scores] = {}
    with bar("scoring", len(wanted)) as advance:
        for run in wanted:
            found |= run()
            advance(1)
    return found


def _meteor(corpus: Corpus) -> Scores:
    from captune.metrics.meteor import meteor_of

    return meteor_of(corpus)


def make_corpus(
    candidates: dict[str, str], references: dict[str, list[str]], tokenizer: str
) -> Corpus:
    """Captions tokenised as `--tokenizer` says: ptb, or none for words between spaces."""
    if tokenizer == "none":
        return Corpus(candidates, references, tokenize=list, tokenizer_name="none")
    return Corpus(candidates, references)
