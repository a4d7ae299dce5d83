"""`captune.Captioner`: a tuned captioner by its folder, and captions of images by one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from captune.captioning import model
from captune.captioning.checkpoint import from_pretrained
from captune.captioning.generation import Caption, captions_of, check_length, load_encoder
from captune.captioning.known_words import load_words_model
from captune.errors import UserError
from captune.features import FeatureCache
from captune.files import printable
from captune.images import Skipped, find_images

logger = logging.getLogger("captune")


class Captioner(model.Captioner):
    """The model of `model.Captioner`, which also knows how to be loaded and what images are."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, **where: Any) -> Captioner:
        """What a tune left in `folder`, or in its best method's: `checkpoint.from_pretrained`."""
        captioner, recipe = from_pretrained(folder, kind=cls, **where)
        assert isinstance(captioner, Captioner)
        captioner.recipe = recipe
        return captioner

    def caption(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        encoder: str | None = None,
        known_words_model: str | None = None,
        beam: int = 5,
        max_tokens: int = 60,
        batch_size: int = 32,
        workers: int = 0,
        cache: FeatureCache | None = None,
        on_skip: Callable[[Skipped], None] | None = None,
    ) -> list[Caption]:
        """A caption of each image in folders, files and patterns.

        encoder, known_words_model: where the image encoder and the model of its known words lie
        now, if not where they were in training. cache: of features; None reads and writes none.
        on_skip: called for images that cannot be read; None warns of them.
        Raises UserError for a captioner that does not know what it was made of, and as
        `find_images`.
        """
        if self.recipe is None:
            raise UserError(
                "this captioner was not loaded by Captioner.from_pretrained, so nothing says which"
                " image encoder it sees through; save it and load it"
            )
        device = str(self.decoder.device)
        if self.image_model is None or encoder is not None:
            self.image_model = load_encoder(
                self.recipe, "the captioner", spec=encoder, device=device
            )
        if self.words_model is None or known_words_model is not None:
            self.words_model = load_words_model(
                self.recipe,
                self.image_model,
                "the captioner",
                spec=known_words_model,
                device=device,
            )
        check_length(self.decoder, max_tokens)
        found = find_images([images] if isinstance(images, str | Path) else images)
        skip = on_skip or _warn
        for skipped in found.skipped:
            skip(skipped)
        captions = []
        for outcomes in captions_of(
            self,
            self.image_model,
            found.images,
            cache=cache,
            beam=beam,
            max_tokens=max_tokens,
            batch_size=batch_size,
            workers=workers,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Skipped):
                    skip(outcome)
                else:
                    captions.append(outcome)
        return captions


def _warn(skipped: Skipped) -> None:
    logger.warning("skipped %s: %s", printable(skipped.path), skipped.reason)
