"""About how long a study takes on this machine, said before it starts.

Its work in images and captions, what each of them costs by the study's own table, and how fast the
machine multiplies matrices, measured now. It is right to a factor of two or three; each step says
more exactly what it will take when its turn comes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from captune.captions import read_captions
from captune.images import find_images
from captune.models.devices import resolve_device
from captune.options import TuneOptions
from captune.reproduce.plan import Plan, Task

_SIDE, _TIMES = 1024, 8


def counts(plan: Plan) -> dict[str, int]:
    """How much there is to do, by the names that the study's costs use."""
    methods = len(plan.names.get("methods", "").split(","))
    epochs, limit = (int(plan.names.get(name, 0)) for name in ("epochs", "limit"))
    found = {name: len(find_images([plan.data[name]]).images)
             for name in ("recognition", "pictures") if _is_there(plan, name)}  # fmt: skip
    if _is_there(plan, "train") and _is_there(plan, "val"):
        train, val = (read_captions(plan.data[name]) for name in ("train", "val"))
        each = sum(map(len, train.captions.values())) / len(train)
        trained = min(limit, len(train)) if limit else len(train)
        found |= {"trained": trained, "validated": len(val)}
        found["learnt"] = round(each * trained * epochs * methods)
        # after each epoch a sample; at the end all, and some with the images swapped
        sample = min(TuneOptions.val_sample, len(val))
        found["written"] = methods * (sample * epochs + len(val) + sample)
    return found


def _is_there(plan: Plan, name: str) -> bool:
    return name in plan.data and plan.data[name].exists()


def speed(device: str = "auto") -> float:
    """GFLOP/s of float32 matrix products on the device that models would run on."""
    import torch

    where = resolve_device(device)
    matrix = torch.randn(_SIDE, _SIDE, device=where)
    for is_counted in (False, True):  # the first pays for what is set up once
        started = time.perf_counter()
        for _ in range(_TIMES if is_counted else 1):
            product = matrix @ matrix
        product.sum().item()  # on a GPU the work is done only now
    return 2e-9 * _TIMES * _SIDE**3 / (time.perf_counter() - started)


def seconds_of(plan: Plan, tasks: Iterable[Task], gflops: float) -> dict[str, float]:
    """Step name -> about how many seconds it takes."""
    table = plan.study.gflop.get("lite" if plan.options.lite else "published", {})
    there = counts(plan)
    return {
        task.step.name: sum(
            there.get(what, 0) * table[cost]
            for what, costs in task.step.costs.items()
            for cost in costs
        )
        / gflops
        for task in tasks
    }
