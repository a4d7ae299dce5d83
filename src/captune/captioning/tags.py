"""A text that is known of an image before its caption: tags, or captions of similar images.

Tags are labels that a zero-shot classifier chose. A bridge that reads a text beside the patch grid
gets the likeliest of the labels that its tune was given, the likeliest first, as "dog, grass,
ball"; with another bridge the decoder reads it before the caption, as "dog, grass, ball:". A
checkpoint names labels and classifier, so a loaded captioner reads the tags that it would have read
in training.

Captions of similar images stand before the caption too, as "a dog runs;two dogs play:" (SmallCap,
Ramos et al. 2023). They are those of the datastore beside the checkpoint, or of another one.
"""

from __future__ import annotations

import random
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from captune.captioning.checkpoint import ImageIdentity, Recipe, TagSettings, check_model
from captune.captioning.datastore import Datastore
from captune.captioning.model import IGNORED, pad_tags
from captune.captioning.rerank import pooled, vectors_of
from captune.features.cache import FeatureCache
from captune.images import ImageFile
from captune.models import hub
from captune.models.decoders import Decoder
from captune.models.encoders import Floats, GridShape, ImageTextModel
from captune.models.load import load_image_text_model
from captune.options.captioning import CaptionerOptions
from captune.options.tuning import TuneOptions
from captune.zeroshot.classifier import Prediction, ZeroShotClassifier
from captune.zeroshot.labels import Labels, read_labels

_SEPARATOR = ", "
_BETWEEN = ";"  # captions, which are encoded as each would be alone
_END = ":"  # of a text before the caption
_DRAWN = 8  # ways to leave some out, of each image
_LONGER = 3  # times as many images as captions are read: training draws from them
MARKS = _BETWEEN, _END
_LONGEST = 1024  # characters of a caption, more than the tokens that there is room for


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
        encoder: ImageIdentity,
        grid: GridShape,
        cache: FeatureCache | None = None,
        *,
        is_text: bool = False,
    ) -> None:
        """max_tokens: that are read of an image. is_text: before the caption.

        encoder, grid: of the captioner, which sees the images first; a model that shares it looks
        at none again. The labels are encoded once, here.
        """
        self.cut = 0
        self._end = decoder.encode([_END])[0] if is_text else []
        self._top, self._least = settings.top, settings.least
        self._decoder = decoder
        self._max_tokens = max_tokens
        self._classifier = ZeroShotClassifier(
            Labels(settings.labels, settings.labels, settings.prompts, "tags"),
            model=model,
            cache=cache or False,
        )
        self._encoder, self._grid, self._cache = encoder, grid, cache

    def names_of(
        self,
        images: Sequence[ImageFile],
        means: Tensor,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[str]]:
        """The tags of each image, the likeliest first; none where it cannot be read.

        means: [images, channels] of the captioner's grids.
        """
        labels, model = self._classifier.labels, self._classifier.model
        vectors = vectors_of(model, self._encoder, images, means, self._cache, on_progress)
        return [
            [name for name, p in Prediction(image, row, labels).top(self._top) if p >= self._least]
            if vector.any()
            else []
            for image, vector, row in zip(
                images, vectors, self._classifier.probabilities(vectors), strict=True
            )
        ]

    def named_in(self, captions: Iterable[Sequence[str]]) -> list[list[str]]:
        """The labels that each image's captions name, also with -s or -es; most often first."""
        label_of = {label.lower(): label for label in self._classifier.labels.names}
        longest_first = sorted(map(re.escape, label_of), key=len, reverse=True)
        # not \b, which is nowhere beside a label like "C++"
        label = re.compile(rf"(?<!\w)({'|'.join(longest_first)})(?:e?s)?(?!\w)")
        counts = (Counter(label.findall("\n".join(own).lower())) for own in captions)
        return [[label_of[name] for name, _ in own.most_common(self._top)] for own in counts]

    def rows(self, names: Sequence[Sequence[str]]) -> list[list[int]]:
        """Token ids of the tags of each image; none where it has none."""
        rows = self._decoder.encode([_SEPARATOR.join(own) for own in names]) if names else []
        most = self._max_tokens - len(self._end)
        self.cut += sum(len(row) > most for row in rows)
        return [[*row[:most], *self._end] if row else [] for row in rows]

    def drawn(self, names: Mapping[str, Sequence[str]], seed: int) -> dict[str, list[list[int]]]:
        """Of each image several rows with some of its tags: as many as a fair die says, 0 to all.

        Who learns with them can do without one, or all, and copies what is there.
        """
        chance = random.Random(f"tags/{seed}")  # noqa: S311

        def some(own: Sequence[str]) -> list[str]:
            kept = set(chance.sample(range(len(own)), chance.randint(0, len(own))))
            return [name for place, name in enumerate(own) if place in kept]

        rows = iter(self.rows([some(own) for own in names.values() for _ in range(_DRAWN)]))
        return {key: [next(rows) for _ in range(_DRAWN)] for key in names}

    def tags_of(self, images: Sequence[ImageFile], grids: Tensor) -> Tensor:
        """The `tags` of `CaptionModel.project`: [images, w]. grids: [images, tokens, channels]."""
        names = self.names_of(images, pooled(grids, self._grid))
        return pad_tags(self.rows(names), self._decoder.device)


class SimilarCaptions:
    """Images -> token ids of captions of images that look alike."""

    def __init__(
        self, datastore: Datastore, count: int, decoder: Decoder, grid: GridShape, max_tokens: int
    ) -> None:
        """count: captions, one of each of the nearest images. max_tokens: of them all."""
        self._datastore, self._count = datastore, count
        self._decoder, self._grid, self._max_tokens = decoder, grid, max_tokens

    def tags_of(self, images: Sequence[ImageFile], grids: Tensor) -> Tensor:
        """As of a `Tagger`. grids: [images, tokens, channels], finished."""
        rows = self.rows(pooled(grids, self._grid).cpu().numpy())
        return pad_tags(rows, self._decoder.device)

    def rows(self, means: Floats) -> list[Sequence[int]]:
        """Of each image the first caption of the nearest ones. means: [images, channels]."""
        store = self._datastore
        near, _ = store.nearest(store.vectors_of(means), self._count)
        captions = store.captions
        return self._rows([[captions[place][0] for place in own] for own in near])

    def drawn(
        self, keys: Sequence[str], seed: int, advance: Callable[[int], None]
    ) -> dict[str, list[Sequence[int]]]:
        """Several rows of each image of the datastore, none with captions of the image itself.

        Each is of as many captions as a fair die says, 0 to all, of images drawn among more of the
        nearest ones ("sample-k", Li et al. 2024): who learns with them trusts none of them blindly.
        keys: what the images of the datastore are known by; the same image may be there twice.
        """
        chance = random.Random(f"captions/{seed}")  # noqa: S311
        longer, store = _LONGER * self._count, self._datastore
        near, _ = store.nearest(store.vectors, longer + max(Counter(keys).values()), advance)

        def some(key: str, places: Sequence[int]) -> list[str]:
            others = [place for place in places if keys[place] != key][:longer]
            most = chance.randint(0, min(self._count, len(others)))
            chosen = sorted(chance.sample(range(len(others)), most))
            return [chance.choice(store.captions[others[place]]) for place in chosen]

        each = zip(keys, near.tolist(), strict=True)
        rows = iter(self._rows([some(key, own) for key, own in each for _ in range(_DRAWN)]))
        return {key: [next(rows) for _ in range(_DRAWN)] for key in keys}

    def _rows(self, captions: Sequence[Sequence[str]]) -> list[Sequence[int]]:
        """Those that there is room for; of one that is too long, nothing."""
        # half a character, as JSON may hold, is none for a tokenizer
        flat = [
            text.strip()[:_LONGEST].encode("utf-8", "replace").decode()
            for own in captions
            for text in own
        ]
        between, end, *encoded = self._decoder.encode([_BETWEEN, _END, *flat])
        each, found = iter(encoded), list[Sequence[int]]()
        for own in captions:
            row = array("i")  # which is small: training keeps many of them
            for ids in [next(each) for _ in own]:
                more = [*(between if row else ()), *ids]
                if ids and len(row) + len(more) + len(end) <= self._max_tokens:
                    row.extend(more)
            row.extend(end if row else ())
            found.append(row)
        return found


def texts_of(tags: Tensor, decoder: Decoder) -> list[str]:
    """What stands before the caption of each image, less its end; tags: as `tags_of` made them."""
    texts = decoder.decode([[id for id in row if id != IGNORED] for row in tags.tolist()])
    return [text.strip().removesuffix(_END) for text in texts]


def tag_settings(options: TuneOptions, model: ImageTextModel) -> TagSettings:
    """What a checkpoint says of the tags of a tune. Raises UserError for labels that are none."""
    assert options.tags is not None
    labels = read_labels(options.tags)
    return TagSettings(
        labels.names, labels.prompts, options.tags_top, options.tags_least, identity_of(model)
    )


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
    return load_image_text_model(spec, device=options.device, loaded=loaded)


def load_tags_model(
    recipe: Recipe,
    encoder: ImageTextModel,
    where: Path,
    options: CaptionerOptions,
) -> ImageTextModel | None:
    """The classifier's model of a captioner, None where it reads no tags.

    encoder: of the captioner in `where`, which may be the same. options: where it lies now. Raises
    UserError for another model than the one it was trained with.
    """
    tags, spec = recipe.tags, options.tags_model
    if tags is None:
        return None
    model = encoder
    if spec is not None or tags.model.spec != recipe.image_encoder.spec:
        with hub.unasked(str(where), unless=spec):
            model = load_image_text_model(
                spec or tags.model.spec, device=options.device, dtype=options.dtype
            )
    check_model(tags.model, identity_of(model), where, "tags of")
    return model


def identity_of(model: ImageTextModel) -> ImageIdentity:
    """How a checkpoint names the classifier: both its sides, and what an image is made into."""
    return ImageIdentity(model.spec, model.weights_id, model.image.preprocessing_id)
