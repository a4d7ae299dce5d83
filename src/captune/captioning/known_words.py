"""Words that are known of an image before its caption: what a zero-shot classifier sees in it.

A bridge that reads a text beside the patch grid gets the likeliest of the labels that its tune was
given, the likeliest first, as "dog, grass, ball". A checkpoint names labels and classifier, so a
loaded captioner is told the words that it would have been told in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from torch import Tensor

from captune.captioning.checkpoint import check_words_model
from captune.captioning.model import Captioner, pad_words
from captune.captioning.recipe import ImageIdentity, KnownWords, Recipe
from captune.errors import UserError
from captune.features import FeatureCache
from captune.images import ImageFile
from captune.models import hub
from captune.models.decoders import Decoder
from captune.models.encoders import ImageTextModel
from captune.models.load import load_image_text_model
from captune.options import TuneOptions
from captune.zeroshot.classifier import ZeroShotClassifier
from captune.zeroshot.labels import Labels, read_labels

_SEPARATOR = ", "

WordsOf = Callable[[Sequence[ImageFile]], Tensor | None]


def word_maker(
    captioner: Captioner, *, cache: FeatureCache | None, batch_size: int, workers: int
) -> WordsOf:
    """What makes the `words` of `Captioner.project` for images: [images, w], in their order.

    None for every batch where the captioner reads none. An image that cannot be read has no words.
    Raises UserError as `teller_of`.
    """
    teller = teller_of(captioner, cache=cache, batch_size=batch_size, workers=workers)
    if teller is None:
        return lambda images: None

    def words_of(images: Sequence[ImageFile]) -> Tensor:
        rows = teller.rows_of(images)
        return pad_words([rows.get(image.path, []) for image in images], captioner.decoder.device)

    return words_of


def teller_of(
    captioner: Captioner, *, cache: FeatureCache | None, batch_size: int = 32, workers: int = 0
) -> Teller | None:
    """What tells this captioner the words of images; None where it reads none.

    Raises UserError where the captioner reads some, and its `words_model` was not loaded.
    """
    known = None if captioner.recipe is None else captioner.recipe.known_words
    if known is None:
        return None
    if captioner.words_model is None:
        raise UserError(
            f"this captioner reads words that {known.model.spec} tells of each image, and it was"
            " loaded without that model"
        )
    return Teller(
        known,
        captioner.words_model,
        captioner.decoder,
        captioner.bridge.word_places(captioner.bridge.config),
        cache=cache,
        batch_size=batch_size,
        workers=workers,
    )


class Teller:
    """Images -> token ids of their words. cut: how many had more than the bridge has places for."""

    def __init__(
        self,
        known: KnownWords,
        model: ImageTextModel,
        decoder: Decoder,
        places: int,
        *,
        cache: FeatureCache | None,
        batch_size: int,
        workers: int,
    ) -> None:
        """places: tokens that the bridge reads, at most. The labels are encoded once, here."""
        self.cut = 0
        self._top = known.top
        self._decoder = decoder
        self._places = places
        self._classifier = ZeroShotClassifier(
            Labels(known.labels, known.labels, known.prompts, "known words"),
            model=model,
            batch_size=batch_size,
            workers=workers,
            cache=False if cache is None else cache,
        )

    def rows_of(
        self, images: Iterable[ImageFile], on_progress: Callable[[int], None] | None = None
    ) -> dict[Path, list[int]]:
        """By path, of the images that can be read; pooled features come from the cache."""
        texts = {
            found.image.path: _SEPARATOR.join(name for name, _ in found.top(self._top))
            for found in self._classifier.classify(images, on_progress=on_progress)
        }
        rows = self._decoder.encode(list(texts.values())) if texts else []
        self.cut += sum(len(row) > self._places for row in rows)
        return {path: row[: self._places] for path, row in zip(texts, rows, strict=True)}


def known_words_of(options: TuneOptions, model: ImageTextModel) -> KnownWords:
    """What a checkpoint says of the words of a tune. Raises UserError for labels that are none."""
    assert options.known_words is not None
    labels = read_labels(options.known_words)
    return KnownWords(labels.names, labels.prompts, options.known_words_top, identity_of(model))


def texts_of_labels(labels: Labels) -> list[str]:
    """Texts with every token that these labels can be told in, first or behind others."""
    return [*labels.names, _SEPARATOR.join(labels.names)]


def words_model_of(options: TuneOptions, loaded: Sequence[ImageTextModel | None]) -> ImageTextModel:
    """The classifier's model: the one asked for, else the encoder if it has a text side, else lite.

    loaded: models that are there already, the encoder first.
    """
    spec = options.known_words_model
    if spec is None:
        encoder = loaded[0]
        has_text = encoder is not None and encoder.text is not None and encoder.scoring is not None
        spec = encoder.spec if encoder is not None and has_text else "lite"
    for model in loaded:
        if model is not None and model.spec == spec and model.text is not None:
            return model
    return load_image_text_model(spec, device=options.device)


def load_words_model(
    recipe: Recipe,
    encoder: ImageTextModel,
    where: Path | str,
    *,
    spec: str | None = None,
    device: str,
    dtype: str = "auto",
) -> ImageTextModel | None:
    """The model whose words a captioner was trained with, None where it reads none.

    encoder: the captioner's own, which may be the same. spec: where the model lies now, if not
    where it was in training. where: the captioner, for sentences. Raises UserError for another one.
    """
    known = recipe.known_words
    if known is None:
        return None
    is_encoder = known.model.spec == recipe.image_encoder.spec
    model = encoder
    if spec is not None or not is_encoder:
        with nullcontext() if spec else hub.unasked(str(where)):
            model = load_image_text_model(spec or known.model.spec, device=device, dtype=dtype)
    check_words_model(known, identity_of(model), Path(where))
    return model


def identity_of(model: ImageTextModel) -> ImageIdentity:
    """How a checkpoint names the classifier: both its sides, and what an image is made into."""
    return ImageIdentity(model.spec, model.weights_id, model.image.preprocessing_id)
