"""`captune explain`: from options to a map for each word, its mark, the run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from captune.attribution.captioned_image import CaptionedImage, captioned_images
from captune.attribution.classes import ClassMaps, default_method, explain_classes
from captune.attribution.default_map import choose_map, read_default
from captune.attribution.deletion_insertion import QuickMark
from captune.attribution.explanation import (
    ExplainedWord,
    ExplainResult,
    Explanation,
    FullMark,
    full_marks,
    quick_marks,
)
from captune.attribution.methods import LayerHead, MapMethod
from captune.attribution.word_scores import word_log_probabilities
from captune.captioning.checkpoint import read_recipe
from captune.captioning.loading import (
    LITE,
    captioner_folder,
    describe_captioner,
    describe_decoder,
    load_captioner,
    open_grid_cache,
)
from captune.captioning.model import Captioner
from captune.embedding import Bar, none_readable
from captune.errors import UserError
from captune.files import home_path, printable, quoted
from captune.images import ImageSet, Skipped, UnreadableImage, find_images
from captune.models.encoders import describe_model
from captune.options import ExplainOptions
from captune.runs import RunWriter
from captune.runs.maps import MapWriter
from captune.runs.place import writes_run
from captune.text import bare_word, percent
from captune.zeroshot.classifier import ZeroShotClassifier


class NoSuchWord(UserError):
    """No caption has one of the words that were asked for."""


@writes_run("explain")
def explain_images(
    options: ExplainOptions,
    *,
    command: Sequence[str] = (),
    bar: Bar = lambda what, total: nullcontext(lambda done: None),
    say: Say = lambda sentence: None,
    on_explanation: OnExplanation = None,
) -> ExplainResult:
    """Do what `captune explain` was asked for; the result names bad files, the rest goes on.

    on_explanation: is given each image's maps. Raises UserError for what cannot be done.
    """
    # everything that can be refused is checked before a model is loaded
    if options.labels is not None:
        return explain_labels(
            options,
            find_images(options.images),
            command=command,
            bar=bar,
            on_explanation=on_explanation,
        )
    place = captioner_folder(options.model)
    if options.model != LITE and place != home_path(options.model):
        say(f"{options.model}: explains {place.name}, the best of its methods")
    return _explain_words(
        options, place, find_images(options.images), command, bar, say, on_explanation
    )


def _explain_words(
    options: ExplainOptions,
    place: Path,
    found: ImageSet,
    command: Sequence[str],
    bar: Bar,
    say: Say,
    on_explanation: OnExplanation,
) -> ExplainResult:
    recipe, stored = read_recipe(place), read_default(place)
    began = time.monotonic()
    captioner, encoder = load_captioner(options, place, recipe)
    method, layer_head = choose_map(
        captioner, stored, method=options.method, layer=options.layer, head=options.head
    )
    method.check_encoder(encoder)
    about = describe_captioner(options, place, recipe)
    result = ExplainResult(
        about, method.name, layer_head, options.against, skipped=list(found.skipped)
    )
    without: list[str] = []

    def explanations(stack: ExitStack) -> Iterator[Explanation]:
        advance = stack.enter_context(bar("explaining", len(found.images)))
        for captioned in captioned_images(
            captioner,
            encoder,
            found.images,
            None if options.caption is None else [options.caption] * len(found.images),
            beam=options.beam,
            max_tokens=options.max_tokens,
            cache=open_grid_cache(options, encoder, len(found.images), stack, say),
            batch_size=options.batch_size,
            workers=options.workers,
            on_skip=result.skipped.append,
        ):
            advance(1)
            explanation = explained(captioner, captioned, method, layer_head, options)
            if explanation is not None:
                yield explanation
            else:
                without.append(captioned.caption)

    with ExitStack() as stack:
        record_all(
            explanations(stack),
            result,
            options,
            root=found.root,
            models=[about, describe_model(encoder), describe_decoder(captioner.decoder)],
            command=command,
            device=str(captioner.decoder.device),
            on_explanation=on_explanation,
            check=lambda: _check_found(result, without, options, say),
        )
    result.seconds = time.monotonic() - began
    return result


def explained(
    captioner: Captioner,
    captioned: CaptionedImage,
    method: MapMethod,
    layer_head: LayerHead,
    options: ExplainOptions,
) -> Explanation | None:
    """The maps of a captioned image's words; None where its caption has none of those asked for."""
    words = list(wanted_words(captioned, options.chosen_words, special=options.special))
    if not words:
        return None
    maps = method.maps(captioner, captioned, layer_head, words, options.against)
    with torch.no_grad():
        said = word_log_probabilities(captioner, captioned, captioned.grid, words)[0].tolist()
    marks: Sequence[QuickMark | FullMark | None] = [None] * len(words)
    # what a map against another word is true of is a difference, which the marks do not measure
    if options.faithfulness != "none" and options.against is None:
        measure = full_marks if options.faithfulness == "full" else quick_marks
        marks = measure(captioner, captioned, maps, words)
    fractions = (
        maps.sum(dim=(1, 2)).tolist() if method.is_fraction(layer_head) else [None] * len(words)
    )
    return Explanation(
        captioned.image,
        captioned.caption,
        [
            ExplainedWord(captioned.spans[word].word, log_probability, own, fraction, mark)
            for word, log_probability, own, fraction, mark in zip(
                words, said, maps, fractions, marks, strict=True
            )
        ],
        method.name,
        layer_head,
        captioned.is_user_caption,
    )


def wanted_words(
    captioned: CaptionedImage, chosen: Sequence[str], *, special: bool
) -> Iterator[int]:
    """Numbers, in `captioned.spans`, of the words to explain; chosen: none for all.

    Case and the signs around a word do not count.
    """
    bare = {bare_word(word) for word in chosen}
    for number, span in enumerate(captioned.spans):
        if special if span.special else not bare or bare_word(span.word) in bare:
            yield number


def _check_found(
    result: ExplainResult, without: Sequence[str], options: ExplainOptions, say: Say
) -> None:
    if result.images == 0 and not without:
        raise none_readable(result.skipped)
    asked = ", ".join(options.chosen_words)
    if result.images == 0:
        some = "the caption has" if len(without) == 1 else f"none of {len(without):,} captions has"
        raise NoSuchWord(
            f"--words {printable(asked)}: {some} such a word ({quoted(without[0])}); give another,"
            " or a caption of your own with --caption"
        )
    if without:
        one = len(without) == 1
        some = "1 image is" if one else f"{len(without):,} images are"
        theirs = "its caption has" if one else "their captions have"
        say(f"{some} left out: {theirs} none of {printable(asked)}")


def explain_labels(
    options: ExplainOptions,
    found: ImageSet,
    *,
    command: Sequence[str],
    bar: Bar,
    on_explanation: OnExplanation,
) -> ExplainResult:
    """A map of the most probable label of each image, or of those of `--words`.

    As `job.explain_images`; the "words" are names of labels.
    """
    began = time.monotonic()
    if options.layer != "auto" or options.head != "auto":
        raise UserError("--layer, --head: are of captioners' maps; leave them out with --labels")
    classifier = ZeroShotClassifier(
        str(options.labels),
        model=options.model,
        device=options.device,
        dtype=options.dtype,
        cache=not options.no_cache,
    )
    method = default_method(classifier.model) if options.method == "auto" else options.method
    about = describe_model(classifier.model)
    result = ExplainResult(about, method, against=options.against, skipped=list(found.skipped))

    def explanations() -> Iterator[Explanation]:
        with bar("explaining", len(found.images)) as advance:
            for image in found.images:
                advance(1)
                try:
                    yield _explanation(
                        explain_classes(
                            classifier,
                            image,
                            options.chosen_words or None,
                            method=method,
                            against=options.against,
                        ),
                        method,
                    )
                except UnreadableImage as error:
                    result.skipped.append(Skipped(image.name, error.reason))

    def check() -> None:
        if result.images == 0:
            raise none_readable(result.skipped)

    record_all(
        explanations(),
        result,
        options,
        root=found.root,
        models=[about],
        command=command,
        device=str(classifier.model.image.device),
        on_explanation=on_explanation,
        check=check,
    )
    result.seconds = time.monotonic() - began
    return result


def _explanation(found: ClassMaps, method: str) -> Explanation:
    pairs = zip(found.names, found.probabilities, strict=True)
    shown = ", ".join(f"{name} {percent(fraction, 0)}" for name, fraction in pairs)
    words = [
        # no probability is below the least number that is not zero
        ExplainedWord(name, math.log(max(fraction, 1e-45)), own)
        for name, fraction, own in zip(found.names, found.probabilities, found.maps, strict=True)
    ]
    frame = None if found.frame.is_whole else found.frame
    return Explanation(found.image, shown, words, method, LayerHead(), frame=frame)


Say = Callable[[str], None]
OnExplanation = Callable[[Explanation], None] | None


def record_all(
    explanations: Iterable[Explanation],
    result: ExplainResult,
    options: ExplainOptions,
    *,
    root: Path,
    models: Sequence[Mapping[str, Any]],
    command: Sequence[str],
    device: str,
    on_explanation: OnExplanation,
    check: Callable[[], None],
) -> None:
    """Count and write all; nothing is written where `check`, called at the end, raises.

    root: the folder that the images' names are relative to. models: as run.json names them.
    """
    with ExitStack() as stack:
        maps = writer = None
        if options.out is not None:
            writer = RunWriter(
                options.out,
                kind="explain",
                options=options,
                root=root,
                models=models,
                command=command,
            )
            maps = MapWriter(stack.enter_context(writer))
        for found in explanations:
            explanation = found
            if maps is not None and writer is not None:
                explanation = found.written_by(maps)
                writer.record(explanation.record())
            result.count(explanation.record())
            if on_explanation is not None:
                on_explanation(explanation)
        check()
        if writer is not None:
            result.run = options.out
            writer.metrics = result.metrics()
            writer.extra = {"device": device}
