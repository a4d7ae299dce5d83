"""`captune caption`: describe images in words.

With a run folder each batch is written down when it is done, and the same command goes on where a
killed one was. Memory does not grow with the number of images, but for their names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, overload

from captune.answer_files import Row, check_ending, row_files, row_paths
from captune.captioning.caption import Caption, without_preamble
from captune.captioning.settings import checkpoint_folder
from captune.files import home_path
from captune.images import ImageFile, Images, ImageSet, Skipped, find_images
from captune.jobs import MOST_ANSWERS, PAGE, Result, check_outputs, files_among
from captune.jobs.caption_outputs import (
    CaptionJournal,
    Sidecars,
    Sink,
    check_predictions,
    check_somewhere,
    predictions_file,
)
from captune.jobs.captioners import CaptionersResult, takes_several
from captune.jobs.shards import takes_shards
from captune.options.base import LITE
from captune.options.captioning import CaptionOptions
from captune.options.codec import from_python
from captune.progress import SILENT, Progress
from captune.runs import RunWriter
from captune.runs.metrics import PeopleAgreement, Reranking
from captune.runs.writer import writes_run
from captune.tables import Column, Number, Table, numbers
from captune.text import counted, duration, percent

if TYPE_CHECKING:  # these load torch
    from captune.captioning.any_captioner import AnyCaptioner, Prepared
    from captune.captioning.captioner import Captioner
    from captune.models.devices import PeakMemory

# names that are numbers: COCO's own, with zeros in front, and others
_NUMBER = re.compile(r"(?:COCO_\w+_)?(\d{12}|[1-9]\d{,17})", re.ASCII)
_FEW = 20  # captions that are printed where they are written, too


@dataclass(kw_only=True, eq=False)
class CaptionResult(Result):
    """What one captioning wrote; its items are captions.

    captions: path and caption of the first 10,000 images. ended: how many captions came to an end
    by themselves. resumed: images that an earlier, killed run had done. agreement: how likely
    people agree with a caption of this captioner; agreement_sum: of the captions. flagged: how many
    are below flag_below. reranking: how captions were chosen among candidates, where they were.
    writing_s, peak_bytes: of one of several captioners, the time that its captions took and the
    most memory that was held meanwhile; those of a killed run count, too.
    """

    captioner: dict[str, Any]
    captions: list[tuple[str, str]] = field(default_factory=list)
    ended: int = 0
    words: int = 0
    log_probability: float = 0.0
    resumed: int = 0
    seconds: float = 0.0
    sidecars: dict[str, int] | None = None
    agreement: PeopleAgreement | None = None
    agreement_sum: float = 0.0
    flag_below: float | None = None
    flagged: int = 0
    reranking: Reranking | None = None
    writing_s: float = 0.0
    peak_bytes: int | None = None

    def add(self, record: Mapping[str, Any]) -> None:
        """One more record."""
        self.images += 1
        self.ended += record["ended"]
        self.words += len(record["words"])
        self.log_probability += record["mean_log_probability"]
        self.agreement_sum += record.get("agreement", 0.0)
        self.flagged += record.get("flagged", False)
        if len(self.captions) < MOST_ANSWERS:
            self.captions.append((record["path"], record["caption"]))

    def metrics(self) -> dict[str, Any]:
        """The run's metrics.json: means per caption, and the mean log-probability per token."""
        mean = self.agreement_sum / self.images
        agreed = {"agreement": self.agreement, "agreement_mean": mean}
        return {
            "images": self.images,
            "ended": self.ended,
            "words_mean": self.words / self.images,
            "log_probability_mean": self.log_probability / self.images,
            "skipped": self.skipped,
            **({} if self.agreement is None else agreed),
            **self._flagged(),
            **({} if self.reranking is None else {"reranking": self.reranking}),
        }

    def _flagged(self) -> dict[str, Any]:
        if self.flag_below is None:
            return {}
        return {"flag_below": self.flag_below, "flagged": self.flagged}

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return super().summary() | {
            "model": self.captioner,
            **self.answers_summary(),
            "ended": self.ended,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "sidecars": self.sidecars,
            **self._flagged(),
        }

    def tables(self) -> list[Table]:
        """A few captions, or those that are written nowhere; none for one image alone or none."""
        is_written = bool(self.written or self.sidecars)
        if not self.images or self._is_one or (self.images > _FEW and is_written):
            return []
        columns = [Column("image"), Column("caption", wide=True)]
        rows: list[Any] = self.captions
        if self.agreement is not None:
            columns += numbers("people agree")
            rows = [
                [*row, Number(answer["agreement"], percent(answer["agreement"], 0))]
                for row, answer in zip(rows, self.kept_answers, strict=True)
            ]
        if self.flag_below is not None:
            columns.append(Column("flagged"))
            marks = ["yes" if answer["flagged"] else "" for answer in self.kept_answers]
            rows = [[*row, mark] for row, mark in zip(rows, marks, strict=True)]
        return [Table("images", "captions", columns, rows)]

    def sentences(self) -> list[str]:
        """The caption of one image alone; of more, what was done."""
        said = []
        if self._is_one:
            said.append(self.captions[0][1])
        else:
            said.append(
                f"{counted(self.images, 'image')} in {duration(self.seconds)}, captioner"
                f" {self.captioner['spec']}"
            )
            if self.ended < self.images:
                said.append(
                    f"{self.images - self.ended:,} of them reached --max-tokens before they ended"
                )
        if self.reranking is not None and not self._is_one:
            from captune.captioning.rerank import chosen_sentence

            said.append(chosen_sentence(self.reranking))
        if self.flag_below is not None:
            from captune.captioning.agreement import flagged_sentence

            said.append(flagged_sentence(self.flagged, self.images, self.flag_below))
        if self.sidecars:
            kept = f", {self.sidecars['kept']:,} kept" if self.sidecars["kept"] else ""
            said.append(f"sidecars: {self.sidecars['written']:,} written{kept}")
        return said

    @property
    def _is_one(self) -> bool:
        return self.images == 1 and not self.skipped


@overload
def caption(images: Images, *, model: str | Path = ..., **options: Any) -> CaptionResult: ...
@overload
def caption(images: Images, *, model: list[Any], **options: Any) -> CaptionersResult: ...
def caption(
    images: Images, *, model: str | Path | list[Any] = LITE, **options: Any
) -> CaptionResult | CaptionersResult:
    """Describe images in words, as `captune caption`.

    images: folders, files and globs, or images in memory (`find_images`). model: a
    captioner, or a list of several to compare. options: the fields of `CaptionOptions`; what they
    say to write is written too. The result is a sequence of `Caption`, one per image that could be
    read; it holds all of them. Of several captioners it holds all that the first wrote, then those
    of the next, each with its `captioner`.
    Raises UserError for what cannot be done.
    """
    found: list[Caption] = []
    made = from_python(CaptionOptions, images=images, model=model, **options)
    result = run(made, each=found.append)
    result.items = found
    return result


@takes_shards("caption")
@takes_several
@writes_run("caption")
def run(
    options: CaptionOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),
    each: Callable[[Caption], None] | None = None,
    found: ImageSet | None = None,
    captioner: Captioner | AnyCaptioner | None = None,
    prepared: Prepared | None = None,
) -> CaptionResult:
    """Caption, write what was asked for, and leave the page of the run.

    command: the words that made this run, kept in it. each: is given every caption as it comes,
    also those of an earlier, killed run. found, captioner: images and a captioner that are there
    already, instead of those that the options name. prepared: one of several captioners, which is
    measured; its journal stays, so that what is done is not done again. Raises UserError for what
    cannot be done; unreadable images are named in the result.
    """
    is_one_of_several = prepared is not None
    found = _checked(options, found, each)
    sidecars = None
    if not (options.out or options.predictions or options.to or each):
        sidecars = _open_sidecars(options, found.images, 0, progress)
        if sidecars is not None and sidecars.skips:
            # nobody reads what would be said of the images that keep theirs
            found = replace(found, images=sidecars.leave())
            if not found.images:
                if options.model != LITE and not options.model.startswith("hf:"):
                    checkpoint_folder(home_path(options.model))  # a wrong one is refused, too
                return CaptionResult(
                    captioner={"spec": options.model},
                    skipped=list(found.skipped),
                    found=found,
                    sidecars=sidecars.counts(),
                )
    from captune.captioning.any_captioner import prepare_captioner
    from captune.captioning.decoder_parts import check_length
    from captune.captioning.generate import GenerationSettings
    from captune.features.encode import none_readable
    from captune.models.devices import PeakMemory, resolve_device

    # everything that can be refused is checked before a model is loaded
    prepared = prepared or prepare_captioner(options)
    if prepared.place.parent == home_path(options.model):
        method = prepared.place.name
        progress.message(f"{options.model}: captions with {method}, the best of its methods")
    began = time.monotonic()
    with ExitStack() as stack:
        asked = {**prepared.asked, "--limit": options.limit}
        if is_one_of_several:  # its run is not written anew, and what is done stays for more images
            asked = {**prepared.asked, "--flag-below": options.flag_below}
        journal = _open_journal(options, asked, found.images, stack, progress)
        done = journal.done if journal else 0
        if sidecars is None:
            sidecars = _open_sidecars(options, found.images, done, progress)
        is_written = is_one_of_several and journal is not None and journal.is_written
        peak = PeakMemory(resolve_device(options.device)) if is_one_of_several else None
        writer = None
        outcomes: Iterable[list[Caption | Skipped]] = ()
        if not is_written:
            if captioner is None:
                captioner = prepared.load() if is_one_of_several else prepared.kept()
            check_length(captioner.speech, options.max_tokens)
            if options.out is not None:
                models = [prepared.about, *captioner.described()]
                writer = RunWriter(options.out, "caption", options, found.root, models, command)
            cache = captioner.open_cache(options, len(found.images) - done, stack, progress.message)
            how = GenerationSettings.of(options, cache)
            outcomes = captioner.stream(found.images, how, done=done)
        result = CaptionResult(
            captioner=prepared.about,
            skipped=list(found.skipped),
            resumed=done,
            found=found,
            agreement=prepared.agreement,
            flag_below=options.flag_below,
            reranking=prepared.choosing,
        )
        sinks = _sinks(options, prepared.about, sidecars, each, stack)
        with progress.bar("captioning", len(found.images)) as advance:
            for images, batch, is_new in _kept(
                journal, found.images, outcomes, done, options, peak
            ):
                for image, entry in zip(images, batch, strict=True):
                    _take(image, entry, result, sinks)
                advance(len(images), before=not is_new)
        if result.images == 0:
            if journal is not None:
                journal.remove()
            raise none_readable(result.skipped)
        if writer is not None and journal is not None and captioner is not None:
            _write_run(writer, journal, result, str(captioner.device))
            if is_one_of_several:
                journal.keep()
            else:
                journal.remove()
    result.seconds = time.monotonic() - began
    outputs = {"run": options.out, "predictions": options.predictions}
    result.written |= {what: path for what, path in outputs.items() if path is not None}
    result.add_written(options.to)
    result.sidecars = None if sidecars is None else sidecars.counts()
    if options.out is not None and not (is_written and (options.out / PAGE).is_file()):
        result.finish(options.out, progress)
    return result


def _checked(
    options: CaptionOptions, found: ImageSet | None, each: Callable[[Caption], None] | None
) -> ImageSet:
    """The images, where all that is to be written of them can be. Raises UserError."""
    check_ending("--predictions", options.predictions, ".json")
    files = {"--predictions": options.predictions}
    check_outputs(files_among(*options.images), files, options.out, row_paths(options.to))
    found = find_images(options.images, limit=options.limit) if found is None else found
    if each is None:
        check_somewhere(options, len(found.images))
    if options.predictions is not None:
        check_predictions(options.predictions, found.images)
    return found


def _open_journal(
    options: CaptionOptions,
    asked: dict[str, Any],
    images: Sequence[ImageFile],
    stack: ExitStack,
    progress: Progress,
) -> CaptionJournal | None:
    if options.out is None:
        return None
    journal = stack.enter_context(CaptionJournal(options.out, asked, images, options.batch_size))
    if journal.done:
        progress.message(f"resuming after {journal.done:,} of {len(images):,} images")
    return journal


def _open_sidecars(
    options: CaptionOptions, images: Sequence[ImageFile], done: int, progress: Progress
) -> Sidecars | None:
    if not options.sidecar:
        return None
    existing = "overwrite" if options.overwrite else options.existing
    around = options.prefix, options.suffix
    return Sidecars(images, done=done, existing=existing, around=around, progress=progress)


def _sinks(
    options: CaptionOptions,
    about: Mapping[str, Any],
    sidecars: Sidecars | None,
    each: Callable[[Caption], None] | None,
    stack: ExitStack,
) -> list[Sink]:
    """All that takes captions as they come; files appear when `stack` ends well."""
    sinks: list[Sink] = [] if sidecars is None else [sidecars.add]
    if options.predictions is not None:
        sinks.append(stack.enter_context(predictions_file(options.predictions)))
    if options.to:
        add_row = stack.enter_context(
            row_files(options.to, about, raw=options.raw_csv, json_row=_coco_result)
        )
        sinks.append(lambda one: add_row(one.answer()))
    return sinks if each is None else [*sinks, each]


def _kept(
    journal: CaptionJournal | None,
    images: Sequence[ImageFile],
    outcomes: Iterable[list[Caption | Skipped]],
    done: int,
    options: CaptionOptions,
    peak: PeakMemory | None,
) -> Iterator[tuple[Sequence[ImageFile], list[dict[str, Any]], bool]]:
    """(images, what came of them, whether it is new), batch by batch; in the journal first.

    peak: with one, what came of an image says what time and memory it took.
    """
    if journal is not None:
        for image, entry in zip(images, journal.entries(), strict=False):
            yield [image], [entry], False
    began = time.perf_counter()
    for some_outcomes in outcomes:
        used: dict[str, Any] = {}
        if peak is not None:
            seconds = (time.perf_counter() - began) / len(some_outcomes)
            used = {"seconds": seconds, "peak_bytes": peak.bytes}
        some = images[done : done + len(some_outcomes)]
        batch: list[dict[str, Any]] = []
        for outcome in some_outcomes:
            if isinstance(outcome, Skipped):
                batch.append({"skipped": outcome.reason, **used})
            else:
                said = without_preamble(outcome) if options.cut_preamble else outcome
                batch.append({"record": said.record(candidates=options.keep_candidates), **used})
        if journal is not None:
            journal.add(zip(some, batch, strict=True))
        yield some, batch, True
        done += len(some_outcomes)
        began = time.perf_counter()


def _take(
    image: ImageFile, entry: Mapping[str, Any], result: CaptionResult, sinks: Sequence[Sink]
) -> None:
    result.writing_s += entry.get("seconds", 0.0)
    result.peak_bytes = max(result.peak_bytes or 0, entry.get("peak_bytes") or 0) or None
    if "skipped" in entry:
        result.skipped.append(Skipped(image.name, entry["skipped"]))
        return
    record = _flagged(entry, result.flag_below)["record"]
    result.add(record)
    found = Caption.of_record(image, record)
    result.keep(found.answer())
    if len(result.items) < _FEW:
        result.items.append(found)
    for sink in sinks:
        sink(found)


def _flagged(entry: Mapping[str, Any], below: float | None) -> Mapping[str, Any]:
    """An entry of the journal, marked by --flag-below."""
    if below is None or "record" not in entry:
        return entry
    record = entry["record"]
    return {"record": {**record, "flagged": record["agreement"] < below}}


def _coco_result(row: Row) -> dict[str, Any]:
    """A row of COCO's results: the number in a COCO name, another number, or else the stem."""
    stem = PurePath(row["image"]).stem
    number = _NUMBER.fullmatch(stem)
    return {"image_id": int(number[1]) if number else stem, **row}


def _write_run(
    writer: RunWriter, journal: CaptionJournal, result: CaptionResult, device: str
) -> None:
    with writer:
        for entry in journal.entries():
            if "record" in entry:
                writer.record(_flagged(entry, result.flag_below)["record"])
        writer.metrics = result.metrics()
        writer.extra = {"device": device, "resumed": result.resumed}
