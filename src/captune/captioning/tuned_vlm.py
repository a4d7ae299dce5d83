"""What captune trains in a captioner of transformers: a tuning method in its language model.

With --train projector also the layers between its vision and its language model. Vision runs once
an image. A checkpoint holds what was trained, and the name and hash of the captioner that was not:

    model.safetensors   tuning.* and projector.*, float32
    config.json         schema, captune's version, base, method
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from captune.captioning.bridge import Bridge, Context, ImageStates, TagEmbeddings
from captune.captioning.captioner import captioner_folder, is_on_hub
from captune.captioning.checkpoint import (
    ImageIdentity,
    TunedRecipe,
    check_model,
    digest_of_checkpoint,
    read_trained,
    read_trained_header,
)
from captune.captioning.decoder_parts import DecoderParts, find_parts
from captune.captioning.generate import Generated
from captune.captioning.model import IGNORED, Trainable, check_room
from captune.captioning.settings import CONFIG, WEIGHTS, Settings, config_of
from captune.captioning.tuning import TUNING_METHODS, TuningMethod
from captune.errors import UserError
from captune.files import home_path
from captune.models import hub
from captune.models.decoders import Decoder
from captune.models.encoders import GridShape
from captune.models.vlm import VLM
from captune.models.vlm_files import described_vlm
from captune.models.vlm_vision import Inputs
from captune.models.weights import digest_of, total_elements
from captune_metrics.display import printable

# numbers of images, how many captions of each -> what `VLM.logits` takes: inputs, features, prompts
Seen = Callable[[Sequence[int], int], tuple[Inputs, list[Tensor] | None, Tensor]]

# what families call the layers that bring vision to the width of the language model
_PROJECTORS = (
    *("multi_modal_projector", "connector", "merger", "language_projection"),
    *("visual_projection", "enc_to_dec_proj"),
)


def language_of(vlm: VLM) -> Any:
    """The innermost model of transformers around its blocks of language."""
    from transformers import PreTrainedModel

    first = vlm.blocks[0]
    models = [one for one in vlm.model.modules() if isinstance(one, PreTrainedModel)]
    return [one for one in models if any(part is first for part in one.modules())][-1]


def parts_of(vlm: VLM) -> DecoderParts:
    """Where tuning methods reach into it."""
    return find_parts(language_of(vlm), vlm.blocks)


class NoBridge(Bridge):
    """A captioner of transformers sees by itself: tuning methods find nothing to reach here."""

    def project(self, grid: Tensor, tags: TagEmbeddings | None = None) -> ImageStates:
        """Nothing."""
        return ImageStates(len(grid))

    def attach(self, parts: DecoderParts, context: Context) -> list[RemovableHandle]:
        """Nothing."""
        return []

    @classmethod
    def count(cls, config: Any, grid: GridShape, parts: DecoderParts) -> int:
        """None."""
        return 0


class TunedVLM(Trainable):
    """A captioner of transformers with a tuning method in its language model.

    Its `grids` are numbers of images [images], of which `seen` gives what the model reads; None for
    one that is not trained any more. projector: its own, where that is trained too.
    """

    def __init__(
        self,
        vlm: VLM,
        tuning: TuningMethod,
        projector: nn.Module | None,
        decoder: Decoder,
        seen: Seen | None,
    ) -> None:
        super().__init__()
        self.vlm, self.decoder, self.bridge = vlm, decoder, NoBridge()
        self.language_model, self.tuning, self._images = vlm.model, tuning, seen
        self.parts = parts_of(vlm)
        tuning.attach(language_of(vlm), self.parts, self.bridge)
        self.projector = projector
        self._before = {} if projector is None else dict(projector.state_dict())
        if projector is not None and seen is not None:
            for parameter in projector.parameters():
                parameter.data = parameter.data.float().clone()
                parameter.requires_grad_()

    def detach(self) -> None:
        """Give the captioner back as it was."""
        self.tuning.detach()
        if self.projector is not None:
            self.projector.requires_grad_(False)
            for name, parameter in self.projector.named_parameters():
                parameter.data = self._before[name]

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name: `projector.*` and `tuning.*`."""
        found = {f"tuning.{name}": p for name, p in self.tuning.named_trained()}
        own = {} if self.projector is None else dict(self.projector.named_parameters())
        return {f"projector.{name}": p for name, p in own.items()} | found

    def logits_at_targets(
        self, grids: Tensor, ids: Tensor, mask: Tensor, targets: Tensor, tags: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """By the teacher-forced pass that scores given words, `VLM.logits`."""
        kept = targets != IGNORED
        given = self._seen(grids, len(targets) // len(grids))
        told = targets.masked_fill(~kept, self.vlm.pad_id)
        return self.vlm.logits(*given, told, kept), targets[kept]

    def generate(
        self,
        grids: Tensor,
        *,
        beams: int = 1,
        max_tokens: int = 60,
        tags: Tensor | None = None,
        scored: bool = True,
    ) -> Generated:
        """Captions of a batch of images, as `captune caption` writes them."""
        inputs, features, _ = self._seen(grids, 1)
        with self.without_dropout():
            written = self.vlm.written(inputs, features, beams=beams, max_tokens=max_tokens)
            said = written.log_probabilities
            if scored and said is None:
                said = self.vlm.log_probabilities(inputs, features, written)
        ids = [[id for id in row if id not in self.vlm.ends] for row in written.ids]
        return Generated(ids, said if scored and said is not None else [[] for _ in ids])

    def _seen(self, grids: Tensor, each: int) -> tuple[Inputs, list[Tensor] | None, Tensor]:
        assert self._images is not None
        return self._images(grids.tolist(), each)


def tuned_vlm(
    vlm: VLM,
    method: str,
    settings: Settings,
    decoder: Decoder,
    *,
    train: str | None,
    seed: int = 0,
    seen: Seen | None = None,
    room: int = sys.maxsize,
) -> TunedVLM:
    """As `build_model`: `detach()` gives the captioner back. train: "projector", or nothing else.

    Raises UserError for a method that its language model cannot take, and where its settings make
    more parameters than there is room for.
    """
    kind: Any = TUNING_METHODS.get(method)
    config = config_of(kind.Config, settings, method)
    check_room(method, kind.count(config, parts_of(vlm), NoBridge()), room)
    projector = None if train is None else require_projector(vlm)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TunedVLM(vlm, kind(config), projector, decoder, seen).to(vlm.device)


def require_projector(vlm: VLM) -> nn.Module:
    """The captioner's own. Raises UserError for one that has none."""
    named = vlm.model.named_modules()
    known = (one for name, one in named if name.split(".")[-1] in _PROJECTORS)
    found: nn.Module | None = next(known, None)
    if found is None:
        raise UserError(
            f"--train projector: a {vlm.family} has no layers between its vision and its language"
            " model; leave it out"
        )
    return found


def described_tuned(
    recipe: TunedRecipe, place: Path, moved: str | None
) -> tuple[Path, dict[str, Any]]:
    """The folder of what was tuned, and the captioner as a run names it, of which nothing is built.

    place: of the checkpoint. moved: where the former lies now, if it has moved. Raises UserError
    for another one than that.
    """
    spec = moved or recipe.base.spec
    if not is_on_hub(spec) and not home_path(spec).is_dir():
        raise UserError(
            f"{printable(place)} was tuned from {printable(spec)}, which is no folder here;"
            " say with --decoder where it lies now"
        )
    with hub.unasked(str(place), unless=moved):
        base = captioner_folder(spec)
    about = described_vlm(base, str(place))
    found = ImageIdentity(spec, about["weights_id"], about["processor_id"])
    check_model(recipe.base, found, place, "captioner")
    weights_id = digest_of(about["weights_id"], digest_of_checkpoint(place))
    tuned = {"weights_id": weights_id, "base": recipe.base.spec, "method": recipe.method.name}
    return base, about | tuned


def load_tuned(vlm: VLM, recipe: TunedRecipe, place: Path, decoder: Decoder) -> None:
    """Put what was trained into `vlm`, to stay there.

    place: of the checkpoint. Raises UserError where it does not fit.
    """
    held = read_trained_header(place)
    room = total_elements(one for name, one in held.items() if name.startswith("tuning."))
    part = recipe.method
    try:
        model = tuned_vlm(vlm, part.name, part.config, decoder, train=recipe.train, room=room)
    except UserError as error:
        raise UserError(f"{printable(place / CONFIG)}: {error}") from error
    read_trained(model, place / WEIGHTS)
    model.eval().requires_grad_(False)
