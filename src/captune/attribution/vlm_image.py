"""One image under a model of transformers (models.vlm), as the map methods ask of a captioner.

The grid is what the vision tower hands on, [1, tokens, channels]. Where its tokens lie on the image
is not told from a family's name: the processor is shown ramps of grey, so that each number of its
pixels says where on the image it came from, whatever was resized, cut into tiles or put in another
order; tokens divide the pixels evenly, in their order. Maps are over cells of the whole image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from captune.attribution.geometry import ramps
from captune.captioning.any_captioner import AnyCaptioner
from captune.captioning.bridge import Bridge
from captune.captioning.model import IGNORED, CaptionModel
from captune.captioning.tuned_vlm import NoBridge
from captune.errors import UserError
from captune.models.decoders import Speech
from captune.models.encoders import GridShape
from captune.models.vlm import VLM
from captune.models.vlm_vision import Inputs, Read

MOST_CELLS = 16  # of a side: pixel occlusion takes a pass of the encoder for each cell
_ENCODED_AT_ONCE = 16
_TOKENS_AT_ONCE = 2**12  # of one pass of the language model: as fast a token as more are


@dataclass(frozen=True, eq=False)
class TokenPlaces(GridShape):
    """Tokens of any order, tiles and scales over the cells of an image.

    boxes: [tokens, 4], (left, top, right, bottom) of each as fractions of the image; NaN for those
    that stand for no place.
    """

    boxes: Tensor = field(kw_only=True)

    @property
    def placed(self) -> Tensor:
        """The numbers of the tokens that stand for a place."""
        return self.boxes.isfinite().all(dim=1).nonzero()[:, 0]

    def to_cells(self, values: Tensor) -> Tensor:
        """[..., tokens] -> [..., rows, columns]: the mean of the tokens over each cell."""
        shared = self._shared()
        weights = shared / shared.sum(dim=1, keepdim=True).clamp_min(1e-9)
        cells = values.float() @ weights.to(values.device).T
        return cells.reshape(*values.shape[:-1], self.rows, self.columns)

    def to_tokens(self, shown: Tensor) -> Tensor:
        """Masks [n, cells] -> [n, tokens]: a token is shown unless most of its place is hidden."""
        shared = self._shared()
        area = shared.sum(dim=0).clamp_min(1e-9)
        return ((~shown).float().cpu() @ shared / area < 0.5).to(shown.device)

    def _shared(self) -> Tensor:
        """The area that each cell and each token have in common [cells, tokens]."""
        across = _overlaps(self.boxes[:, 0], self.boxes[:, 2], self.columns)
        down = _overlaps(self.boxes[:, 1], self.boxes[:, 3], self.rows)
        return (down[:, None] * across[None]).flatten(0, 1).nan_to_num()


def _overlaps(low: Tensor, high: Tensor, cells: int) -> Tensor:
    edges = torch.arange(cells + 1) / cells
    ends = torch.minimum(high[None], edges[1:, None])
    return (ends - torch.maximum(low[None], edges[:-1, None])).clamp_min(0)


@dataclass(frozen=True, eq=False)
class VLMReader:
    """What map methods ask of a model of transformers before it reads an image."""

    vlm: VLM
    decoder: Speech
    prompt: str | None = None

    @property
    def bridge(self) -> Bridge:
        """None of captune's, which map methods look for cross-attention in."""
        return NoBridge()

    def of(self, picture: Image.Image) -> tuple[ImageReader, Tensor]:
        """The same for one image, and its grid."""
        vlm = self.vlm
        inputs = vlm.collate([vlm.inputs(picture, self.prompt)])
        with torch.no_grad():
            (features,) = vlm.features([inputs])
            assert vlm.vision is not None
            of_tiles, which = vlm.vision.places(inputs, len(features))
        across, down = self._ramps(picture)
        boxes = F.pad(token_boxes(across, down, of_tiles), (0, 0, 0, 1), value=math.nan)[which]
        columns, rows = (_cells(boxes, side) for side in (0, 1))
        tokens, channels = features.shape
        grid = TokenPlaces(tokens, channels, rows, columns, boxes=boxes)
        where = (down * rows).clamp(0, rows - 1).floor() * columns
        where = where + (across * columns).clamp(0, columns - 1).floor()
        begun = vlm.written(inputs, [features], max_tokens=1)
        made = ImageReader(
            vlm,
            self.decoder,
            self.prompt,
            inputs=inputs,
            grid=grid,
            where=where.nan_to_num(nan=-1.0).long().to(vlm.device),
            prompts=begun.prompts,
            features=features,
        )
        return made, features[None].float()

    def probed(self) -> ImageReader:
        """Of a grey image, to see what the family does."""
        return self.of(Image.new("RGB", (64, 48), "gray"))[0]

    def _pixels(self, picture: Image.Image) -> Tensor:
        return self.vlm.inputs(picture, self.prompt)["pixel_values"]

    def _ramps(self, picture: Image.Image) -> tuple[Tensor, Tensor]:
        """From the left and from the top, as fractions of the image, of each number of its pixels.

        NaN for a margin.
        """
        black, white = (self._pixels(Image.new("RGB", picture.size, c)) for c in ("black", "white"))
        span = white - black
        found = []
        for grey in ramps(*picture.size):
            part = (self._pixels(grey) - black) / span
            found.append(part.clamp(0, 1).masked_fill(span.abs() < 1e-6, math.nan))
        return found[0], found[1]


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageReader(VLMReader):
    """The same of one image, as the methods ask of a `CaptionModel`.

    where: [*pixels] the cell that each number of the pixels shows, -1 for a margin. prompts:
    [1, n], what the decoder reads before the caption.
    """

    inputs: Inputs
    grid: GridShape
    where: Tensor
    prompts: Tensor
    features: Tensor

    def logits_at_targets(
        self, grids: Tensor, ids: Tensor, mask: Tensor, targets: Tensor, tags: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `CaptionModel.logits_at_targets`; grids: [n, tokens, channels]."""
        each = grids.repeat_interleave(len(ids) // len(grids), dim=0).to(self.vlm.model.dtype)
        # what follows the last step is not looked at
        behind = F.pad(ids[:, 1:], (0, 1), value=self.vlm.pad_id)
        kept = targets != IGNORED
        same = self._same_places(each)
        order = same.argsort(stable=True)
        longest = max(self.prompts.shape[1], grids.shape[1]) + ids.shape[1]
        found: dict[int, Tensor] = {}
        for part in torch.split(order, max(1, _TOKENS_AT_ONCE // longest)):
            rows = part.tolist()
            logits = self._logits(each[part], behind[part], kept[part], int(same[rows[0]]))
            found |= zip(rows, torch.split(logits, kept[part].sum(dim=1).tolist()), strict=True)
        return torch.cat([found[row] for row in range(len(ids))]), targets[kept]

    def _logits(self, grids: Tensor, ids: Tensor, kept: Tensor, same: int) -> Tensor:
        """As of `VLM.logits`; same: how many of the first places are those of the whole image."""
        inputs = {
            name: value if "pixel" in name else value.expand(len(ids), *value.shape[1:])
            for name, value in self.inputs.items()
        }
        read = [(k[:, :, :same], v[:, :, :same]) for k, v in self._read] if same else ()
        prompts = self.prompts.expand(len(ids), -1)
        return self.vlm.logits(inputs, list(grids), prompts, ids, kept, read)

    def _same_places(self, grids: Tensor) -> Tensor:
        """How many of the prompt's first places read what they read of the image itself: [rows]."""
        none = torch.zeros(len(grids), dtype=torch.long)
        if torch.is_grad_enabled() or len(grids) == 1 or self.vlm.mark is None:
            return none
        places = self.image_places()
        assert places is not None
        # the last place is read again, for its logits
        places = F.pad(places, (0, 1), value=self.prompts.shape[1] - 1)
        other = F.pad((grids != self.features).any(dim=-1), (0, 1), value=True)
        same = places[other.float().argmax(dim=1)].cpu()
        # to read it takes two passes: of hidden pixels all image tokens are others
        pays = "_read" in vars(self) or int(same.sum()) > 2 * self.prompts.shape[1]
        return same if pays and self._read else none

    @cached_property
    def _read(self) -> Read:
        inputs, (features,) = self._handed
        return self.vlm.reading(inputs, features, self.prompts)

    def image_places(self) -> Tensor | None:
        """Where the image's tokens stand in what the language model reads; None where nowhere."""
        if self.vlm.mark is not None:
            return (self.prompts[0] == self.vlm.mark).nonzero()[:, 0]
        ids = self.prompts.new_zeros(1, 1)
        hidden = self.vlm.hidden(*self._handed, self.prompts, ids)
        read = hidden.shape[1] - self.prompts.shape[1]
        # GIT has them before the text
        return torch.arange(self.grid.tokens) if read >= self.grid.tokens else None

    @property
    def _handed(self) -> tuple[Inputs, list[Tensor]]:
        return self.inputs, [self.features]

    def hidden(self, ids: Sequence[int]) -> Tensor:
        """What the head reads at each place of prompt and caption, and the image's: [places, n]."""
        told = torch.tensor([list(ids)], device=self.vlm.device)
        return self.vlm.hidden(*self._handed, self.prompts, told)[0].float()

    def attention(self, ids: Sequence[int]) -> list[Tensor]:
        """Of each layer that looks at the image: [heads, steps of the caption, image tokens].

        Raises UserError where the language model never looks at tokens that have a place.
        """
        told = torch.tensor([list(ids)], device=self.vlm.device)
        found = self.vlm.attentions(*self._handed, self.prompts, told)
        places, tokens, steps = self.image_places(), self.grid.tokens, len(ids)
        if places is None:  # those whose keys are the image, as vit-gpt2 and BLIP have them
            read = self.prompts.shape[1] + steps
            crossed = [w for own in found.values() for w in own if w.shape[2:] == (read, tokens)]
            layers = [weights[0, :, -steps - 1 : -1] for weights in crossed]
        else:
            layers = [
                torch.cat([own[0][0, :, -1:, places], *(w[0, :, :, places] for w in own[1:])], 1)
                if len(own) > 1 or steps == 1
                else own[0][0, :, -steps - 1 : -1, places]
                for own in found.values()
            ]
        if not layers:
            raise UserError(
                f"attention: of a {self.vlm.family} the language model does not look at places of"
                " the image; take --method occlusion"
            )
        return [layer.float().cpu() for layer in layers]

    def without_pixels(self, hidden: Image.Image) -> Callable[[Tensor], Tensor]:
        """Masks [n, cells] -> grids of the image with the pixels of `hidden` in hidden cells."""
        inputs, where = self.inputs, self.where
        clear = inputs["pixel_values"]
        other = self._pixels(hidden).to(clear)

        def grids_of(shown: Tensor) -> Tensor:
            found = []
            for part in torch.split(shown, _ENCODED_AT_ONCE):
                cells = F.pad(part, (0, 1), value=True).to(clear.device)  # a margin stays
                mixed = (torch.where(row[where], clear, other) for row in cells)
                found += self.vlm.features([{**inputs, "pixel_values": one} for one in mixed])
            return torch.stack(found).float()

        return grids_of


AnyModel = CaptionModel | VLMReader  # what map methods are asked about


def token_boxes(across: Tensor, down: Tensor, tokens: int) -> Tensor:
    """Boxes [tokens, 4] of tokens that divide the pixels evenly, in their order.

    across, down: places of the pixels, as `pixel_values` of one image: [tiles, 3, height, width],
    or a row of numbers for each patch. Tokens of a tile beyond a square come first and stand for no
    place (CLS, registers).
    """
    units = []
    for places in (across, down):
        if places.ndim == 2:  # patches, of which some in a row make a token
            units.append(places.reshape(tokens, -1))
            continue
        tiles = places.reshape(-1, *places.shape[-3:])[:, 0]
        each = tokens // len(tiles)
        height, width = tiles.shape[1:]
        rows = max(1, round(math.sqrt(each * height / width)))
        tall, wide = height // rows, width // (each // rows)
        pooled = tiles.unfold(1, tall, tall).unfold(2, wide, wide).flatten(3).flatten(1, 2)
        nowhere = torch.full((each - pooled.shape[1], pooled.shape[2]), math.nan)
        units.append(torch.cat([part for tile in pooled for part in (nowhere, tile)]))
    lows = [unit.nan_to_num(nan=math.inf).amin(dim=1) for unit in units]
    highs = [unit.nan_to_num(nan=-math.inf).amax(dim=1) for unit in units]
    boxes = torch.stack([*lows, *highs], dim=1)
    boxes = torch.where(boxes.isfinite(), boxes, math.nan)
    return _touching(boxes)


def _touching(boxes: Tensor) -> Tensor:
    """A pixel's place is its middle: boxes of pixels reach half of a pixel further."""
    wide = boxes[:, 2:] - boxes[:, :2]
    grown = wide.nanmean(dim=0) * 0.02 + 1e-3
    return torch.cat([boxes[:, :2] - grown, boxes[:, 2:] + grown], dim=1).clamp(0, 1)


def _cells(boxes: Tensor, side: int) -> int:
    """How many cells a side has: as many as the smallest tokens make of it."""
    wide = (boxes[:, 2 + side] - boxes[:, side]).nanquantile(0.1)
    return int(min(MOST_CELLS, max(2, round(1 / max(1e-3, float(wide))))))


def reader_of(captioner: AnyCaptioner) -> VLMReader:
    """Before it reads an image."""
    return VLMReader(captioner.vlm, captioner.speech, captioner.prompt)
