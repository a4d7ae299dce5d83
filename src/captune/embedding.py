"""Image features of a folder as one file, `paths` [n] and `features` [n, d] float32."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from captune.errors import MissingExtra, UserError
from captune.features import FeatureCache, encode_images
from captune.files import check_writable, whole_file
from captune.images import ImageFile, ImageSet, Skipped, find_images, printable
from captune.models.image_text import Floats, ImageTextModel, describe_model
from captune.models.load import load_model
from captune.options import EmbedOptions, ModelOptions

# opens a progress bar: (what, how many) -> a context that yields "advance by n"
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


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


def encode_all(
    options: ModelOptions,
    skipped: list[Skipped],
    *,
    model: ImageTextModel,
    found: ImageSet,
    cache: FeatureCache | None,
    bar: Bar,
) -> tuple[list[ImageFile], Floats]:
    """The readable images of `found` and their features [n, d] float32, not normalised.

    Unreadable ones are added to `skipped`. Raises UserError where no image is readable.
    """
    if cache is not None:
        cache.remember_model(model.spec, model.ids)
    images: list[ImageFile] = []
    parts: list[Floats] = []
    with bar("encoding", len(found.images)) as advance:
        for some, features in encode_images(
            found.images,
            model.image,
            cache=cache,
            batch_size=options.batch_size,
            workers=options.workers,
            on_skip=skipped.append,
            on_progress=advance,
        ):
            images.extend(some)
            parts.append(features)
    if not images:
        raise none_readable(skipped)
    return images, np.concatenate(parts)


def none_readable(skipped: list[Skipped]) -> UserError:
    """The sentence for a folder in which every file is broken."""
    first = skipped[0]
    return UserError(
        f"none of {len(skipped)} files could be read ({printable(first.path)}: {first.reason})"
    )


def embed_images(options: EmbedOptions, *, bar: Bar) -> EmbedResult:
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
            options, skipped, model=model, found=found, cache=cache, bar=bar
        )
    paths = [_text(image.name) for image in images]
    with whole_file(options.features, "wb") as file:
        if suffix == ".npz":
            np.savez(file, paths=np.array(paths), features=features)
        else:
            _write_parquet(file, paths, features)
    return EmbedResult(
        len(paths), features.shape[1], str(options.features), describe_model(model), skipped
    )


def _text(name: str) -> str:
    """A name that is not UTF-8 has no form in either format: it is written escaped."""
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
