"""Weights of a captioner as text, so that it is the same captioner on every machine.

Training multiplies the last bits in which processors differ; what reads a captioner would differ
with it. So the golden tune is pinned for itself, and the commands after it read its adapter with
the weights of captioner.txt instead of its own: those of the same tune on one machine, rounded.
`python -m tests.golden.captioner RUN/adapter/model.safetensors` writes captioner.txt again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

TEXT = Path(__file__).with_name("captioner.txt")
_WEIGHTS = "model.safetensors"


def lay(source: Path, folder: Path, scale: float = 1.0) -> None:
    """A copy of the checkpoint `source` in `folder`, with the weights of captioner.txt.

    scale: of all of them; at 0 it sees no image.

    Raises ValueError where the checkpoint has other tensors: its names or shapes have changed.
    """
    shutil.copytree(source, folder)
    laid = _read()
    found = load_file(folder / _WEIGHTS)
    shapes = [{name: list(t.shape) for name, t in some.items()} for some in (found, laid)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{TEXT.name} has {shapes[1]}, the checkpoint {shapes[0]}")
    scaled = {name: scale * tensor for name, tensor in laid.items()}
    save_file(scaled, folder / _WEIGHTS)


def _read() -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for block in TEXT.read_text().strip().split("\n\n"):
        name, *rows = block.split("\n")
        name, *shape = name.split()
        values = [float(value) for row in rows for value in row.split()]
        tensors[name] = torch.tensor(values).reshape([int(size) for size in shape])
    return tensors


def main(weights: str) -> None:
    """Write captioner.txt: name and shape of each tensor, then its rows."""
    blocks = []
    for name, tensor in sorted(load_file(weights).items()):
        rows = [" ".join(f"{v:.3f}" for v in row) for row in tensor.reshape(tensor.shape[0], -1)]
        blocks.append("\n".join([" ".join([name, *map(str, tensor.shape)]), *rows]))
    TEXT.write_text("\n\n".join(blocks) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
