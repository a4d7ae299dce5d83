"""Image features of a folder as one file, `paths` [n] and `features` [n, d] float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from captune.errors import MissingExtra, UserError
from captune.features import FeatureCache, encode_photos
from captune.files import whole_file
from captune.images import Skipped, find_photos
from captune.models.image_text import Floats
from captune.models.load import load_model
from captune.options import EmbedOptions


@dataclass
class EmbedResult:
    """What was embedded."""

    images: int
    dimension: int
    file: str
    model: dict[str, Any]
    skipped: list[Skipped] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "run": None,
            "images": self.images,
            "skipped": [{"path": item.path, "reason": item.reason} for item in self.skipped],
            "dimension": self.dimension,
            "features": self.file,
            "model": self.model,
        }


def embed_photos(
    options: EmbedOptions,
    *,
    bar: Callable[[str, int], AbstractContextManager[Callable[[int], None]]],
) -> EmbedResult:
    """Encode photos and write them; features are as the model gives them, not normalised.

    Raises UserError for a file type that is neither .npz nor .parquet, or if no photo is readable.
    """
    suffix = options.features.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise UserError(f"{options.features}: must end in .npz or .parquet")
    if suffix == ".parquet":
        _pyarrow()
    found = find_photos(options.photos)
    skipped = list(found.skipped)
    paths: list[str] = []
    parts: list[Floats] = []
    model = load_model(options.model, device=options.device, dtype=options.dtype)
    with ExitStack() as stack:
        cache = stack.enter_context(nullcontext() if options.no_cache else FeatureCache())
        advance = stack.enter_context(bar("embedding", len(found.photos)))
        for photos, features in encode_photos(
            found.photos,
            model.image,
            cache=cache,
            batch_size=options.batch_size,
            workers=options.workers,
            on_skip=skipped.append,
            on_progress=advance,
        ):
            paths.extend(photo.name for photo in photos)
            parts.append(features)
    if not paths:
        raise UserError(f"none of {len(skipped)} files could be read ({skipped[0].reason})")
    features = np.concatenate(parts)
    with whole_file(options.features, "wb") as file:
        if suffix == ".npz":
            # a name that is not UTF-8 has no form in either format: it is written escaped
            np.savez(file, paths=np.array([_text(path) for path in paths]), features=features)
        else:
            _write_parquet(file, [_text(path) for path in paths], features)
    about = {"spec": model.spec, "weights_id": model.image.weights_id}
    return EmbedResult(len(paths), features.shape[1], str(options.features), about, skipped)


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("writing .parquet", "parquet") from None
    return pyarrow


def _write_parquet(file: Any, paths: list[str], features: Floats) -> None:
    pyarrow = _pyarrow()
    flat = pyarrow.array(features.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    table = pyarrow.table({"paths": pyarrow.array(paths), "features": column})
    pyarrow.parquet.write_table(table, file)
