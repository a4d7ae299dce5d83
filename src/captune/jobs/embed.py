"""`captune embed`: image features as one file, `paths` [n] and `features` [n, d] float32."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captune.errors import MissingExtra, UserError
from captune.features.cache import FeatureCache
from captune.features.encode import encode_all
from captune.files import check_writable, whole_file
from captune.images import find_images
from captune.jobs import Result
from captune.models.encoders import Floats, describe_model
from captune.models.load import load_model
from captune.options import EmbedOptions
from captune.options.codec import from_python
from captune.progress import SILENT, Progress
from captune.text import counted


@dataclass(kw_only=True, eq=False)
class EmbedResult(Result):
    """Features that were written. features: [images, dimension], not normalised."""

    paths: list[str]
    features: Floats
    model: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            **super().summary(),
            "dimension": self.features.shape[1],
            "features": str(self.written["features"]),
            "model": self.model,
        }

    def sentences(self) -> list[str]:
        """What was written."""
        images, dimension = self.features.shape
        return [f"{counted(images, 'image')}, {dimension} numbers per image"]


def embed(
    images: str | Path | Sequence[str | Path], features: str | Path, **options: Any
) -> EmbedResult:
    """Write image features into one file, as `captune embed`.

    images: folders, files and globs. features: FILE.npz or FILE.parquet. options: the fields of
    `options.EmbedOptions`, such as model="open_clip:ViT-B-32/openai". Raises UserError for what
    cannot be done.
    """
    return run(from_python(EmbedOptions, images=images, features=features, **options))


def run(
    options: EmbedOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),  # noqa: ARG001  # there is no run to keep it in
) -> EmbedResult:
    """Encode images and write them; features are as the model gives them, not normalised.

    Raises UserError for a file type that is neither .npz nor .parquet, or if no image is readable.
    """
    suffix = options.features.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise UserError(f"{options.features}: must end in .npz or .parquet")
    if suffix == ".parquet":
        _pyarrow()
    check_writable(options.features)
    found = find_images(options.images)
    skipped = list(found.skipped)
    model = load_model(options.model, device=options.device, dtype=options.dtype)
    with nullcontext() if options.no_cache else FeatureCache() as cache:
        images, features = encode_all(
            found.images,
            model,
            cache=cache,
            batch_size=options.batch_size,
            workers=options.workers,
            skipped=skipped,
            progress=progress,
        )
    # a name that is not UTF-8 has no form in either format: it is written escaped
    paths = [image.name.encode("utf-8", "backslashreplace").decode() for image in images]
    with whole_file(options.features, "wb") as file:
        if suffix == ".npz":
            np.savez(file, paths=np.array(paths), features=features)
        else:
            _write_parquet(file, paths, features)
    return EmbedResult(
        images=len(paths),
        skipped=skipped,
        written={"features": options.features},
        paths=paths,
        features=features,
        model=describe_model(model),
    )


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
