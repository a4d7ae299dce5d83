"""Where the image encoder sees what a word means, whatever the captioner made of it.

For captioners whose encoder shares a space with texts, and whose single places have a meaning
there, as those of lite (see `captune.explain.meaning`): each place is held against the text of the
word. No gradient, no pass of the language model. It shows where the thing is, not what the
captioner used: people's boxes are the judge of the first, deletion and insertion of the second.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from captune.captioning.model import Captioner
from captune.errors import UserError
from captune.explain.meaning import places_near, require_meaning
from captune.explain.methods import Choice, MapMethod
from captune.explain.subject import Subject
from captune.explain.targets import Target
from captune.models.image_text import ImageTextModel
from captune.models.texts import TextEncoder

_PROMPT = "a photo of a {}"
_MARKS = ".,;:!?\"'()"


class Places(MapMethod):
    """See the module's text. One map: it knows neither layers nor heads."""

    name = "places"
    signed = True

    def choices(self, captioner: Captioner) -> list[Choice]:
        """As `MapMethod.choices`."""
        model, _ = _both(captioner)
        require_meaning(model.image)
        return [Choice()]

    def maps(
        self,
        captioner: Captioner,
        subject: Subject,
        choice: Choice,
        words: Sequence[int],
        against: str | None = None,
    ) -> Tensor:
        """As `MapMethod.maps`; against: less how near the places are to that word."""
        self.check(captioner, choice)
        spans = subject.spans
        return self._near(captioner, subject, [spans[word].word for word in words], against)

    def maps_of(
        self, captioner: Captioner, subject: Subject, choice: Choice, targets: Sequence[Target]
    ) -> Tensor:
        """As `MapMethod.maps_of`, of words alone: a target names no other word, only its token."""
        words = captioner.decoder.decode([list(target.ids) for target in targets])
        return self._near(captioner, subject, words, None)

    def _near(
        self, captioner: Captioner, subject: Subject, words: Sequence[str], against: str | None
    ) -> Tensor:
        model, text = _both(captioner)
        patches = require_meaning(model.image)
        named = [*words, *([] if against is None else [against])]
        prompts = [_PROMPT.format(word.strip().strip(_MARKS)) for word in named]
        texts = F.normalize(text.encode(prompts), dim=-1)

        def cosines(vectors: Tensor) -> Tensor:
            near = F.normalize(vectors.float(), dim=-1) @ texts.to(vectors.device).T
            return near if against is None else near[:, :-1] - near[:, -1:]

        return places_near(patches, subject.grid[0].to(model.image.device), cosines)


def _both(captioner: Captioner) -> tuple[ImageTextModel, TextEncoder]:
    """The captioner's encoder and its text side. Raises UserError where one is not there."""
    model = captioner.image_model
    if model is None:
        raise UserError(
            "places: holds the photo's places against words, and this captioner was given no image"
            " encoder; set its image_model, or take occlusion"
        )
    if model.text is None:
        raise UserError(
            "places: this captioner's image encoder reads no text; take --method occlusion"
        )
    return model, model.text


METHOD = Places()
