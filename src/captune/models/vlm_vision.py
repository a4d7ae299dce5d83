"""Where the vision of a model ends, and what is handed in there; where its reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]
# of each layer of a language model the keys and values [1, heads, places, n] of what it has read
Read = Sequence[tuple[Tensor, Tensor]]
_NUMBERS_AT_ONCE = 2**19  # of pixels: three images of 224 x 224


class Vision:
    """Where a model's vision ends: what is handed in there stands for the image.

    owner, name: the function that is replaced while features are handed in. Where a language model
    looks at the image at several depths (Qwen3-VL), its features of all stand beside each other.
    """

    def __init__(self, owner: Any, name: str, mark: int | None) -> None:
        self._owner, self._name, self._mark = owner, name, mark
        self._field = "last_hidden_state" if mark is None else "pooler_output"
        self._tiles: tuple[int, ...] | None = None
        self._widths: list[int] = []
        self._projector: nn.Module | None = None

    def of(self, inputs: Inputs) -> list[Tensor]:
        """[tokens, channels] of each image of a batch; of one that ends before the projector, what
        that reads of each.
        """
        if self._projector is None:
            return self._seen(inputs)
        read: list[Tensor] = []
        with self._projector.register_forward_pre_hook(lambda _, args: read.append(args[0])):
            counts = [len(one) for one in self._seen(inputs)]
        (whole,) = read
        return _shared(whole, counts)

    def of_each(
        self,
        each: Sequence[Inputs],
        collate: Callable[[Sequence[Inputs]], Inputs],
        device: torch.device,
    ) -> list[Tensor]:
        """As `of`, of images that are not collated yet.

        A processor is given a few at a time: what lies between the layers then stays in its caches,
        and takes less memory.
        """
        size = max(1, len(each))
        if device.type == "cpu":
            size = max(1, _NUMBERS_AT_ONCE // max(1, each[0]["pixel_values"].numel()))
        parts = (each[start : start + size] for start in range(0, len(each), size))
        return [own for part in parts for own in self.of(collate(part))]

    @property
    def what(self) -> str:
        """The name of what it yields, by which the cache keeps it apart."""
        return "vision" if self._projector is None else "vision before the projector"

    def end_before(self, projector: nn.Module, inputs: Inputs) -> bool:
        """From now on it ends there, and the projector runs on what is handed in.

        False, and it stays as it is, where more than the projector lies behind; inputs: to see
        that by.
        """
        if self._mark is None:  # a tower's output is what projectors read
            return True
        whole = torch.cat(self._seen(inputs))
        self._projector = projector
        with suppress(RuntimeError):  # shares that are none: LLaVA-NeXT joins tiles
            if torch.equal(torch.cat(self._projected(self.of(inputs))), whole):
                return True
        self._projector = None
        return False

    def _projected(self, read: Sequence[Tensor]) -> list[Tensor]:
        assert self._projector is not None
        return _shared(self._projector(torch.cat(list(read))).flatten(0, -2), [*map(len, read)])

    def _seen(self, inputs: Inputs) -> list[Tensor]:
        see = getattr(self._owner, self._name)
        taken = set(signature(see).parameters) if self._mark is not None else {"pixel_values"}
        output = see(**{name: value for name, value in inputs.items() if name in taken})
        value = getattr(output, self._field)
        if self._mark is None:
            return list(value)
        if isinstance(value, Tensor):
            self._tiles = tuple(value.shape[1:])
        depths = [value, *(getattr(output, "deepstack_features", None) or ())]
        each = [torch.cat([one.flatten(0, -2) for one in depth]) for depth in depths]
        self._widths = [depth.shape[-1] for depth in each]
        flat = torch.cat(each, dim=-1)
        counts = (inputs["input_ids"] == self._mark).sum(dim=1).tolist()
        return list(torch.split(flat, counts))

    def places(self, inputs: Inputs, tokens: int) -> tuple[int, Tensor]:
        """How many tokens the tiles of one image have, and which of them each of `tokens` is.

        -1 for what is none of them: LLaVA-NeXT joins the tiles, cuts margins off and ends lines.
        """
        if not hasattr(self._owner, "pack_image_features"):
            return tokens, torch.arange(tokens)
        counts: list[int] = []

        def number(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            tiles, each, channels = output.shape
            counts.append(tiles * each)
            numbers = torch.arange(tiles * each, dtype=torch.float32, device=output.device)
            return numbers.view(tiles, each, 1).repeat(1, 1, channels)

        with self._owner.multi_modal_projector.register_forward_hook(number):
            (found,) = self.of(inputs)
        is_token = (found == found[:, :1]).all(dim=1)
        return counts[0], found[:, 0].long().where(is_token, -1).cpu()

    @contextmanager
    def handed(self, features: Sequence[Tensor], pixels: int) -> Iterator[None]:
        """Within, a pass takes these and encodes nothing; pixels: the length of `pixel_values`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        if self._projector is not None:
            features = self._projected(features)

        def see(*args: Any, **kwargs: Any) -> Any:
            given: Any = kwargs.get("pixel_values", args[0] if args else None)
            # generate repeats an image for each of its beams
            each = [one for one in features for _ in range(len(given) // pixels)]
            if self._mark is None:
                return BaseModelOutputWithPooling(**{self._field: torch.stack(each)})
            parts = [torch.split(one, self._widths, dim=-1) for one in each]
            value: Any
            value, *deeper = zip(*parts, strict=True)
            if self._tiles is not None:
                value = torch.cat(value).view(-1, *self._tiles)
            output = BaseModelOutputWithPooling(**{self._field: value})
            output.deepstack_features = deeper or None
            return output

        # generate asks which arguments it takes
        see.__signature__ = signature(getattr(self._owner, self._name))  # type: ignore[attr-defined]
        setattr(self._owner, self._name, see)
        try:
            yield
        finally:
            delattr(self._owner, self._name)


def find_vision(model: Any, mark: int | None, inputs: Inputs) -> Vision | None:
    """None where what is handed in would not be all that the model takes of the image.

    mark: the id of the placeholders of a text with an image, where there are some. inputs: of an
    image, to see by. Raises ValueError as `check_ids`, and for a text without a place for it.
    """
    from transformers import PreTrainedModel

    check_ids(model, mark, inputs)
    if mark is not None and not bool((inputs["input_ids"] == mark).any()):
        raise ValueError("the text that it makes has no place for one")
    if mark is not None:
        found = Vision(model.base_model, "get_image_features", mark)
    else:
        towers = (m for m in model.modules() if m is not model and isinstance(m, PreTrainedModel))
        tower = next((m for m in towers if m.main_input_name == "pixel_values"), None)
        if tower is None:
            return None
        found = Vision(tower, "forward", None)
    with torch.no_grad(), suppress(RuntimeError, AttributeError, TypeError):
        found.of(inputs)
        return found
    return None


def check_ids(model: Any, mark: int | None, inputs: Inputs) -> None:
    """Raises ValueError for tokens of a text that the model has no embedding for."""
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    ids = inputs.get("input_ids")
    if known is not None and ids is not None and bool(((ids >= known) & (ids != mark)).any()):
        raise ValueError("its tokenizer has tokens that the model does not know")


def has_placeholders(model: Any) -> bool:
    """Whether image tokens stand in the text that it reads."""
    base = model.base_model
    return base is not model and hasattr(base, "get_image_features")


@contextmanager
def going_on(model: Any, read: Read, rows: int) -> Iterator[None]:
    """Within, the language model leaves out the places that it has read, for all rows of a pass."""
    from transformers import DynamicCache

    if not read:
        yield
        return
    start = read[0][0].shape[-2]
    past = DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in read])

    def cut(_: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        embeds, positions = given["inputs_embeds"], given.get("position_ids")
        given = {**given, "inputs_embeds": embeds[:, start:], "past_key_values": past}
        if positions is not None:
            given["position_ids"] = positions[..., start:]
        if (image := given.get("visual_pos_masks")) is not None:  # Qwen3-VL
            left = image.nonzero()[:, 1] >= start
            given["visual_pos_masks"] = image[:, start:]
            depths = given["deepstack_visual_embeds"]
            given["deepstack_visual_embeds"] = [depth[left] for depth in depths]
        return args, given

    with model.base_model.get_decoder().register_forward_pre_hook(cut, with_kwargs=True):
        yield


def _shared(whole: Tensor, shares: Sequence[int]) -> list[Tensor]:
    """Rows of all images -> those of each, in these proportions."""
    rows, total = len(whole), sum(shares)
    return list(torch.split(whole, [share * rows // total for share in shares]))


@contextmanager
def telling_weights(model: Any) -> Iterator[None]:
    """Within, attention is computed so that it tells its weights, a tuned prefix with it."""
    from transformers import PreTrainedModel

    models = (one for one in model.modules() if isinstance(one, PreTrainedModel))
    configs: list[Any] = [one.config for one in models]
    before = [config._attn_implementation for config in configs]
    try:
        for config, kind in zip(configs, before, strict=True):  # which sets those within, too
            config._attn_implementation = kind.replace("sdpa", "eager")
        yield
    finally:
        for config, kind in zip(configs, before, strict=True):
            config._attn_implementation = kind
