"""Where the files of a dataset lie, on a disk or in the hub's cache, and the parts they have."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from captune.errors import MissingExtra, Offline, UserError
from captune.json_yaml import read_object
from captune.storage import is_offline
from captune_metrics.display import printable

logger = logging.getLogger("captune")

HUB = "hf:"
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"(?:.*[/-])?(?P<split>[\w.]+)-\d+-of-\d+(?:-\w+)?\.(?:parquet|arrow)")
_LARGEST_GROUP = 4 * 2**30  # bytes of a column of Parquet that are decompressed at once


@dataclass(frozen=True)
class RowGroup:
    """Rows that are loaded together: a file of Arrow, or a row group of Parquet."""

    rows: int
    schema: Any
    load: Callable[[list[str]], Any]


def spellings(split: str) -> list[str]:
    """The split as it was asked for, then what else it is called."""
    return [split, *next((same for same in _SPLITS.values() if split in same), ())]


def files_by_split(root: Path) -> dict[str, list[Path]]:
    """Files of Arrow or Parquet; none for a folder of image files."""
    if (root / "dataset_dict.json").is_file():
        listed = read_object(root / "dataset_dict.json").get("splits")
        names = [name for name in listed if _is_name(name)] if isinstance(listed, list) else []
        return {name: _saved(root / name)[1] for name in names}
    if (root / "state.json").is_file():
        name, files = _saved(root)
        return {name: files}
    found: dict[str, list[Path]] = {}
    patterns = ("*.arrow", "*.parquet", "*/*.parquet", "*/*/*.parquet")
    files = [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]
    for path in files:
        # the library `datasets` keeps what it computed beside what it fetched
        if path.name != "metadata.parquet" and not path.name.startswith("cache-"):
            found.setdefault(_split_of(path.relative_to(root).as_posix()), []).append(path)
    return found


def _split_of(name: str) -> str:
    """By the name of a file, as the library `datasets` tells them apart."""
    if shard := _SHARD.fullmatch(name):
        return shard["split"]
    if name.endswith(".arrow"):  # of the hub's cache: NAME-SPLIT.arrow
        return name.removesuffix(".arrow").rpartition("-")[2]
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next(
        (split for split, same in _SPLITS.items() if not {*words}.isdisjoint(same)), "train"
    )


def _saved(folder: Path) -> tuple[str, list[Path]]:
    """Split and files of a dataset that `save_to_disk` wrote."""
    state = read_object(folder / "state.json")
    listed = state.get("_data_files")
    files = [one.get("filename") for one in listed] if isinstance(listed, list) else []
    if not files or not all(map(_is_name, files)):
        raise UserError(f"{printable(folder)}: state.json names no files of its folder")
    split = state.get("_split")
    return str(split) if _is_name(split) else "train", [folder / name for name in files]


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and PurePath(name).name == name


def parts_of(path: Path) -> list[RowGroup]:
    """Of one file. Raises UserError for a damaged one, and MissingExtra."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("a dataset", "datasets") from None
    shown = printable(path)
    if not path.is_file():
        raise UserError(f"{shown} is not a file of a dataset; save the dataset again")
    try:
        if path.suffix == ".parquet":
            return list(_groups(path, pyarrow.parquet.ParquetFile(path)))
        mapped = pyarrow.memory_map(str(path))
        is_file = mapped.read(6) == b"ARROW1"  # the other form, which ends in a table of contents
        mapped.seek(0)
        table = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(mapped).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown} is damaged ({printable(error)[:120]})") from None
    return [RowGroup(len(table), table.schema, table.select)]


def _groups(path: Path, file: Any) -> Iterator[RowGroup]:
    schema = file.schema_arrow
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        sizes = [group.column(i).total_uncompressed_size for i in range(group.num_columns)]
        if max(sizes, default=0) > _LARGEST_GROUP:
            raise UserError(
                f"{printable(path)}: row group {number} is over {_LARGEST_GROUP / 2**30:.0f}"
                " GiB; write the file with smaller row groups"
            )

        def load(columns: list[str], number: int = number) -> Any:
            return file.read_row_group(number, columns=columns, use_threads=False)

        yield RowGroup(group.num_rows, schema, load)


def fetched(place: str) -> dict[str, list[Path]]:
    """The Arrow files of a dataset of the hub, by split; downloaded where they are not here yet."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra(f"{printable(place)} of the hub", "datasets") from None
    parts = place.removeprefix(HUB).split("/", 2)
    repo, config = "/".join(parts[:2]), parts[2] if len(parts) > 2 else None
    if not is_offline():
        logger.warning("asking the hub for the dataset %s", printable(repo))
    try:
        with _as_captune(datasets):
            found = datasets.load_dataset(repo, config)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])[:200]
        if is_offline():
            raise Offline(
                f"captune is offline and the dataset {printable(repo)} is not in the hub's cache"
                f" here ({reason}); give a folder that save_to_disk wrote"
            ) from None
        raise UserError(f"{printable(place)}: the hub does not give it ({reason})") from None
    return {
        split: [Path(file["filename"]).resolve() for file in rows.cache_files]
        for split, rows in found.items()
    }


@contextmanager
def _as_captune(datasets: Any) -> Iterator[None]:
    """Within: no network where captune is offline, no bars."""
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or is_offline()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def hub_cache() -> Path:
    """Where files lie that rows of a dataset of the hub name."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).resolve()


def loaded(part: RowGroup, columns: list[str], shown: str) -> Any:
    """These columns of a part of what is `shown`. Raises UserError where it is damaged."""
    import pyarrow

    try:
        table = part.load(columns)
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{shown} is damaged ({printable(error)[:120]})") from None
    return table
