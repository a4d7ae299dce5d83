"""Where the vision of a model ends, and what is handed in there in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from captune.errors import UserError

Inputs = dict[str, Tensor]


class Vision:
    """Where a model's vision ends: what is handed in there stands for the image.

    owner, name: the function that is replaced while features are handed in. form: of the value
    that its output has in `field`; a shape for a tensor whose rows are all images' tiles.
    """

    def __init__(self, owner: Any, name: str, mark: int | None) -> None:
        self._owner, self._name, self._mark = owner, name, mark
        self._field = "last_hidden_state" if mark is None else "pooler_output"
        self._tiles: tuple[int, ...] | None = None

    def of(self, inputs: Inputs) -> list[Tensor]:
        """[tokens, channels] of each image of a batch."""
        see = getattr(self._owner, self._name)
        taken = set(signature(see).parameters) if self._mark is not None else {"pixel_values"}
        output = see(**{name: value for name, value in inputs.items() if name in taken})
        value = getattr(output, self._field)
        if self._mark is None:
            return list(value)
        if getattr(output, "deepstack_features", None) is not None:
            raise UserError("its language model looks at the image at several depths")
        if isinstance(value, Tensor):
            self._tiles = tuple(value.shape[1:])
        flat = torch.cat([one.flatten(0, -2) for one in value])
        counts = (inputs["input_ids"] == self._mark).sum(dim=1).tolist()
        return list(torch.split(flat, counts))

    @contextmanager
    def handed(self, features: Sequence[Tensor], pixels: int) -> Iterator[None]:
        """Within, a pass takes these and encodes nothing; pixels: the length of `pixel_values`."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        def see(*args: Any, **kwargs: Any) -> Any:
            given: Any = kwargs.get("pixel_values", args[0] if args else None)
            # generate repeats an image for each of its beams
            each = [one for one in features for _ in range(len(given) // pixels)]
            value: Any = each
            if self._mark is None:
                value = torch.stack(each)
            elif self._tiles is not None:
                value = torch.cat(each).view(-1, *self._tiles)
            return BaseModelOutputWithPooling(**{self._field: value})

        # generate asks which arguments it takes
        see.__signature__ = signature(getattr(self._owner, self._name))  # type: ignore[attr-defined]
        setattr(self._owner, self._name, see)
        try:
            yield
        finally:
            delattr(self._owner, self._name)
