"""`captune explain --labels`: where a zero-shot classifier found a class."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from captune.attribution.classes import ClassMaps, default_method, explain_classes
from captune.attribution.explanation import ExplainedWord, ExplainResult, Explanation
from captune.attribution.methods import Choice
from captune.attribution.recording import OnExplanation, record_all
from captune.embedding import Bar, none_readable
from captune.errors import UserError
from captune.images import ImageSet, Skipped, UnreadableImage
from captune.models.image_text import describe_model
from captune.options import ExplainOptions
from captune.text import percent
from captune.zeroshot.classifier import ZeroShotClassifier


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
    shown = ", ".join(f"{name} {percent(share, 0)}" for name, share in pairs)
    words = [
        # no probability is below the least number that is not zero
        ExplainedWord(name, math.log(max(share, 1e-45)), own)
        for name, share, own in zip(found.names, found.probabilities, found.maps, strict=True)
    ]
    frame = None if found.frame.is_whole else found.frame
    return Explanation(found.image, shown, words, method, Choice(), frame=frame)
