"""Tags: the labels that a bridge reads beside an image, as a zero-shot classifier chose them.

A bridge that reads a text beside the patch grid gets the likeliest of the labels that its tune was
given, the likeliest first, as "dog, grass, ball"; with another bridge the decoder reads it before
the caption, as "dog, grass, ball:". A checkpoint names labels and classifier, so a loaded captioner
reads the tags that it would have read in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from captune.captioning.model import pad_tags
from captune.captioning.recipe import ImageIdentity, TagSettings
from captune.features.pipeline import Encoding
from captune.images import ImageFile
from captune.models.decoders import Decoder
from captune.models.encoders import ImageTextModel
from captune.models.load import load_image_text_model
from captune.options.tuning import TuneOptions
from captune.zeroshot.classifier import ZeroShotClassifier
from captune.zeroshot.labels import Labels, read_labels

_SEPARATOR = ", "
_END = ":"  # of tags that are a text before the caption
_DRAWN = 8  # ways to leave some out, of each image


class Tagger:
    """Images -> token ids of their tags.

    cut: how many images had more of them than are read.
    """

    def __init__(
        self,
        settings: TagSettings,
        model: ImageTextModel,
        decoder: Decoder,
        max_tokens: int,
        how: Encoding,
        *,
        is_text: bool = False,
    ) -> None:
        """max_tokens: that are read of an image. is_text: before the caption.

        The labels are encoded once, here.
        """
        self.cut = 0
        self._end = decoder.encode([_END])[0] if is_text else []
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
        names = self.names_of(images, on_progress)
        return dict(zip(names, self.rows(list(names.values())), strict=True))

    def names_of(
        self, images: Iterable[ImageFile], on_progress: Callable[[int], None] | None = None
    ) -> dict[Path, list[str]]:
        """The tags themselves, the likeliest first."""
        return {
            found.image.path: [name for name, _ in found.top(self._top)]
            for found in self._classifier.classify(images, on_progress=on_progress)
        }

    def rows(self, names: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token ids of the tags of each image; none where it has none."""
        rows = self._decoder.encode([_SEPARATOR.join(own) for own in names]) if names else []
        most = self._max_tokens - len(self._end)
        self.cut += sum(len(row) > most for row in rows)
        return [[*row[:most], *self._end] if row else [] for row in rows]

    def drawn(self, names: Mapping[Path, Sequence[str]], seed: int) -> dict[Path, list[list[int]]]:
        """Of each image several rows with some of its tags: as many as a fair die says, 0 to all.

        Who learns with them can do without one, or all, and copies what is there.
        """
        chance = random.Random(f"tags/{seed}")  # noqa: S311

        def some(own: Sequence[str]) -> list[str]:
            kept = set(chance.sample(range(len(own)), chance.randint(0, len(own))))
            return [name for place, name in enumerate(own) if place in kept]

        rows = iter(self.rows([some(own) for own in names.values() for _ in range(_DRAWN)]))
        return {path: [next(rows) for _ in range(_DRAWN)] for path in names}

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
    return [*labels.names, _SEPARATOR.join(labels.names), _END]


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
