"""The captioner that ships with captune, in a package of its own: its licence is not captune's.

Distribution `captune-lite`, import package `captune_lite`, folder `captioner` in it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from captune.captioning.checkpoint import CONFIG, WEIGHTS
from captune.errors import MissingExtra, UserError

PACKAGE = "captune_lite"
FOLDER = "captioner"


def lite_captioner() -> Path:
    """Its folder, with config.json and model.safetensors; the package is found, not imported.

    Raises MissingExtra where it is not installed, UserError where its files are not there.
    """
    # an entry of None in sys.modules, and a module without a spec, are ValueErrors
    try:
        spec = find_spec(PACKAGE)
    except ValueError:
        spec = None
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    if not places:
        raise MissingExtra("captioning without a tuned captioner of your own (--model RUN)", "lite")
    for place in places:
        folder = Path(place) / FOLDER
        if all((folder / name).is_file() for name in (CONFIG, WEIGHTS)):
            return folder
    raise UserError(
        f"{Path(places[0]) / FOLDER}: lacks {CONFIG} or {WEIGHTS}, so captune-lite is not whole;"
        " install it again: pip install --force-reinstall 'captune[lite]'"
    )
