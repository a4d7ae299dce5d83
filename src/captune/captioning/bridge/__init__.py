"""Bridges: how the decoder sees the image. One file per bridge; a third party's by entry point.

A bridge (others say connector or projector) is always trained. Adding one is adding a file here
that ends in `BRIDGE = MyBridge`, or an entry point of the group `captune.bridges`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captune import registry
from captune.captioning.decoder_parts import DecoderParts
from captune.models.encoders import GridShape as GridShape
from captune.registry import Registry

if TYPE_CHECKING:
    from captune.captioning.bridge.cross_attention import CrossAttentionLayer


@dataclass(frozen=True)
class TagEmbeddings:
    """The tags of each image, a text that is known before its caption.

    embeddings: [images, w, embedding_size], the decoder's own. mask: [images, w], true for a token.
    """

    embeddings: Tensor
    mask: Tensor


@dataclass
class ImageStates:
    """What the decoder reads of a batch of images; made once an image by `Bridge.project`.

    images: how many there are; the decoder may run k rows (captions, beams) for each, in order.
    keys, values: by cross-attention block, [images, heads, tokens, head_dim].
    mask: [images, tokens], true where there is a token; None where all are.
    soft_tokens: [images, m, embedding_size] to stand before the text, or None.
    prompt: [images, w], token ids of a text before the caption, as `CaptionModel.project` has them.
    """

    images: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None
    soft_tokens: Tensor | None = None
    prompt: Tensor | None = None


@dataclass
class Context:
    """The images that the decoder looks at while it runs; hooks read it."""

    states: ImageStates | None = None


class Bridge(nn.Module, ABC):
    """From the patch grid of an image to what the decoder reads.

    Config: a frozen dataclass of plain values; it is what a checkpoint's config holds.
    """

    Config: ClassVar[type[Any]]
    config: Any

    @abstractmethod
    def project(self, grid: Tensor, tags: TagEmbeddings | None = None) -> ImageStates:
        """Grid [images, tokens, channels] -> states; `tags` where the bridge reads them too.

        It is called before the decoder, so no generated token can come into the states.
        """

    @abstractmethod
    def attach(self, parts: DecoderParts, context: Context) -> list[RemovableHandle]:
        """Hook into the decoder; the handles take it out again."""

    @classmethod
    @abstractmethod
    def count(cls, config: Any, grid: GridShape, parts: DecoderParts) -> int:
        """How many parameters it trains, by arithmetic."""

    @property
    def cross_attention_layers(self) -> list[CrossAttentionLayer]:
        """Its cross-attention layers, one per block; what tuning methods reach."""
        return []

    def output_projections(self) -> dict[int, list[nn.Parameter]]:
        """By block: the parameters, zero at first, of what is added to the decoder's stream."""
        return {}

    @property
    def gain(self) -> float:
        """Learning rate of `output_projections`, in stream sizes; 0: that of everything else."""
        return 0.0


BRIDGES: Registry[type[Bridge]] = registry.BRIDGES
