"""Tags: the labels that a bridge reads beside an image, as a zero-shot classifier chose them.

A bridge that reads a text beside the patch grid gets the likeliest of the labels that its tune was
given, the likeliest first, as "dog, grass, ball". A checkpoint names labels and classifier, so a
loaded captioner reads the tags that it would have read in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from captune.captioning.model import pad_tags
from captune.captioning.recipe import ImageIdentity, TagSettings
from captune.features.pipeline import Encoding
from captune.images import ImageFile
from captune.models.decoders import Decoder
from captune.models.encoders import ImageTextModel
from captune.models.load import load_image_text_model
from captune.options import TuneOptions
from captune.zeroshot.classifier import ZeroShotClassifier
from captune.zeroshot.labels import Labels, read_labels

_SEPARATOR = ", "


class Tagger:
    """Images -> token ids of their tags.

    cut: how many images had more of them than the bridge reads.
    """

    def __init__(
        self,
        settings: TagSettings,
        model: ImageTextModel,
        decoder: Decoder,
        max_tokens: int,
        how: Encoding,
    ) -> None:
        """max_tokens: that the bridge reads of an image. The labels are encoded once, here."""
        self.cut = 0
        self._top = settings.top
        self._decoder = decoder
        self._max_tokens = max_tokens
        self._classifier = ZeroShotClassifier(
            Labels(settings.labels, settings.labels, settings.prompts, "tags"),
            model=model,
            batch_size=how.batch_size,
            workers=how.workers,
            cache=how.cache or False,
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
        self.cut += sum(len(row) > self._max_tokens for row in rows)
        return {path: row[: self._max_tokens] for path, row in zip(texts, rows, strict=True)}

    def tags_of(self, images: Sequence[ImageFile]) -> Tensor:
        """The `tags` of `CaptionModel.project`: [images, w]; an unreadable image has none."""
        rows = self.rows_of(images)
        return pad_tags([rows.get(image.path, []) for image in images], self._decoder.device)


def tag_settings(options: TuneOptions, model: ImageTextModel) -> TagSettings:
    """What a checkpoint says of the tags of a tune. Raises UserError for labels that are none."""
    assert options.tags is not None
    labels = read_labels(options.tags)
    return TagSettings(labels.names, labels.prompts, options.tags_top, identity_of(model))


def texts_of_labels(labels: Labels) -> list[str]:
    """Texts with every token that these labels can be written in, first or behind others."""
    return [*labels.names, _SEPARATOR.join(labels.names)]


def choose_tags_model(
    options: TuneOptions, loaded: Sequence[ImageTextModel | None]
) -> ImageTextModel:
    """The classifier's model: the one asked for, else the encoder if it has a text side, else lite.

    loaded: models that are there already, the encoder first.
    """
    spec = options.tags_model
    if spec is None:
        encoder = loaded[0]
        has_text = encoder is not None and encoder.text is not None and encoder.scoring is not None
        spec = encoder.spec if encoder is not None and has_text else "lite"
    for model in loaded:
        if model is not None and model.spec == spec and model.text is not None:
            return model
    return load_image_text_model(spec, device=options.device)


def identity_of(model: ImageTextModel) -> ImageIdentity:
    """How a checkpoint names the classifier: both its sides, and what an image is made into."""
    return ImageIdentity(model.spec, model.weights_id, model.image.preprocessing_id)
