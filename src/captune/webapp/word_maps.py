"""An explanation as the page shows it: words, and for each a picture that lies over the image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from captune.attribution.deletion_insertion import BETTER
from captune.attribution.explanation import ExplainedWord, Explanation
from captune.pages.explanations import map_in_words
from captune.plots.maps import scaled_map

_OPAQUE = 163  # of 255, as in the report


@dataclass(frozen=True)
class SeenWord:
    """A word and where it was found. says: that in words. picture: a PNG, a pixel a place."""

    word: str
    says: str
    mark: str
    is_true: bool
    picture: str


@dataclass(frozen=True)
class SeenImage:
    """An image in words. frame: left, top, width, height of what the model saw, as shares of it."""

    name: str
    picture: str
    words: list[SeenWord]
    frame: tuple[float, float, float, float]
    against: str | None = None


def seen(
    explanation: Explanation, thumbnails: Mapping[str, str], *, against: str | None = None
) -> SeenImage:
    """Pictures instead of arrays. thumbnails: of the images, by name."""
    frame = (0.0, 0.0, 1.0, 1.0)
    if explanation.frame is not None:
        own = explanation.frame
        frame = (
            own.left / own.width,
            own.top / own.height,
            (own.right - own.left) / own.width,
            (own.bottom - own.top) / own.height,
        )
    name = explanation.image.path.name
    words = [_seen_word(word) for word in explanation.words]
    return SeenImage(name, thumbnails.get(name, ""), words, frame, against)


def _seen_word(word: ExplainedWord) -> SeenWord:
    scaled = scaled_map(word.map.numpy())
    found = word.record()["faithfulness"] or {}
    mark = str(found.get("mark", ""))
    says = f"{word.word}: {map_in_words(scaled, mark, found)}"
    return SeenWord(word.word, says, mark, mark == BETTER, _picture(scaled))


def _picture(scaled: NDArray[np.float32]) -> str:
    """A map from 0 to 1 in the colours of the figures, as a PNG in a data URI."""
    import matplotlib
    from PIL import Image

    colours = np.round(255 * matplotlib.colormaps["magma"](scaled)).astype(np.uint8)
    colours[..., 3] = _OPAQUE
    buffer = io.BytesIO()
    Image.fromarray(colours, "RGBA").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
