"""The mean of several captioners: python packages/captune-lite/average.py OUT RUN [RUN ...]

Each RUN is a tuned captioner of the same make (a later one trained on from an earlier one, so that
the weights between them are good ones too; Wortsman et al. 2022, "Model soups"). A RUN that is a
safetensors file is weights alone, as a checkpoint of a training that was stopped has them. The
config is that of the first RUN that is a folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from captune.captioning.checkpoint import CONFIG, WEIGHTS, checkpoint_folder
from captune.files import whole_file


def main(words: list[str] | None = None) -> int:
    """Read, check, average, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    arguments = parser.parse_args(words)
    folders = [checkpoint_folder(run) for run in arguments.runs if run.is_dir()]
    if not folders:
        print("average.py: one RUN has to be a folder with a config", file=sys.stderr)
        return 2
    files = [checkpoint_folder(r) / WEIGHTS if r.is_dir() else r for r in arguments.runs]
    parts = [load_file(file) for file in files]
    shapes = [{name: tensor.shape for name, tensor in part.items()} for part in parts]
    if any(other != shapes[0] for other in shapes):
        print("average.py: these captioners are not of one make", file=sys.stderr)
        return 2
    mean = {
        name: torch.stack([part[name].float() for part in parts]).mean(dim=0) for name in parts[0]
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    with whole_file(arguments.out / WEIGHTS, "wb") as file:
        file.write(save(mean, metadata={"format": "pt"}))
    with whole_file(arguments.out / CONFIG, "wb") as file:
        file.write((folders[0] / CONFIG).read_bytes())
    print(json.dumps({"out": str(arguments.out), "of": [str(file) for file in files]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
