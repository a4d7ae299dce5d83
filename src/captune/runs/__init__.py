"""The run folder: what was done, on what, with what, and what came out. Read and written only here.

    run.json        schema, kind, command, options, models, versions, hardware, seed, image root
    records.jsonl   one line an image: path relative to the root and what was found
    metrics.json    figures over all images
    plots/          figures
    maps/           what of the images a model used, one .npz an image

Every file appears whole. `run.json` is the last to appear and, where a run is replaced, the first
to go: a folder without it is no run. It carries a signature of this machine's captune
(`runs.signature`): the images of a run from elsewhere are not opened without being asked for.
"""

from captune.runs.reader import DamagedRun, Run, leaves_root, read_run
from captune.runs.writer import RunWriter, check_run_folder, hardware, versions

__all__ = [
    "DamagedRun",
    "Run",
    "RunWriter",
    "check_run_folder",
    "hardware",
    "leaves_root",
    "read_run",
    "versions",
]
