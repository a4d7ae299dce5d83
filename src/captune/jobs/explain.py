"""`captune explain`: what of an image a model used for each word, and whether that is true."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from captune.answer_files import row_files, row_paths
from captune.attribution.captioned_image import captioned_images, model_of
from captune.attribution.classes import ClassMaps, default_method, explain_classes
from captune.attribution.explanation import ExplainedWord, Explanation, TimeBudget, explain_words
from captune.attribution.methods import LayerHead, choose_map, read_default
from captune.captioning.agreement import flagged_sentence
from captune.captioning.any_captioner import prepare_captioner
from captune.captioning.captioner import Captioner
from captune.captioning.decoder_parts import check_length
from captune.captioning.generate import GenerationSettings
from captune.errors import UserError
from captune.features.encode import none_readable
from captune.files import home_path
from captune.images import Images, ImageSet, Skipped, UnreadableImage, find_images
from captune.jobs import Result, check_outputs, files_among, page_tables
from captune.models.encoders import describe_model
from captune.options.base import LITE
from captune.options.captioning import ExplainOptions
from captune.options.codec import from_python
from captune.progress import SILENT, Progress
from captune.runs import RunWriter, read_run
from captune.runs.maps import MapWriter
from captune.runs.writer import writes_run
from captune.tables import Column, Table, number, numbers
from captune.text import counted, decimal, percent
from captune.zeroshot.classifier import ZeroShotClassifier
from captune_metrics.display import printable, quoted

RECORDS_KEPT = 1000  # records that the result holds itself; more are in the files alone
_SHOWN = 20  # explanations on a terminal
OnExplanation = Callable[[Explanation], None]


class NoSuchWord(UserError):
    """No caption has one of the words that were asked for."""


@dataclass(kw_only=True, eq=False)
class ExplainResult(Result):
    """Maps of images; its items are explanations.

    model: as a run names it. map: method, layer and head; against, a word that was held against the
    others. marks: of how many maps. records: of the first 1,000 images. flagged: how many captions,
    of how many, have a chance below what.
    """

    model: dict[str, Any]
    map: dict[str, Any]
    records: list[dict[str, Any]] = field(default_factory=list, repr=False)
    marks: dict[str, int] = field(default_factory=dict)
    words: int = 0
    seconds: float = 0.0
    figures: list[Path] = field(default_factory=list)
    flagged: tuple[int, int, float] | None = None

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; explanations are null where there are more than a thousand."""
        return super().summary() | {
            "model": self.model,
            "map": self.map,
            "explanations": self.records if self.images <= RECORDS_KEPT else None,
            "words": self.words,
            "marks": self.marks,
            "seconds": round(self.seconds, 3),
            "figures": [str(path) for path in self.figures],
        }

    def tables(self) -> list[Table]:
        """The words of each image, where these are few; how many maps have which mark."""
        from captune.pages.sections.maps import doubtful_words

        records = self.records if self.images <= _SHOWN else []
        found = [_word_table(record) for record in records]
        found += page_tables("explain", {"marks": self.marks})
        doubtful = doubtful_words(records)
        return [*found, doubtful] if self.images > 1 and doubtful.rows else found

    def sentences(self) -> list[str]:
        """What was done."""
        from captune.pages.sections.maps import described

        made = described(self.map)
        done = (
            f"{counted(self.words, 'map')} of {counted(self.images, 'image')} by {made} in"
            f" {self.seconds:.1f} s"
        )
        said = [done] if self.run else [done, "--out RUN writes the maps and draws them"]
        return said if self.flagged is None else [*said, flagged_sentence(*self.flagged)]


def explain(images: Images, *, model: str | Path = LITE, **options: Any) -> ExplainResult:
    """What of each image a captioner used for each word of its caption, as `captune explain`.

    images: folders, files and globs, or images in memory (`find_images`). options: the
    fields of `ExplainOptions`, such as words="dog", caption="a dog", out=RUN. The result is a
    sequence of `Explanation`, one per image that could be read; a map is
    `explanation.words[i].map`, [rows, columns] over the whole image.
    Raises UserError for what cannot be done.
    """
    found: list[Explanation] = []
    made = from_python(ExplainOptions, images=images, model=str(model), **options)
    result = run(made, each=found.append)
    result.items = found
    return result


@writes_run("explain")
def run(
    options: ExplainOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),
    each: OnExplanation | None = None,
    found: ImageSet | None = None,
    captioner: Captioner | None = None,
    captions: Mapping[str, str] | None = None,
) -> ExplainResult:
    """Explain words or labels, write the run, draw its figures and leave its page.

    command: the words that made this run, kept in it. each: is given every image's explanation as
    it comes. found, captioner: images and a captioner that are there already, instead of those that
    the options name. captions: to explain, by the images as they are given in the options. Raises
    UserError for what cannot be done; unreadable images are named in the result.
    """
    began = time.monotonic()
    check_outputs(files_among(*options.images), {}, options.out, row_paths(options.to))
    with ExitStack() as stack:
        if options.labels is None:
            source = _captioner_source(options, progress, stack, found, captioner, captions)
        else:
            source = _classifier_source(options, progress)
        against = {} if options.against is None else {"against": options.against}
        result = ExplainResult(
            model=source.models[0], map=source.map | against, skipped=source.skipped
        )
        writer = None
        if options.out is not None:
            writer = stack.enter_context(
                RunWriter(options.out, "explain", options, source.root, source.models, command)
            )
        add_row = stack.enter_context(row_files(options.to, source.models[0], raw=options.raw_csv))
        for explanation in _explain(source, result, writer, options.flag_below):
            add_row(explanation.answer())
            if each is not None:
                each(explanation)
        # where that raises, no run is written
        _check_found(result, source.without, options, progress)
        if writer is not None:
            writer.metrics = {
                "images": result.images,
                "words": result.words,
                "map": result.map,
                "marks": result.marks,
                "skipped": result.skipped,
            }
            writer.extra["device"] = source.device
    result.seconds = time.monotonic() - began
    result.add_written(options.to)
    if options.out is not None:
        _draw(options.out, result, progress)
        result.finish(options.out, progress)
    return result


@dataclass
class _Source:
    """Explanations as they come, and what a run says of them.

    map: method, layer and head. without: captions that have none of the words asked for; skipped:
    both lists grow with the explanations.
    """

    explanations: Iterator[Explanation]
    map: dict[str, Any]
    models: list[dict[str, Any]]
    device: str
    root: Path
    skipped: list[Skipped]
    without: list[str] = field(default_factory=list)


def _captioner_source(
    options: ExplainOptions,
    progress: Progress,
    stack: ExitStack,
    found: ImageSet | None,
    captioner: Captioner | None,
    captions: Mapping[str, str] | None,
) -> _Source:
    # everything that can be refused is checked before a model is loaded
    prepared = prepare_captioner(options)
    folder = prepared.place
    if folder.parent == home_path(options.model):
        progress.message(f"{options.model}: explains {folder.name}, the best of its methods")
    found = found or find_images(options.images, limit=options.limit)
    stored = read_default(folder)
    loaded = prepared.kept() if captioner is None else captioner
    check_length(loaded.speech, options.max_tokens)
    method, layer_head = choose_map(
        model_of(loaded), stored, method=options.method, layer=options.layer, head=options.head
    )
    method.check_encoder(loaded.encoder)
    skipped, without = list(found.skipped), []
    count = len(found.images)
    given = None if options.caption is None else [options.caption] * count
    if captions is not None:
        given = [captions[image.spelled] for image in found.images]

    budget = None
    if options.minutes is not None:
        budget = TimeBudget(60 * options.minutes, count, progress.message)

    def explanations() -> Iterator[Explanation]:
        cache = loaded.open_cache(options, count, stack, progress.message)
        with progress.bar("explaining", count) as advance:
            for captioned in captioned_images(
                loaded,
                found.images,
                given,
                GenerationSettings.of(options, cache),
                on_skip=skipped.append,
            ):
                advance(1)
                with loaded.turn:
                    explanation = explain_words(
                        captioned,
                        method,
                        layer_head,
                        options.chosen_words,
                        special=options.special,
                        against=options.against,
                        marks=options.faithfulness,
                        budget=budget,
                    )
                if explanation is None:
                    without.append(captioned.caption)
                else:
                    yield explanation
        if budget is not None:
            budget.close()

    return _Source(
        explanations=explanations(),
        map={"method": method.name, **layer_head._asdict()},
        models=[prepared.about, *loaded.described()],
        device=str(loaded.device),
        root=found.root,
        skipped=skipped,
        without=without,
    )


def _classifier_source(options: ExplainOptions, progress: Progress) -> _Source:
    """A map of the most probable label of each image, or of those of `--words`."""
    if options.layer != "auto" or options.head != "auto":
        raise UserError(
            "--layer and --head are for maps of a captioner; leave them out with --labels"
        )
    found = find_images(options.images, limit=options.limit)
    classifier = ZeroShotClassifier(
        str(options.labels),
        model=options.model,
        device=options.device,
        dtype=options.dtype,
        cache=not options.no_cache,
    )
    method = default_method(classifier.model) if options.method == "auto" else options.method
    skipped = list(found.skipped)

    def explanations() -> Iterator[Explanation]:
        with progress.bar("explaining", len(found.images)) as advance:
            for image in found.images:
                advance(1)
                try:
                    maps = explain_classes(
                        classifier,
                        image,
                        options.chosen_words or None,
                        method=method,
                        against=options.against,
                    )
                except UnreadableImage as error:
                    skipped.append(Skipped(image.name, error.reason))
                else:
                    yield _of_classes(maps, method)

    return _Source(
        explanations=explanations(),
        map={"method": method, **LayerHead()._asdict()},
        models=[describe_model(classifier.model)],
        device=str(classifier.model.image.device),
        root=found.root,
        skipped=skipped,
    )


def _explain(
    source: _Source, result: ExplainResult, writer: RunWriter | None, below: float | None
) -> Iterator[Explanation]:
    """Each explanation, counted and recorded."""
    maps = None if writer is None else MapWriter(writer)
    for explanation in source.explanations:
        if below is not None and explanation.agreement is not None:
            is_flagged = round(explanation.agreement, 4) < below
            explanation = replace(explanation, flagged=is_flagged)
            count = 0 if result.flagged is None else result.flagged[0]
            result.flagged = count + is_flagged, result.images + 1, below
        if maps is not None and writer is not None:
            explanation = explanation.written_by(maps)
        record = explanation.record()
        if writer is not None:
            writer.record(record)
        result.images += 1
        result.words += len(record["words"])
        for word in record["words"]:
            if word["faithfulness"] is not None:
                mark = word["faithfulness"]["mark"]
                result.marks[mark] = result.marks.get(mark, 0) + 1
        if len(result.records) < RECORDS_KEPT:
            result.records.append(record)
        if len(result.items) < _SHOWN:
            result.items.append(explanation)
        yield explanation


def _check_found(
    result: ExplainResult, without: Sequence[str], options: ExplainOptions, progress: Progress
) -> None:
    if result.images == 0 and not without:
        raise none_readable(result.skipped)
    asked = printable(", ".join(options.chosen_words))
    if result.images == 0 and not asked:
        some = "the caption has no word" if len(without) == 1 else "no caption has a word"
        raise NoSuchWord(f"{some} to explain ({quoted(without[0])}); give your own with --caption")
    if result.images == 0:
        some = "the caption has no such word"
        if len(without) > 1:
            some = f"none of {len(without):,} captions has such a word"
        raise NoSuchWord(
            f"--words {asked}: {some} ({quoted(without[0])}); give another,"
            " or a caption of your own with --caption"
        )
    if without:
        one = len(without) == 1
        some = "1 image is" if one else f"{len(without):,} images are"
        theirs = "its caption has" if one else "their captions have"
        lacking = f"none of {asked}" if asked else "no word to explain"
        progress.message(f"{some} left out: {theirs} {lacking}")


def _draw(out: Path, result: ExplainResult, progress: Progress) -> None:
    from captune.pages.figures import draw_figures

    result.written["run"] = out
    with progress.bar("drawing", result.images) as advance:
        for paths in draw_figures(read_run(out), result.skipped):
            result.figures += paths
            advance(1)
    if result.figures:
        result.written["figures"] = result.figures[0].parent


def _of_classes(found: ClassMaps, method: str) -> Explanation:
    pairs = list(zip(found.names, found.probabilities, strict=True))
    words = [
        # no probability is below the least number that is not zero
        ExplainedWord(name, math.log(max(probability, 1e-45)), own)
        for (name, probability), own in zip(pairs, found.maps, strict=True)
    ]
    shown = ", ".join(f"{name} {percent(probability, 0)}" for name, probability in pairs)
    frame = None if found.frame.is_whole else found.frame
    return Explanation(found.image, shown, words, method, LayerHead(), frame=frame)


def _word_table(record: Mapping[str, Any]) -> Table:
    given = " (given)" if record["given"] else ""
    columns = [Column("word"), *numbers("log p"), Column("is the map faithful?", wide=True)]
    rows = [
        [
            word["word"],
            number(word["log_probability"], lambda p: decimal(p, 2)),
            "" if word["faithfulness"] is None else word["faithfulness"]["mark"],
        ]
        for word in record["words"]
    ]
    return Table("images", f"{record['path']}: {record['caption']}{given}", columns, rows)
