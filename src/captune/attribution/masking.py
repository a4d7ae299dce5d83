"""Hide patches of an image from a captioner: its patch tokens, or its pixels.

Patch tokens are hidden in the encoder's output: quick, as nothing is encoded again, and exactly
what the maps are over. But a token has seen its neighbours (that of a convolution much of the
image), so something of a hidden patch is left in others; and tokens that stand for no patch (CLS)
stay. Pixels are hidden before the encoder: strict, and as slow as the encoder is.

What stands instead matters. The mean of an image's own tokens would not do: with many encoders,
lite among them, it is the pooled vector by which the image is recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.word_scores import (
    ROWS_AT_ONCE,
    WordTarget,
    rows_at_once,
    scores_of,
    word_targets,
)
from captune.images import open_image
from captune.models.encoders import GridShape

_ENCODED_AT_ONCE = 16  # images of one pass of the encoder
ZEROS, MEAN_TOKEN = "patch tokens -> zeros", "patch tokens -> mean token of images"
BLURRED = "pixels -> blur"


class Masking:
    """A `MaskScorer`: one caption scored in batches whose rows are about as long.

    grids_of: masks [n, patches] -> [n, tokens, channels]. targets: what counts as words 0, 1, ...
    """

    def __init__(
        self,
        captioned: CaptionedImage,
        name: str,
        grids_of: Callable[[Tensor], Tensor],
        targets: Sequence[WordTarget] | None,
    ) -> None:
        self.name = name
        self.patches = captioned.shape.rows * captioned.shape.columns
        self._captioned = captioned
        self._grids_of = grids_of
        self._targets = word_targets(captioned) if targets is None else targets
        self.words = len(self._targets)

    @torch.no_grad()
    def every(self, shown: Tensor) -> Tensor:
        """As `MaskScorer.every`."""
        parts = [
            scores_of(self._captioned, self._grids_of(part), self._targets).cpu()
            for part in torch.split(shown, rows_at_once(self._captioned, self._targets))
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def each(self, shown: Tensor, words: Tensor) -> Tensor:
        """As `MaskScorer.each`; the caption is read no further than to the last word of a batch."""
        order = words.argsort(stable=True)
        found = torch.empty(len(words))
        for part in torch.split(order, ROWS_AT_ONCE):
            targets = [self._targets[word] for word in words[part].tolist()]
            grids = self._grids_of(shown[part])
            found[part] = scores_of(self._captioned, grids, targets, paired=True).cpu()
        return found


def token_masking(
    captioned: CaptionedImage,
    targets: Sequence[WordTarget] | None = None,
    fill: Tensor | None = None,
) -> Masking:
    """Hide patch tokens; targets: None takes all words of the caption.

    fill: [channels], such as `mean_token`; None puts zeros there.
    """
    grid = captioned.grid
    name = ZEROS if fill is None else MEAN_TOKEN
    hidden = torch.zeros(1, device=grid.device) if fill is None else fill.to(grid)

    def grids_of(shown: Tensor) -> Tensor:
        tokens = captioned.shape.to_tokens(shown)[..., None]
        return torch.where(tokens.to(grid.device), grid, hidden)

    return Masking(captioned, name, grids_of, targets)


def pixel_masking(
    captioned: CaptionedImage, targets: Sequence[WordTarget] | None = None
) -> Masking:
    """Blur pixels of the image that the encoder is given.

    Patches have hard edges. targets: as in `token_masking`. Raises UnreadableImage where the image
    is gone.
    """
    image = open_image(captioned.image.path)
    without = blurred(image)
    if (reader := captioned.reader) is not None:
        return Masking(captioned, BLURRED, reader.without_pixels(without), targets)
    assert captioned.encoder is not None
    encoder = captioned.encoder.image
    whole, hidden = encoder.whole(image), encoder.whole(without)

    def grids_of(shown: Tensor) -> Tensor:
        grids = []
        for part in torch.split(shown, _ENCODED_AT_ONCE):
            pixels = compose(part, whole, hidden, captioned.shape)
            grids.append(encoder.finish_grid(encoder.encode_grid(pixels)).float())
        return torch.cat(grids).to(captioned.grid.device)

    return Masking(captioned, BLURRED, grids_of, targets)


def losses_without_each(scores: Callable[[Tensor], Tensor], shape: GridShape) -> Tensor:
    """What each score loses without each patch: [n, rows, columns] float32, on the CPU.

    scores: masks [m, patches], true where a patch is shown -> [m, n].
    """
    patches = shape.rows * shape.columns
    shown = torch.ones(1 + patches, patches, dtype=torch.bool)
    shown[1:].fill_diagonal_(False)
    found = scores(shown).float().cpu()
    return (found[0] - found[1:]).T.reshape(-1, shape.rows, shape.columns)


def mean_token(grids: Iterable[Tensor], shape: GridShape) -> Tensor:
    """The mean patch token [channels] of several images, each grid [1, tokens, channels]."""
    means = [grid[0, shape.placed].mean(dim=0) for grid in grids]
    return torch.stack(means).mean(dim=0)


BLUR = 0.08  # of the shorter side: the deviation of the blur, which leaves light and colour


def blurred(image: Image.Image) -> Image.Image:
    """The image of which only light and colour are left."""
    return image.filter(ImageFilter.GaussianBlur(BLUR * min(image.size)))


def compose(shown: Tensor, clear: Tensor, hidden: Tensor, shape: GridShape) -> Tensor:
    """Masks [n, patches] -> pixels [n, 3, height, width]: clear where a patch is shown, or hidden.

    clear, hidden: [3, height, width]. shape: of the patch grid. Patches have hard edges.
    """
    mask = shown.view(-1, 1, shape.rows, shape.columns).float()
    wide = F.interpolate(mask, size=clear.shape[-2:], mode="nearest-exact").bool()
    return torch.where(wide.to(clear.device), clear, hidden)
