"""Bridges: how the decoder comes to see. One file a bridge; a third party's by entry point.

A bridge is always trained. Adding one is adding a file here that ends in
`BRIDGE = MyBridge`, or an entry point of the group `captune.bridges`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captune.captioning.attention import CrossAttentionLayer
from captune.captioning.structure import DecoderParts
from captune.models.encoders import GridShape as GridShape
from captune.registry import BRIDGES, Registry


@dataclass(frozen=True)
class Words:
    """A text for each image that is known before its caption, such as a classifier's words.

    embeddings: [images, w, embedding_size], the decoder's own. mask: [images, w], true for a word.
    """

    embeddings: Tensor
    mask: Tensor


@dataclass
class ImageStates:
    """What the decoder reads of a batch of images; made once an image by `Bridge.project`.

    images: how many there are; the decoder may run k rows (captions, beams) for each, in order.
    keys, values: by block that looks at them, [images, heads, tokens, head_dim].
    mask: [images, tokens], true where there is a token; None where all are.
    soft_tokens: [images, m, embedding_size] to stand before the text, or None.
    """

    images: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None
    soft_tokens: Tensor | None = None


class Context:
    """The images that the decoder looks at while it runs; hooks read it."""

    def __init__(self) -> None:
        self.states: ImageStates | None = None


class Bridge(nn.Module, ABC):
    """From the patch grid of an image to what the decoder reads.

    Config: a frozen dataclass of plain values; it is what a checkpoint's config holds.
    """

    Config: ClassVar[type[Any]]
    config: Any

    @abstractmethod
    def project(self, grid: Tensor, words: Words | None = None) -> ImageStates:
        """Grid [images, tokens, channels] -> states; `words` where the bridge reads a text too.

        It is called before the decoder, so no generated token can come into the states.
        """

    @abstractmethod
    def attach(self, parts: DecoderParts, context: Context) -> list[RemovableHandle]:
        """Hook into the decoder; the handles take it out again."""

    @classmethod
    @abstractmethod
    def count(cls, config: Any, grid: GridShape, parts: DecoderParts) -> int:
        """How many parameters it trains, by arithmetic."""

    @classmethod
    def word_places(cls, config: Any) -> int:
        """How many tokens of a text that is known of an image it reads; 0 where it reads none."""
        return 0

    @property
    def attending(self) -> list[CrossAttentionLayer]:
        """Its layers that look at image tokens, one a block; what tuning methods reach."""
        return []

    def added_to(self) -> dict[int, list[nn.Parameter]]:
        """By block: what begins at zero and makes what is added to the decoder's stream there."""
        return {}

    @property
    def gain(self) -> float:
        """How many times as fast as the stream is large `added_to` learns; 0: as all else does."""
        return 0.0


_BRIDGES: Registry[type[Bridge]] = BRIDGES


def bridge_names() -> list[str]:
    """The bridges there are, without importing any."""
    return _BRIDGES.names()


def bridge_class(name: str) -> type[Bridge]:
    """The bridge called `name`. Raises UserError for an unknown one."""
    return _BRIDGES.get(name)
