"""Candidates and references -> scores: which metrics, on which captions, with which images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captune.captions import (
    CaptionFile,
    Matched,
    images_alike,
    match_captions,
    match_images,
    read_captions,
    read_references,
)
from captune.errors import MismatchedImages, UserError
from captune.images import ImageFile, find_images
from captune.images.dataset import parse_source
from captune.options.base import CaptionsInMemory, full_path
from captune.options.scoring import MetricOptions
from captune.progress import SILENT, Progress
from captune_metrics import catalogue
from captune_metrics.catalogue import Metric, passes_of, score_with_plugin
from captune_metrics.corpus import Corpus
from captune_metrics.display import named, printable, quoted
from captune_metrics.frequency import DocumentFrequency, is_file, resolve_df
from captune_metrics.scores import Scores

if TYPE_CHECKING:
    from captune.models.encoders import ImageTextModel

# what tokenizers and models put around a text, and some leave in it
_SPECIAL = re.compile(
    r"<\|[a-z_]+\|>|</?s>|\[(?:SEP|CLS|PAD|UNK|MASK|EOS|BOS)\]"
    r"|<(?:end|start|eos|bos|pad|unk|endofseq|startseq|endseq)>",
    re.IGNORECASE,
)
_MANY = 0.01  # fraction of the captions from which on they are spoken of
_SMALL_SAMPLE = 10  # images
# decide how fast a score is computed, but not the score
HOW_COMPUTED = ("device", "batch_size", "workers", "no_cache")
# what they come to stands in the references and the images
_DATASET = ("dataset", "split", "image_column", "caption_column")


@dataclass
class ScoredCaptions:
    """The scores of one file of candidates.

    candidates, references, images: by image id, as the candidates spell it; images and references
    may be empty where no metric needs them. scores: by metric id. notes: what a reader must know.
    root: the folder that the images' names are relative to, None without images; place: where they
    are found again, that folder or the source of a dataset. in_references: image id -> the
    references' id of it. missing: images without a candidate, scored as empty captions. left_out:
    images that are not scored, as --subset asks. corpus: the tokenised captions, where kept.
    """

    file: CaptionFile
    reference_file: CaptionFile | None
    candidates: dict[str, str]
    references: dict[str, list[str]]
    images: dict[str, ImageFile]
    root: Path | None = None
    place: str = ""
    scores: dict[str, Scores] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    in_references: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    left_out: int = 0
    corpus: Corpus | None = None

    @property
    def images_of(self) -> int | None:
        """How many images there are where some are left out, else None."""
        return len(self.candidates) + self.left_out if self.left_out else None

    def inputs(self) -> dict[str, Any]:
        """Where the numbers come from, as metrics.json holds it: paths and content hashes."""
        found: dict[str, Any] = {"candidates": origin_of(self.file), "references": None}
        if self.reference_file is not None:
            found["references"] = origin_of(self.reference_file)
        found["images"] = None
        if self.images and self.root is not None:
            from captune.images.decode import hash_image  # which waits for Pillow

            # over ids and the bytes of files, whatever the files are called
            whole = hashlib.sha256()
            for id in sorted(self.images):
                content, _ = hash_image(self.images[id].path)
                whole.update(f"{id}\0{content}\n".encode("utf-8", "surrogateescape"))
            found["images"] = {"path": self.place, "sha256": whole.hexdigest()}
        return found


def inputs_of(options: MetricOptions, captions: Mapping[str, Path]) -> dict[str, Path]:
    """What a score reads besides `captions`, by what it is called in a sentence."""
    places = {**captions, "references": options.references, "images": options.images}
    if is_file(options.df):
        places["--df"] = Path(options.df)
    found = {}
    for what, path in places.items():
        if not isinstance(path, CaptionsInMemory | None):
            name, mark, _ = str(path).rpartition("#split=")  # of `dataset.json#split=test`
            found[what] = Path(name) if mark and not path.exists() else path
    return found


def score_files(
    files: Sequence[Path | CaptionFile],
    options: MetricOptions,
    progress: Progress = SILENT,
    *,
    quiet: bool = False,
    keep_corpus: bool = False,
) -> list[ScoredCaptions]:
    """Score each file of candidates against the same references, by the same recipe.

    quiet: what a reader must know besides the numbers is not said, but stands in the notes.
    keep_corpus: the tokenised captions stay in memory, in `ScoredCaptions.corpus`.
    Raises UserError for what cannot be read, matched or scored.
    """
    metrics = chosen_metrics(
        options.metrics,
        references=options.references is not None,
        images=options.images is not None,
    )
    if any(metric.kind == "meteor" for metric in metrics):
        from captune_metrics.meteor_java import check_installed

        check_installed()
    df = resolve_df(options.df)
    references = None if options.references is None else read_references(options.references)
    read = [file if isinstance(file, CaptionFile) else read_captions(file) for file in files]
    matched = [
        # without references it is matched with itself, which finds an image with two captions
        match_captions(
            file,
            references or file,
            allow_missing=options.allow_missing,
            subset=options.subset,
            ignore_extra=options.ignore_extra,
        )
        for file in read
    ]
    if options.subset and len(read) > 1:
        matched = _in_all(read, matched, has_references=references is not None)
    scored = [
        _unscored(file, references, one, metrics, options)
        for file, one in zip(read, matched, strict=True)
    ]
    model: ImageTextModel | None = None
    if any(metric.kind == "clip" for metric in metrics):
        from captune.models.load import kept_model, load_image_text_model

        model = kept_model(load_image_text_model, options)
    for result in scored:
        _score(result, metrics, df, options, progress, model)
        if not keep_corpus:
            result.corpus = None
        for sentence in () if quiet else result.notes:
            progress.message(sentence)
    return scored


def chosen_metrics(text: str | None, *, references: bool, images: bool) -> list[Metric]:
    """The metrics named in `text`, each once, in the order asked; `bleu` is all four of them.

    None asks for what the inputs allow: the text metrics with references, CLIPScore with images.
    Raises UserError for an unknown name and for a metric whose inputs are not there.
    """
    if text is None:
        if not references and not images:
            raise UserError(
                "nothing to score against: give --references FILE (bleu, rouge_l, cider)"
                " or --images DIR (clipscore)"
            )
        text = ",".join(["bleu,rouge_l,cider"] * references + ["clipscore"] * images)
    metrics = catalogue.parse_metrics(text)
    for metric in metrics:
        if metric.needs_references and not references:
            raise UserError(f"{metric.id} needs the references; give them with --references FILE")
        if metric.needs_images and not images:
            raise UserError(f"{metric.id} needs the images; name their folder with --images DIR")
    return metrics


def _in_all(
    files: Sequence[CaptionFile], matched: Sequence[Matched], *, has_references: bool
) -> list[Matched]:
    """A, B and on, of the images that all have. Raises MismatchedImages where they share none."""
    first, *others = matched
    pairs = []
    for file, other in zip(files[1:], others, strict=True):
        if has_references:
            found = _joined(first.in_references, other.in_references)
        else:
            try:  # the other stands where the references would
                both = match_captions(files[0], file, subset=True, ignore_extra=True)
                found = both.in_references
            except MismatchedImages:
                found = {}
        if not found:
            raise MismatchedImages(
                f"A and B have no image in common, and --subset compares the images of both:"
                f" {printable(files[0].source)} has {named(first.candidates)},"
                f" {printable(file.source)} has {named(other.candidates)}"
            )
        pairs.append(found)
    kept = set.intersection(*(set(found) for found in pairs))
    if not kept:
        raise MismatchedImages(
            "there is no image that all of the files have, and --subset compares those"
        )
    in_all = [first.only(kept)]
    in_all += [
        other.only({found[image] for image in kept})
        for other, found in zip(others, pairs, strict=True)
    ]
    if has_references:
        return in_all
    left_out = sum(one.left_out for one in in_all)  # of all images that one of them has
    return [replace(one, left_out=left_out) for one in in_all]


def _joined(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Ids of one file -> those of the other. Both: id -> the id that the references have."""
    known = {reference: id for id, reference in other.items()}
    return {id: known[reference] for id, reference in one.items() if reference in known}


def _unscored(
    file: CaptionFile,
    references: CaptionFile | None,
    matched: Matched,
    metrics: Sequence[Metric],
    options: MetricOptions,
) -> ScoredCaptions:
    captions = matched.candidates
    scored = ScoredCaptions(
        file=file,
        reference_file=references,
        candidates=captions,
        references=matched.references if references else {},
        images={},
        notes=[*(matched.notes if references else []), *_doubts(file, references)],
        in_references=matched.in_references,
        missing=sum(id not in file.captions for id in captions),
        left_out=matched.left_out,
    )
    if options.images is not None:
        needed = any(metric.needs_images for metric in metrics)
        _find_images(scored, matched, options.images, strict=needed)
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


def _find_images(scored: ScoredCaptions, matched: Matched, folder: Path, *, strict: bool) -> None:
    """Images by image id; a metric that looks at images needs every one of them."""
    found = find_images([folder])
    scored.images, without = match_images(matched, found)
    scored.root = found.root
    scored.place = str(folder if parse_source(folder) else found.root.resolve())
    if without and (strict or not scored.images):
        reasons = [f"{printable(s.path)}: {s.reason}" for s in found.skipped[:2]]
        alike = images_alike(matched, without[0], found)
        if len(alike) > 1:
            reasons.insert(0, f"{quoted(without[0])} could be {named(alike)}")
        raise UserError(
            f"{printable(folder)} has no image for {named(without, 'image')} of"
            f" {len(scored.candidates):,}" + (f" ({'; '.join(reasons)})" if reasons else "")
        )
    if without:
        scored.notes.append(f"{printable(folder)} has no image for {len(without):,} of the images")


def _score(
    scored: ScoredCaptions,
    metrics: Sequence[Metric],
    df: DocumentFrequency | None,
    options: MetricOptions,
    progress: Progress,
    model: ImageTextModel | None,
) -> None:
    kinds = {metric.kind for metric in metrics}
    found: dict[str, Scores] = {}
    if kinds & {"text", "meteor"}:
        found |= text_scores(scored, metrics, df, options, progress)
    if model is not None:
        from captune.clipscore import clip_scores

        found |= clip_scores(
            [metric.id for metric in metrics if metric.kind == "clip"],
            scored.candidates,
            scored.references or None,
            scored.images,
            options,
            progress=progress,
            model=model,
        )
    for metric in metrics:
        if metric.kind == "plugin":
            found[metric.id] = score_with_plugin(metric.id, scored.candidates, scored.references)
    scored.scores = {metric.id: _with_images(found[metric.id], scored) for metric in metrics}
    for score in scored.scores.values():
        scored.notes.extend(note for note in score.notes if note not in scored.notes)


def _with_images(scores: Scores, scored: ScoredCaptions) -> Scores:
    """Images scored without a candidate, or left out, make another figure: the recipe says so."""
    if not scored.missing:
        return scores.of_subset(scored.images_of or len(scores.per_image))
    return replace(
        scores,
        recipe={**scores.recipe, "missing": scored.missing},
        details=(*scores.details, f"{scored.missing} missing"),
    )


def text_scores(
    scored: ScoredCaptions,
    metrics: Sequence[Metric],
    df: DocumentFrequency | None,
    options: MetricOptions,
    progress: Progress,
) -> dict[str, Scores]:
    """By metric id, of the metrics that count words. Fills `scored.corpus`."""
    corpus = Corpus(scored.candidates, scored.references, options.tokenizer)
    scored.corpus = corpus
    passes = passes_of(metrics, corpus, df)
    found: dict[str, Scores] = {}
    with progress.bar("scoring", len(passes)) as advance:
        for run in passes:
            found |= run()
            advance(1)
    return found


def by_ids_of(first: ScoredCaptions, second: ScoredCaptions) -> ScoredCaptions:
    """`second` with the ids that the file of `first` spells, in its order.

    Raises MismatchedImages where one of them has an image that the other has not.
    """
    if first.candidates.keys() == second.candidates.keys():
        same = {image: image for image in first.candidates}
    elif first.reference_file is not None:
        # each goes by the references' ids, which may be all that joins them: 139 and dog.jpg
        same = _joined(second.in_references, first.in_references)
    else:
        a, b = (
            replace(one.file, captions={id: [text] for id, text in one.candidates.items()})
            for one in (first, second)
        )
        try:
            matched = match_captions(a, b)  # the second stands where the references would
        except MismatchedImages:
            raise _mismatch(first, second) from None
        same = {found: image for image, found in matched.in_references.items()}
    scores = {
        id: replace(
            score, per_image={same[image]: value for image, value in score.per_image.items()}
        )
        for id, score in second.scores.items()
    }
    captions = {same[image]: caption for image, caption in second.candidates.items()}
    in_order = {image: captions[image] for image in first.candidates}
    return replace(second, candidates=in_order, scores=scores)


def _mismatch(first: ScoredCaptions, second: ScoredCaptions) -> MismatchedImages:
    only = [
        (one.file.source, [image for image in one.candidates if image not in other.candidates])
        for one, other in ((first, second), (second, first))
    ]
    parts = " and ".join(
        f"{len(images):,} only in {printable(source)} ({named(images)})"
        for source, images in only
        if images
    )
    return MismatchedImages(
        f"A and B are not about the same images: {parts}; give captions of the same images, "
        "or --references to score against, or compare the images of both with --subset"
    )


def small_sample_note(images: int) -> list[str]:
    """What a reader of intervals has to know where they rest on very few images."""
    if not 1 < images < _SMALL_SAMPLE:
        return []
    return [
        f"with {images} images the interval is wider in truth than it says: so few cannot show how"
        " far others would differ"
    ]


def deciding_options(options: MetricOptions) -> dict[str, Any]:
    """The options that decide a score, as JSON; files by their full paths."""
    values = {
        option.name: getattr(options, option.name)
        for option in fields(MetricOptions)
        if option.name not in (*HOW_COMPUTED, *_DATASET)
    }
    if is_file(options.df):
        values["df"] = Path(options.df)
    return {
        name: full_path(str(value)) if isinstance(value, Path) else value
        for name, value in values.items()
    }


def origin_of(file: CaptionFile) -> dict[str, Any]:
    """A file as metrics.json names it."""
    return {"path": full_path(file.source), "form": file.form, "sha256": file.sha256}
