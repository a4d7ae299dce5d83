"""Where on an image a zero-shot classifier found a class.

The score of a class is its log-probability among all labels; with one label, or where labels are
scored independently (SigLIP), its logit. Against another class it is the difference of their
logits.

gradient    at the last patches that the pooled vector depends on: in a ViT the tokens that enter
            its last block (what leaves it reaches CLS alone), in a convolution its last map. The
            sum over channels of value x gradient, as in Grad-CAM without its mean over patches.
occlusion   what the score loses when the pixels of a patch are blurred: one pass per patch.
patch-similarity
            how near each patch is to the class when it is read as if it were an image of its own,
            smoothed: for models that pool by a mean over patches, as lite does (class activation
            maps, Zhou et al. 2016, with text for a classifier). One pass, and over all of an image.

All are signed. The first two are over the encoder's own rectangle: a classifier crops, and `frame`
says where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captune.attribution.geometry import Frame, frame_of
from captune.attribution.masking import blurred, compose, losses_without_each
from captune.errors import UserError
from captune.images import ImageFile, open_image
from captune.models.encoders import GridShape, ImageEncoder, ImageTextModel, PatchGrid
from captune.zeroshot.classifier import ZeroShotClassifier
from captune_metrics.display import quoted

PATCH_SIMILARITY = "patch-similarity"
METHODS = ("gradient", "occlusion", PATCH_SIMILARITY)
_AT_ONCE = 16
_SMOOTHED = 1 / 9  # deviation of the blur, in fractions of the grid's side


@dataclass(frozen=True)
class ClassMaps:
    """Maps [classes, rows, columns] float32, over `frame` of the upright image.

    names: of the classes. probabilities: of each, as `classify` gives them.
    """

    image: ImageFile
    names: list[str]
    probabilities: list[float]
    maps: Tensor
    frame: Frame


def explain_classes(
    classifier: ZeroShotClassifier,
    image: ImageFile | str | Path,
    classes: Sequence[str] | None = None,
    *,
    method: str = "auto",
    against: str | None = None,
) -> ClassMaps:
    """A map for each of some labels; None takes the most probable one. The first prompt counts.

    method: auto takes patch-similarity where the model can, else the gradient. against: another
    label; why this one and not that? Raises UserError for a label or a method that is not known,
    and for an encoder without a patch grid; UnreadableImage for a broken file.
    """
    if method == "auto":
        method = default_method(classifier.model)
    if method not in METHODS:
        raise UserError(f'method "{method}": a classifier is explained by {", ".join(METHODS)}')
    if not isinstance(image, ImageFile):
        image = ImageFile(Path(image), str(image))
    encoder = classifier.model.image
    shape = encoder.require_patches().shape
    picture = open_image(image.path)
    pixels = encoder.transform(picture)[None].to(encoder.device, encoder.dtype)
    vector = encoder.encode(pixels).numpy()
    row = classifier.probabilities(vector)[0, 0]
    numbers = [int(row.argmax())] if classes is None else [_number(classifier, c) for c in classes]
    other = None if against is None else _number(classifier, against)
    score = _Score(classifier, numbers, other)
    if method == PATCH_SIMILARITY:
        patch_grid = require_embed(encoder)
        grid = encoder.finish_grid(encoder.encode_grid(encoder.whole(picture)[None]))[0]
        maps = patch_similarities(patch_grid, grid, score.nearness)
    elif method == "gradient":
        maps = _by_gradient(encoder, shape, pixels, score)
    else:
        hidden = encoder.transform(blurred(picture))[None].to(pixels)
        maps = _by_occlusion(encoder, shape, pixels, hidden, score)
    return ClassMaps(
        image,
        [classifier.labels.names[i] for i in numbers],
        [float(row[i]) for i in numbers],
        maps,
        frame_of(encoder.whole if method == PATCH_SIMILARITY else encoder.transform, *picture.size),
    )


def default_method(model: ImageTextModel) -> str:
    """Of `auto`: what points best (docs/explain.md), where the model can embed patches."""
    patches = model.image.patches
    return "gradient" if patches is None or patches.embed is None else PATCH_SIMILARITY


class _Score:
    """Pooled vectors [n, d] -> scores [n, classes]."""

    def __init__(
        self, classifier: ZeroShotClassifier, classes: list[int], against: int | None
    ) -> None:
        self._texts = torch.from_numpy(classifier.text_features[0])
        self._scoring = classifier.scoring
        self._is_one_of_many = (
            self._scoring.activation == "softmax"
            and not classifier.multi_label
            and len(self._texts) > 1
        )
        self._classes = classes
        self._against = against

    def __call__(self, pooled: Tensor) -> Tensor:
        if self._against is None and self._is_one_of_many:
            return self._logits(pooled).log_softmax(dim=-1)[:, self._classes]
        return self.nearness(pooled)

    def nearness(self, vectors: Tensor) -> Tensor:
        """Vectors [n, d] -> logits [n, classes], less those of the other class where there is one.

        What patches are told apart by: whether another label is more probable does not matter.
        """
        logits = self._logits(vectors)
        other = 0 if self._against is None else logits[:, self._against, None]
        return logits[:, self._classes] - other

    def _logits(self, vectors: Tensor) -> Tensor:
        texts = self._texts.to(vectors.device)
        cosines = F.normalize(vectors.float(), dim=-1) @ F.normalize(texts, dim=-1).T
        return cosines * self._scoring.logit_scale + self._scoring.logit_bias


def require_embed(encoder: ImageEncoder) -> PatchGrid:
    """The encoder's patch grid. Raises UserError where it cannot embed a single patch."""
    patch_grid = encoder.require_patches()
    if patch_grid.embed is None:
        raise UserError(
            "patch-similarity: single patches of this image encoder have no meaning of their own;"
            " take --method gradient or occlusion"
        )
    return patch_grid


@torch.no_grad()
def patch_similarities(
    patch_grid: PatchGrid, grid: Tensor, nearness: Callable[[Tensor], Tensor]
) -> Tensor:
    """How much nearer each patch of a finished grid is than the image's patches on average.

    grid: [tokens, channels]. The maps are [n, rows, columns], on the CPU. Nearness has no zero of
    its own: all of an image may be far from a text, and a part of it still the nearest.
    nearness: vectors [patches, dimension] of the space of texts -> [patches, n].
    """
    assert patch_grid.embed is not None
    shape = patch_grid.shape
    near = nearness(patch_grid.embed(grid[shape.placed].float())).T.float().cpu()
    smooth = near @ _blur(shape)
    return (smooth - smooth.mean(dim=1, keepdim=True)).view(-1, shape.rows, shape.columns)


def _blur(shape: GridShape) -> Tensor:
    """[patches, patches]: the weight of each in each; beyond the edge there is nothing to weigh."""
    sides = []
    for length in (shape.rows, shape.columns):
        at = torch.arange(length) / length
        weights = torch.exp(-((at[:, None] - at) ** 2) / (2 * _SMOOTHED**2))
        sides.append(weights / weights.sum(dim=0))
    return torch.kron(*sides)


def _by_gradient(encoder: ImageEncoder, shape: GridShape, pixels: Tensor, score: _Score) -> Tensor:
    with torch.enable_grad(), _patches(encoder.module, shape) as found:
        scores = score(encoder.module(pixels.clone().requires_grad_()))[0]
        maps = []
        for one in scores:
            values, gradient = _last(one, found)
            maps.append(_over_patches((values * gradient).float(), shape))
    return torch.stack(maps).detach().cpu()


@torch.inference_mode()
def _by_occlusion(
    encoder: ImageEncoder, shape: GridShape, pixels: Tensor, hidden: Tensor, score: _Score
) -> Tensor:
    def scores(shown: Tensor) -> Tensor:
        masked = (
            compose(part, pixels[0], hidden[0], shape) for part in torch.split(shown, _AT_ONCE)
        )
        return torch.cat([score(encoder.module(part)) for part in masked])

    return losses_without_each(scores, shape)


@contextmanager
def _patches(module: nn.Module, shape: GridShape) -> Iterator[list[Tensor]]:
    """What has the shape of the patch grid inside the encoder, in the order of the pass.

    Of a ViT what enters its blocks (modules of one class in a row); of anything else every map.
    """
    found: list[Tensor] = []

    def enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.get("hidden_states")
        if isinstance(hidden, Tensor) and _is_tokens(hidden, shape):
            found.append(hidden)

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.shape[2:] == (shape.rows, shape.columns):
            found.append(output)

    with ExitStack() as stack:
        for part in module.modules():
            if isinstance(part, nn.ModuleList | nn.Sequential) and _is_row(part):
                for block in part:
                    stack.enter_context(block.register_forward_pre_hook(enter, with_kwargs=True))
            stack.enter_context(part.register_forward_hook(leave))
        yield found


def _is_row(part: nn.Module) -> bool:
    """Several modules of one class."""
    kinds = [type(child) for child in part.children()]
    return len(kinds) > 1 and len(set(kinds)) == 1


def _is_tokens(hidden: Tensor, shape: GridShape) -> bool:
    # some towers keep the images of a batch in the second dimension
    return hidden.ndim == 3 and 1 in hidden.shape[:2] and shape.tokens in hidden.shape[:2]


def _last(score: Tensor, found: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The last of the patches whose gradient is more than that of one of them, and the gradient."""
    tokens = [values for values in found if values.ndim == 3]
    for values in reversed(tokens or found):
        (gradient,) = torch.autograd.grad(score, values, retain_graph=True, allow_unused=True)
        if gradient is not None and bool(gradient.any()):
            return values, gradient
    raise UserError(
        "gradient: inside this image encoder nothing was found that keeps the places of an image;"
        " take --method occlusion"
    )


def _over_patches(values: Tensor, shape: GridShape) -> Tensor:
    """Of an image: tokens [1, t, c] or [t, 1, c], or a map [1, c, rows, columns]; summed over c."""
    if values.ndim == 4:
        return values[0].sum(dim=0)
    return shape.to_cells(values.sum(dim=-1).flatten())


def _number(classifier: ZeroShotClassifier, name: str) -> int:
    for known in (classifier.labels.names, classifier.labels.ids):
        if name in known:
            return list(known).index(name)
    raise UserError(
        f"{quoted(name)} is not among the labels ({', '.join(classifier.labels.names[:5])}, ...)"
    )
