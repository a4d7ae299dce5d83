"""A captioning from options to files: the run folder, predictions, sidecars, the summary.

With a run folder it is written down as it goes, and the same command goes on where a killed one
was. Memory does not grow with the number of images, but for their names.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captune.captioning.caption_files import Predictions, Sidecars
from captune.captioning.checkpoint import read_recipe
from captune.captioning.generation import Caption, captions_of
from captune.captioning.journal import Journal
from captune.captioning.loading import (
    LITE,
    captioner_folder,
    describe_captioner,
    describe_decoder,
    load_captioner,
    open_grid_cache,
    writing_precision,
)
from captune.captioning.recipe import Recipe
from captune.embedding import Bar, none_readable
from captune.errors import UserError
from captune.files import home_path
from captune.images import ImageFile, ImageSet, Skipped, find_images
from captune.models.devices import resolve_device
from captune.models.encoders import describe_model
from captune.models.weights import digest_of
from captune.options import CaptionOptions
from captune.runs import RunWriter
from captune.runs.place import writes_run
from captune.tables import NotebookDisplay
from captune.text import duration

KEPT = 1000  # captions that the result holds itself; more are in the files alone
_LONG_S = 60  # what takes longer is said to
Say = Callable[[str], None]


@dataclass
class CaptionResult(NotebookDisplay):
    """What one captioning wrote.

    captions: path and caption of the first 1,000 images. ended: how many captions came to an end
    by themselves. resumed: images that an earlier, killed run had done. written: what was written
    where.
    """

    captioner: dict[str, Any]
    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    captions: list[tuple[str, str]] = field(default_factory=list)
    ended: int = 0
    words: int = 0
    log_probability: float = 0.0
    resumed: int = 0
    seconds: float = 0.0
    written: dict[str, Path] = field(default_factory=dict)
    sidecars: dict[str, int] | None = None

    def count(self, record: Mapping[str, Any]) -> None:
        """One more record."""
        self.images += 1
        self.ended += record["ended"]
        self.words += len(record["words"])
        self.log_probability += record["mean_log_probability"]
        if len(self.captions) < KEPT:
            self.captions.append((record["path"], record["caption"]))

    def metrics(self) -> dict[str, Any]:
        """The run's metrics.json: means a caption, and the mean log-probability a token."""
        return {
            "images": self.images,
            "ended": self.ended,
            "words_mean": self.words / self.images,
            "log_probability_mean": self.log_probability / self.images,
            "skipped": _named(self.skipped),
        }

    def summary(self) -> dict[str, Any]:
        """What `--json` prints; captions are null where there are more than a thousand."""
        run = self.written.get("run")
        shown = [{"path": path, "caption": caption} for path, caption in self.captions]
        return {
            "run": None if run is None else str(run),
            "images": self.images,
            "skipped": _named(self.skipped),
            "model": self.captioner,
            "captions": shown if self.images <= KEPT else None,
            "ended": self.ended,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 3),
            "sidecars": self.sidecars,
            "written": {what: str(path) for what, path in self.written.items()},
        }


@writes_run("caption")
def caption_images(
    options: CaptionOptions,
    *,
    command: Sequence[str] = (),
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
    say: Say = lambda sentence: None,
    on_caption: Callable[[Caption], None] | None = None,
) -> CaptionResult:
    """Do what `captune caption` was asked for; the result names bad files, the rest goes on.

    command: the words that made this run, kept in it. on_caption: is given each caption, also
    those of an earlier, killed run. Raises UserError for what cannot be done.
    """
    # everything that can be refused is checked before a model is loaded
    place = captioner_folder(options.model)
    recipe = read_recipe(place)
    if options.model != LITE and place != home_path(options.model):
        say(f"{options.model}: captions with {place.name}, the best of its methods")
    found = find_images(options.images)
    if on_caption is None:
        _check_somewhere(options, found)
    began = time.monotonic()
    with ExitStack() as stack:
        predictions = sidecars = writer = journal = None
        if options.predictions is not None:
            predictions = Predictions(options.predictions, found.images)
        about = describe_captioner(options, place, recipe)
        if options.out is not None:
            asked = _asked(options, recipe, about)
            journal = stack.enter_context(
                Journal(options.out, asked, found.images, options.batch_size)
            )
            if journal.done:
                say(f"goes on after {journal.done:,} of {len(found.images):,} images")
        done = journal.done if journal else 0
        if options.sidecar:
            sidecars = Sidecars(found.images, done=done, overwrite=options.overwrite, say=say)
        captioner, encoder = load_captioner(options, place, recipe)
        if options.out is not None:
            models = [about, describe_model(encoder), describe_decoder(captioner.decoder)]
            if captioner.words_model not in (None, encoder):
                models.append(describe_model(captioner.words_model))
            writer = RunWriter(
                options.out,
                kind="caption",
                options=options,
                root=found.root,
                models=models,
                command=command,
            )
        cache = open_grid_cache(options, encoder, len(found.images) - done, stack, say)
        result = CaptionResult(about, skipped=list(found.skipped), resumed=done)
        sinks = [sink for sink in (predictions, sidecars) if sink is not None]
        if predictions is not None:
            stack.enter_context(predictions)
        written = captions_of(
            captioner,
            encoder,
            found.images[done:],
            cache=cache,
            beam=options.beam,
            max_tokens=options.max_tokens,
            batch_size=options.batch_size,
            workers=options.workers,
        )
        entries = _kept(journal, found.images, written, done)
        with bar("captioning", len(found.images)) as advance:
            watch = _Watch(len(found.images) - done, say)
            for images, batch, is_new in entries:
                for image, entry in zip(images, batch, strict=True):
                    _take(image, entry, result, sinks, on_caption)
                advance(len(images))
                if is_new:
                    watch.seen(len(images))
        if result.images == 0:
            if journal is not None:
                journal.remove()
            raise none_readable(result.skipped)
        if writer is not None and journal is not None:
            _write_run(writer, journal, result, str(captioner.decoder.device))
    result.seconds = time.monotonic() - began
    for what, file in (("run", options.out), ("predictions", options.predictions)):
        if file is not None:
            result.written[what] = file
    if sidecars is not None:
        result.sidecars = {"written": sidecars.written, "kept": sidecars.kept}
    return result


def _kept(
    journal: Journal | None,
    images: Sequence[ImageFile],
    written: Iterable[list[Caption | Skipped]],
    done: int,
) -> Iterator[tuple[Sequence[ImageFile], list[dict[str, Any]], bool]]:
    """(images, what came of them, whether it is new), batch by batch; in the journal first."""
    if journal is not None:
        for image, entry in zip(images, journal.entries(), strict=False):
            yield [image], [entry], False
    for outcomes in written:
        some = images[done : done + len(outcomes)]
        batch: list[dict[str, Any]] = []
        for outcome in outcomes:
            if isinstance(outcome, Skipped):
                batch.append({"skipped": outcome.reason})
            else:
                batch.append({"record": outcome.record()})
        if journal is not None:
            journal.add(zip(some, batch, strict=True))
        yield some, batch, True
        done += len(outcomes)


def _take(
    image: ImageFile,
    entry: Mapping[str, Any],
    result: CaptionResult,
    sinks: Sequence[Predictions | Sidecars],
    on_caption: Callable[[Caption], None] | None,
) -> None:
    if "skipped" in entry:
        result.skipped.append(Skipped(image.name, entry["skipped"]))
        return
    record = entry["record"]
    result.count(record)
    for sink in sinks:
        sink.add(image, record["caption"])
    if on_caption is not None:
        on_caption(Caption.of_record(image, record))


class _Watch:
    """Says how long it will take, once two batches are done: the first pays for what is set up."""

    def __init__(self, images: int, say: Say) -> None:
        self._left = images
        self._say = say
        self._batches = 0
        self._since = 0.0

    def seen(self, images: int) -> None:
        """So many more are done."""
        self._left -= images
        self._batches += 1
        if self._batches == 2:
            expected = (time.monotonic() - self._since) / images * self._left
            if expected > _LONG_S:
                self._say(f"about {duration(expected)} for the other {self._left:,} images")
        self._since = time.monotonic()


def _check_somewhere(options: CaptionOptions, found: ImageSet) -> None:
    wanted = options.out or options.predictions or options.sidecar
    if not wanted and len(found.images) > KEPT:
        raise UserError(
            f"{len(found.images):,} images: too many captions to print; say where to write them,"
            " with --out RUN, --predictions FILE.json or --sidecar"
        )


def _asked(options: CaptionOptions, recipe: Recipe, about: Mapping[str, Any]) -> dict[str, Any]:
    """All that the captions depend on."""
    known = recipe.known_words
    return {
        "model": about["weights_id"],
        "image encoder": recipe.image_encoder.weights_id,
        "decoder": recipe.decoder_id,
        "--beam": options.beam,
        "--max-tokens": options.max_tokens,
        "--batch-size": options.batch_size,
        "--dtype": writing_precision(options),
        "--device": resolve_device(options.device).type,
        **({} if known is None else {"known words": digest_of(dataclasses.asdict(known))}),
    }


def _write_run(writer: RunWriter, journal: Journal, result: CaptionResult, device: str) -> None:
    with writer:
        for entry in journal.entries():
            if "record" in entry:
                writer.record(entry["record"])
        writer.metrics = result.metrics()
        writer.extra = {"device": device, "resumed": result.resumed}
    journal.remove()


def _named(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"path": item.path, "reason": item.reason} for item in skipped]
