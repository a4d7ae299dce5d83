"""An explanation from options to files: a map for each word, its mark, the run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch

from captune.attribution.default import choose_map, read_default
from captune.attribution.explanation import ExplainedWord, ExplainResult, Explanation
from captune.attribution.faithfulness import Faithfulness
from captune.attribution.marks import Followed, full, quick
from captune.attribution.methods import Choice, MapMethod
from captune.attribution.recording import OnExplanation, Say, record_all
from captune.attribution.subject import Subject, subjects_of
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
from captune.files import home_path, quoted
from captune.images import ImageSet, find_images, printable
from captune.models.image_text import describe_model
from captune.options import ExplainOptions
from captune.runs.place import writes_run
from captune.text import bare_word


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
        from captune.attribution.class_job import explain_labels

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
    method, choice = choose_map(
        captioner, stored, method=options.method, layer=options.layer, head=options.head
    )
    about = describe_captioner(options, place, recipe)
    result = ExplainResult(about, method.name, choice, options.against, skipped=list(found.skipped))
    without: list[str] = []

    def explanations(stack: ExitStack) -> Iterator[Explanation]:
        advance = stack.enter_context(bar("explaining", len(found.images)))
        for subject in subjects_of(
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
            explanation = explained(captioner, subject, method, choice, options)
            if explanation is not None:
                yield explanation
            else:
                without.append(subject.caption)

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
    subject: Subject,
    method: MapMethod,
    choice: Choice,
    options: ExplainOptions,
) -> Explanation | None:
    """The maps of a subject's words; None where its caption has none of those asked for."""
    words = list(wanted_words(subject, options.chosen_words, special=options.special))
    if not words:
        return None
    maps = method.maps(captioner, subject, choice, words, options.against)
    with torch.no_grad():
        said = word_log_probabilities(captioner, subject, subject.grid, words)[0].tolist()
    marks: Sequence[Faithfulness | Followed | None] = [None] * len(words)
    # what a map against another word is true of is a difference, which the marks do not measure
    if options.faithfulness != "none" and options.against is None:
        measure = full if options.faithfulness == "full" else quick
        marks = measure(captioner, subject, maps, words)
    shares = maps.sum(dim=(1, 2)).tolist() if method.is_share(choice) else [None] * len(words)
    return Explanation(
        subject.image,
        subject.caption,
        [
            ExplainedWord(subject.spans[word].word, log_probability, own, share, mark)
            for word, log_probability, own, share, mark in zip(
                words, said, maps, shares, marks, strict=True
            )
        ],
        method.name,
        choice,
        subject.is_given,
    )


def wanted_words(subject: Subject, chosen: Sequence[str], *, special: bool) -> Iterator[int]:
    """Numbers, in `subject.spans`, of the words to explain; chosen: none for all.

    Case and the signs around a word do not count.
    """
    bare = {bare_word(word) for word in chosen}
    for number, span in enumerate(subject.spans):
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
