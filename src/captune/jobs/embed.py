"""`captune embed`: features of images or sentences as files, float32 [n, dimension].

FILE.npz          arrays `paths` (or `texts`), `features` and `metadata`, a text of JSON
FILE.parquet      columns of these names; the metadata is that of the schema, under `captune`
FILE.safetensors  the tensor `features`; `captune` and `paths` (or `texts`) are metadata, as JSON
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captune.answer_files import in_utf8, parquet, parquet_writer, row_paths
from captune.errors import UserError
from captune.features.cache import cache_for
from captune.features.encode import encode_all, encode_texts
from captune.features.pipeline import Encoding
from captune.files import lines_of, read_text, whole_file
from captune.images import Images, find_images
from captune.jobs import Result, check_outputs, files_among
from captune.jobs.shards import takes_shards
from captune.models.encoders import Floats, describe_model, normalise
from captune.models.load import kept_model, load_model
from captune.options.codec import from_python
from captune.options.recognition import EmbedOptions
from captune.progress import SILENT, Progress
from captune.text import counted
from captune_metrics.display import printable

_FORMS = (".npz", ".parquet", ".safetensors")
_LONGEST_SENTENCE = 100_000  # characters; no model reads as many
_MOST_NAMES = 2**30  # bytes of the names in an .npz


@dataclass(kw_only=True, eq=False)
class EmbedResult(Result):
    """Features that were written.

    names: the paths of the images as they were given, or the sentences. features: [n, dimension].
    is_normalised: whether each row has length one.
    """

    names: list[str]
    features: Floats
    model: dict[str, Any]
    is_normalised: bool

    def summary(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            **super().summary(),
            "dimension": self.features.shape[1],
            "features": str(self.written["features"]),
            "model": self.model,
            "normalised": self.is_normalised,
        }

    def sentences(self) -> list[str]:
        """What was written."""
        rows, dimension = self.features.shape
        noun = "image" if self.images else "text"
        return [f"{counted(rows, noun)}, {dimension} numbers per {noun}"]


def embed(images: Images = (), to: str | Path | Sequence[str] = (), **options: Any) -> EmbedResult:
    """Write features of images or sentences into files, as `captune embed`.

    images: folders, files and globs, or images in memory (`find_images`). to: FILE.npz,
    FILE.parquet or FILE.safetensors, or several. options: the fields of `EmbedOptions`, such as
    texts="sentences.txt", normalise=True. Raises UserError for what cannot be done.
    """
    return run(from_python(EmbedOptions, images=images, to=to, **options))


@takes_shards("embed")
def run(
    options: EmbedOptions,
    progress: Progress = SILENT,
    *,
    command: Sequence[str] = (),  # noqa: ARG001  # there is no run to keep it in
) -> EmbedResult:
    """Encode images or sentences and write them.

    Raises UserError for a file type that is not known, for no sentences or images to read, and for
    sentences where the model reads none.
    """
    paths = row_paths(options.to, _FORMS)
    read = files_among(*options.images)
    if options.texts is not None:
        read["texts"] = options.texts
    check_outputs(read, {}, None, paths)
    texts = None if options.texts is None else _sentences(options.texts)
    found = find_images(options.images, limit=options.limit) if texts is None else None
    _check_names(paths, [one.spelled for one in found.images] if found else list(texts or ()))
    skipped = [] if found is None else list(found.skipped)
    model = kept_model(load_model, options)
    if texts is not None and model.text is None:
        raise UserError(f"{model.spec} has no text side, so it embeds images alone")
    with cache_for(options) as cache:
        if found is not None:
            how = Encoding.of(options, cache)
            images, features = encode_all(
                found.images, model, how, skipped=skipped, progress=progress
            )
            names = [image.spelled for image in images]
        else:
            assert texts is not None
            assert model.text is not None
            names, features = texts, encode_texts(texts, model.text, cache=cache)
    if options.normalise:
        features = normalise(features)
    result = EmbedResult(
        images=0 if found is None else len(names),
        skipped=skipped,
        names=names,
        features=features,
        model=describe_model(model),
        is_normalised=bool(np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3)),
        found=found,
    )
    for number, path in enumerate(paths, 1):
        with whole_file(path, "wb") as file:
            _write(file, path.suffix.lower(), result, "paths" if texts is None else "texts")
        result.written["features" if number == 1 else f"features {number}"] = path
    return result


def _sentences(path: Path) -> list[str]:
    texts = [line.strip() for line in lines_of(read_text(str(path))) if line.strip()]
    if not texts:
        raise UserError(f"{printable(path)} holds no sentence; write one per line")
    longest = max(map(len, texts))
    if longest > _LONGEST_SENTENCE:
        raise UserError(
            f"{printable(path)} holds a line of {longest:,} characters; a sentence has at"
            f" most {_LONGEST_SENTENCE:,}"
        )
    return texts


def _check_names(paths: Sequence[Path], names: Sequence[str]) -> None:
    """NumPy keeps texts in rows as wide as the longest one, four bytes a character."""
    size = 4 * len(names) * max(map(len, names), default=0)
    for path in paths:
        if path.suffix.lower() == ".npz" and size > _MOST_NAMES:
            raise UserError(
                f"--to {printable(path)}: rows as wide as the longest text take"
                f" {size / 1e9:.1f} GB in an .npz; write .parquet or .safetensors"
            )


def _write(file: Any, ending: str, result: EmbedResult, title: str) -> None:
    names = [in_utf8(name) for name in result.names]
    about = {**result.model, "normalised": result.is_normalised}
    features = np.ascontiguousarray(result.features, dtype=np.float32)
    if ending == ".npz":
        named: dict[str, Any] = {title: np.array(names)}
        np.savez(file, features=features, metadata=np.array(json.dumps(about)), **named)
    elif ending == ".safetensors":
        from safetensors.numpy import save

        told = {"captune": json.dumps(about), title: json.dumps(names)}
        file.write(save({"features": features}, told))
    else:
        arrow = parquet()
        flat = arrow.array(features.reshape(-1))
        column = arrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
        table = arrow.table({title: arrow.array(names), "features": column})
        with parquet_writer(file, table.schema, about) as writer:
            writer.write_table(table)
