"""Datasets of rows as Hugging Face's library writes them, made by pyarrow alone."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = {"red": (220, 20, 30), "green": (10, 200, 40), "blue": (20, 10, 210)}
NAMES = list(COLOURS)


def png(colour: str, size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, 30), COLOURS[colour]).save(file, "png")
    return file.getvalue()


def colour_rows(count: int = 6, captions: int = 2) -> list[dict[str, Any]]:
    """`count` images, red, green, blue and again; each with captions, and its class as a number."""
    return [
        {
            "image": {"bytes": png(NAMES[n % 3], 40 + n), "path": None},
            "caption": [f"a {NAMES[n % 3]} wall number {n}"] * captions,
            "label": n % 3,
        }
        for n in range(count)
    ]


def table(rows: Sequence[dict[str, Any]], **types: Any) -> Any:
    """Rows as a table, with the features noted as the library notes them."""
    import pyarrow as pa

    kinds = {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "caption": pa.list_(pa.string()),
        "label": pa.int64(),
        **types,
    }
    features = {
        "image": {"_type": "Image"},
        "caption": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
        "label": {"names": NAMES, "_type": "ClassLabel"},
    }
    known = {name: kind for name, kind in kinds.items() if name in rows[0]}
    noted = {name: features[name] for name in known if name in features}
    metadata = {"huggingface": json.dumps({"info": {"features": noted}})}
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(known.items()), metadata))


def save_split(folder: Path, rows: Sequence[dict[str, Any]], split: str, files: int = 1) -> None:
    """As `Dataset.save_to_disk`."""
    import pyarrow as pa

    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{files:05}.arrow" for n in range(files)]
    for n, name in enumerate(names):
        part = table(rows[n::files])
        with (
            pa.OSFile(str(folder / name), "wb") as file,
            pa.ipc.new_stream(file, part.schema) as to,
        ):
            to.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def save_splits(folder: Path, **splits: Sequence[dict[str, Any]]) -> Path:
    """As `DatasetDict.save_to_disk`."""
    for split, rows in splits.items():
        save_split(folder / split, rows, split)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def save_parquet(path: Path, rows: Sequence[dict[str, Any]], group: int = 4) -> None:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table(rows), path, row_group_size=group)
