"""Does a map depend on the model at all, and on the image no more than it should?

Cascading randomisation (Adebayo et al. 2018): the bridge's layers lose what they learnt, from the
one nearest to the words down to the first; a map that stays the same shows the image, not the
model. Entropy: a map that is everywhere the same says nothing, such as the attention over a pooled
vector that was repeated as if it were a grid. Shift: an image that is moved by one pixel looks the
same, and its map should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import ImageChops
from scipy.stats import rankdata
from torch import Tensor, nn

from captune.attribution.captioned_image import CaptionedImage
from captune.attribution.vlm_image import AnyModel, VLMReader
from captune.captioning.bridge import Bridge
from captune.images import open_image
from captune.text import decimal, percent
from captune_metrics.resampling import Doubles

# the maps [words, rows, columns] of a captioned image as the captioner is now
MapsOf = Callable[[CaptionedImage], Tensor]

UNIFORM = 0.98  # of the highest entropy: above it a map shows no place in particular
SAME = 0.9  # rank correlation above which maps count as the same


@dataclass(frozen=True)
class Stage:
    """After one more part of the bridge was randomised: how like the maps are to the true ones.

    correlation: Spearman's, mean over words and images; a map without any order counts as 0.
    """

    randomised: str
    correlation: float


@dataclass(frozen=True)
class SanityChecks:
    """Of one map: the randomisation, its mean entropy and how alike it is after a shift.

    entropy: as a fraction of the uniform map's. shift: mean rank correlation.
    """

    cascade: list[Stage]
    entropy: float
    shift: float

    @property
    def sentences(self) -> list[str]:
        """What the three checks say, in words."""
        left = self.cascade[-1].correlation
        is_own = not self.cascade[-1].randomised.startswith("block")
        learnt = "the bridge" if is_own else "the last blocks"
        depends, still = ("hardly depends", " still") if abs(left) >= SAME else ("depends", "")
        entropy = percent(self.entropy, 0)
        if self.entropy >= UNIFORM:
            places = (
                f"the map is almost the same everywhere (entropy {entropy} of the uniform map's):"
                " does the bridge see places at all?"
            )
        else:
            places = f"the map prefers some places: entropy {entropy} of the uniform map's"
        kept = "stays" if self.shift >= SAME else "does not stay"
        return [
            f"the map {depends} on what {learnt} learnt: with all of it randomised the maps"
            f"{still} correlate with the true ones by {decimal(left, 2)}",
            places,
            f"the map {kept} the same when the image moves by one pixel: correlation"
            f" {decimal(self.shift, 2)}",
        ]


def check_sanity(
    captioner: AnyModel, images: Sequence[CaptionedImage], maps_of: MapsOf, *, seed: int = 0
) -> SanityChecks:
    """All three checks. Raises UnreadableImage where an image is gone."""
    stages = cascading_randomization(captioner, images, maps_of, seed=seed)
    true = [maps_of(captioned) for captioned in images]
    moved = [maps_of(shifted(captioned)) for captioned in images]
    entropy = np.concatenate([entropies(maps) for maps in true]).mean()
    pairs = zip(true, moved, strict=True)
    shift = np.concatenate([correlations(a, b) for a, b in pairs]).mean()
    return SanityChecks(stages, float(entropy), float(shift))


def cascading_randomization(
    captioner: AnyModel, images: Sequence[CaptionedImage], maps_of: MapsOf, *, seed: int = 0
) -> list[Stage]:
    """Randomise the bridge part by part, the earlier ones staying so; it is as before afterwards.

    The values of each weight are put into a random order, so their spread stays.
    """
    true = [maps_of(captioned) for captioned in images]
    found = []
    learnt, parts = learnt_parts(captioner)
    with _as_before(learnt):
        chance = torch.Generator().manual_seed(seed)
        for name, parameters in parts:
            for parameter in parameters:
                _shuffle(parameter, chance)
            now = [maps_of(captioned) for captioned in images]
            likeness = [correlations(a, b) for a, b in zip(true, now, strict=True)]
            found.append(Stage(name, float(np.concatenate(likeness).mean())))
    return found


def learnt_parts(captioner: AnyModel) -> tuple[nn.Module, list[tuple[str, list[nn.Parameter]]]]:
    """What is randomised: captune's bridge; of a model of transformers its last three blocks."""
    if not isinstance(captioner, VLMReader):
        return captioner.bridge, bridge_parts(captioner.bridge)
    last = list(enumerate(captioner.vlm.blocks))[:-4:-1]
    parts = [(f"block {number}", list(block.parameters())) for number, block in last]
    return nn.ModuleList(block for _, block in last), parts


def bridge_parts(bridge: Bridge) -> list[tuple[str, list[nn.Parameter]]]:
    """Its layers that look at the image, the last first; then what stands before them."""
    layers = list(bridge.cross_attention_layers)
    parts = [
        (f"layer {number}", list(layer.parameters()))
        for number, layer in reversed(list(enumerate(layers)))
    ]
    known = {id(parameter) for _, parameters in parts for parameter in parameters}
    rest = [parameter for parameter in bridge.parameters() if id(parameter) not in known]
    return [*parts, *([("the rest of the bridge", rest)] if rest else [])]


def correlations(first: Tensor, second: Tensor) -> Doubles:
    """Spearman's rank correlation of each pair of maps, [words, rows, columns] each -> [words].

    0 where one of the two has no order, being the same everywhere.
    """
    ranks = [rankdata(maps.flatten(1).double().numpy(), axis=1) for maps in (first, second)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    shared: Doubles = (a * b).sum(axis=1)
    found: Doubles = np.divide(shared, size, out=np.zeros_like(shared), where=size > 0)
    return found


def entropies(maps: Tensor) -> Doubles:
    """Entropies of maps [words, rows, columns] as fractions of a whole; 1 for the uniform map.

    Negative values, which speak against the word, count as nothing; a map of nothing is uniform.
    """
    values = maps.flatten(1).double().clamp_min(0).numpy()
    whole = values.sum(axis=1, keepdims=True)
    even = np.full_like(values, 1 / values.shape[1])
    fractions = np.divide(values, whole, out=even, where=whole > 0)
    logs = np.log(fractions, out=np.zeros_like(fractions), where=fractions > 0)
    found: Doubles = -(fractions * logs).sum(axis=1) / max(np.log(values.shape[1]), 1e-12)
    return found


def shifted(captioned: CaptionedImage, pixels: int = 1) -> CaptionedImage:
    """The same caption of the image moved to the right and down, as the encoder sees it.

    The pixels are those that the encoder is given; at the edge the outermost stand twice. Raises
    UnreadableImage where the image is gone.
    """
    image = open_image(captioned.image.path)
    if isinstance(captioned.model, VLMReader):
        reader, grid = captioned.model.of(ImageChops.offset(image, pixels))
        return replace(captioned, model=reader, grid=grid)
    assert captioned.encoder is not None
    encoder = captioned.encoder.image
    whole = encoder.whole(image)
    rows, columns = (torch.arange(size).sub(pixels).clamp_min(0) for size in whole.shape[-2:])
    moved = whole[:, rows][:, :, columns]
    grid = encoder.finish_grid(encoder.encode_grid(moved[None])).float().to(captioned.grid)
    return replace(captioned, grid=grid)


@contextmanager
def _as_before(module: nn.Module) -> Iterator[None]:
    kept = {name: value.detach().clone() for name, value in module.named_parameters()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(kept[name])


@torch.no_grad()
def _shuffle(parameter: nn.Parameter, chance: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=chance).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))
