"""What is inside a checkpoint: its tensors, read without running code, and their content hash."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captune import storage
from captune.errors import UserError
from captune.files import whole_file
from captune.json_yaml import read_object
from captune_metrics.display import printable, quoted
from captune_metrics.files import open_regular, read_regular

logger = logging.getLogger("captune")

# Names as in safetensors, so that one set of tensors has one id in either container.
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # in timm's order
_LARGEST_SMALL_FILE = 64 * 2**20
_ID = re.compile(r"[0-9a-f]{64}")


_MOST_DIMENSIONS = 32
_LONGEST_HEADER = 16 * 2**20  # bytes; 100,000 tensors have 10 MB of header
FLOATING = {"F16", "BF16", "F32", "F64"}  # F8 is of no use without the scales beside it


class TensorInfo(NamedTuple):
    """dtype: as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]


def safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name.

    Raises UserError unless the header accounts for every byte of the file exactly once, and for a
    tensor of more sides than any model has.
    """
    with opened_safetensors(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {
            name: TensorInfo(part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices.items()
        }
    for name, tensor in found.items():
        if len(tensor.shape) > _MOST_DIMENSIONS:
            raise UserError(
                f"{printable(path)}: {quoted(name)} has {len(tensor.shape):,} dimensions;"
                f" expected {_MOST_DIMENSIONS} at most"
            )
    return found


@contextmanager
def opened_safetensors(path: Path) -> Iterator[Any]:
    """The file as safetensors' `safe_open` maps it for torch; UserError for a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path) as file:  # the library would wait for a pipe
            length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:  # and take a minute and a gigabyte for a million tensors
            raise SafetensorError(f"its header would be {length:,} bytes long")
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        what = f"{path} is not a complete safetensors file ({reason})"
        raise UserError(printable(what)) from None


def require_floating(tensors: Mapping[str, TensorInfo], where: object) -> None:
    """Raise UserError for weights that are whole numbers, or in a precision of too few bits.

    Masks and counters, which many checkpoints hold besides, are not called `weight`.
    """
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.dtype not in FLOATING:
            raise UserError(
                f"{printable(f'{where}: {name}')} is of {tensor.dtype}; captune reads weights in"
                f" {', '.join(sorted(FLOATING))}"
            )


def total_elements(tensors: Iterable[TensorInfo]) -> int:
    """Numbers in all of them."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU.

    Anything but .safetensors is a pickle: read with weights_only=True, which builds tensors and
    plain containers and runs nothing, and said aloud. Training checkpoints are unwrapped
    (`state_dict` and the like, a `module.` in front of every name).
    Raises UserError for a TorchScript archive, for a pickle that holds more than tensors, and for a
    damaged file.
    """
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    refuse_torchscript(path)
    warn_pickle(path)
    return _pickled(path)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU; UserError for a damaged one."""
    with opened_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def refuse_torchscript(path: Path) -> None:
    """Raise UserError for a TorchScript archive, such as OpenAI's own .pt files.

    Loading one runs the program inside it, and torch.load(weights_only=True) rightly will not.
    """
    if any(entry.filename.endswith("/constants.pkl") for entry in _archive(path)):
        raise UserError(
            f"{path}: a TorchScript archive runs its own code when it is loaded; use the same "
            "weights as safetensors (OpenAI's: open_clip:ViT-B-32/openai and its siblings)"
        )


def warn_pickle(*files: Path) -> None:
    """One line for the user for each file that is no safetensors, before something reads it."""
    for file in files:
        if file.suffix != ".safetensors":
            logger.warning(
                "%s is a pickle: only tensors are taken from it (weights_only=True)", file.name
            )


def describe_tensors(files: Path | Sequence[Path]) -> dict[str, TensorInfo]:
    """Precision and shape of each tensor of a checkpoint, or of all files of a sharded one.

    Of safetensors only the header is read. Raises UserError as `load_state`.
    """
    found: dict[str, TensorInfo] = {}
    for file in (files,) if isinstance(files, Path) else files:
        if file.suffix == ".safetensors":
            found |= safetensors_header(file)
        else:
            tensors = _pickled(file)
            found |= {name: TensorInfo(_dtype_of(t), tuple(t.shape)) for name, t in tensors.items()}
    return found


def weights_id_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the sorted (name, dtype, shape, bytes) of `tensors`, as 64 hex digits."""
    return _id_of((name, _dtype_of(t), t) for name, t in sorted(tensors.items()))


def _id_of(entries: Iterable[tuple[str, str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, dtype, tensor in entries:
        digest.update(f"{name}\0{dtype}\0{'x'.join(map(str, tensor.shape))}\0".encode())
        content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(content)
    return digest.hexdigest()


def _dtype_of(tensor: Tensor) -> str:
    return DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))


def weights_id_of_file(path: Path | Sequence[Path]) -> str:
    """weights_id_of_tensors of a checkpoint file, or of all files of a sharded one.

    Renaming, copying or repacking the container changes nothing. Remembered by (path, size, mtime),
    so a known file costs a look-up.
    """
    files = sorted((path,) if isinstance(path, Path) else path)
    key = digest_of([[str(f.resolve()), (s := f.stat()).st_size, s.st_mtime_ns] for f in files])
    place = storage.cache_folder() / "weights-ids" / key
    with suppress(OSError):
        known = place.read_bytes().decode(errors="replace")
        if _ID.fullmatch(known):
            return known
    if all(file.suffix == ".safetensors" for file in files):
        found = _id_of(stored_tensors(files))
    else:
        merged: dict[str, Tensor] = {}
        for file in files:
            merged.update(_pickled(file))
        found = weights_id_of_tensors(merged)
    with suppress(UserError), whole_file(place) as remembered:  # else it is no harm
        remembered.write(found)
    return found


class NoRandomValues(TorchFunctionMode):
    """Within: layers are built without drawing initial values, most of a large model's build time.

    Only for models whose every parameter is then loaded (strictly) from a checkpoint.
    """

    _DRAWS = frozenset(
        (
            *(Tensor.uniform_, Tensor.normal_, Tensor.erfinv_),
            # These announce themselves, and then draw where this mode no longer looks.
            *(nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.kaiming_uniform_),
            *(nn.init.kaiming_normal_, nn.init.xavier_uniform_, nn.init.xavier_normal_),
        )
    )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Leave the tensor of a drawing call as it is; run any other."""
        kwargs = kwargs or {}
        if func in self._DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def choose_weights(names: Sequence[str], where: str) -> list[str]:
    """The files of a transformers checkpoint among `names`, with config.json.

    Raises UserError naming the missing part.
    """
    if "config.json" not in names:
        raise UserError(f"{where} has no config.json, so its architecture is unknown")
    weights = next((name for name in TRANSFORMERS_WEIGHTS if name in names), None)
    if weights is None:
        raise UserError(f"{where} has no weights (expected model.safetensors)")
    chosen = ["config.json", weights]
    if weights.endswith(".index.json"):
        ending = weights.removesuffix(".index.json").rpartition(".")[2]
        # the index itself says which shards exist
        chosen += [name for name in names if name.endswith(f".{ending}") and "-of-" in name]
    return chosen


def weights_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """The first of `names` in `folder`: one file, or all shards of an index; [] if none is there.

    A name may end in `.index.json`: the shards that it lists, all of which must exist.
    """
    for name in names:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        shards = _shards_of(path)
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise UserError(f"{path} names {missing[0]}, which is missing; fetch the folder again")
        return [folder / shard for shard in shards]
    return []


def _shards_of(index: Path) -> list[str]:
    """The files that an index names, all of them beside it; UserError for one that names others."""
    places = read_object(index, _LARGEST_SMALL_FILE).get("weight_map")
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{printable(index)} names no files of weights (weight_map)")
    for name in names:
        if name != Path(name).name or "\\" in name or "\0" in name:
            shown = printable(f"{index} names {name[:80]}")
            raise UserError(f"{shown}, which is not a file beside it; fetch the folder again")
    return sorted(set(names))


def digest_of(*parts: object) -> str:
    """sha256 of anything JSON can hold: what a cache key depends on besides the tensors."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest_of_files(files: Iterable[Path]) -> str:
    """sha256 over names and bytes of small files (a tokenizer)."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        try:
            content = read_regular(file, _LARGEST_SMALL_FILE)
        except OSError as error:
            raise UserError(f"{printable(file)} cannot be read ({error.strerror})") from None
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def stored_tensors(files: Sequence[Path]) -> Iterator[tuple[str, str, Tensor]]:
    """(name, dtype as safetensors names it, tensor) of all that the files hold, by name.

    Each through a mapping of its own, which ends with it: read in turn they never take the memory
    of all of them.
    """
    places = {name: file for file in files for name in safetensors_header(file)}
    for name, file in sorted(places.items()):
        with opened_safetensors(file) as mapped:
            yield name, mapped.get_slice(name).get_dtype(), mapped.get_tensor(name)


def _archive(path: Path) -> list[zipfile.ZipInfo]:
    """What a zip archive holds; nothing for another file. Raises UserError for a damaged one."""
    shown = printable(path)
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):
                return []
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise UserError(f"{shown}: not a complete PyTorch checkpoint ({error})") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(
            f"{shown} is a compressed archive, which PyTorch does not write; take the weights as"
            " they were published"
        )
    return entries


def _pickled(path: Path) -> dict[str, Tensor]:
    shown = printable(path)
    _archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that are refused below
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{shown} holds Python objects besides tensors, and unpickling those may run any code;"
            " convert it to safetensors where you trust it"
        ) from None
    except Exception as error:  # whatever bytes make of the reader: it is torch's, they are not
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shown}: not a complete PyTorch checkpoint ({reason})") from None
    return _unwrap(checkpoint, shown)


def _unwrap(checkpoint: object, shown: str) -> dict[str, Tensor]:
    if isinstance(checkpoint, dict):
        for wrapper in _WRAPPERS:
            if isinstance(checkpoint.get(wrapper), dict):
                checkpoint = checkpoint[wrapper]
                break
    held = checkpoint.items() if isinstance(checkpoint, dict) else ()
    tensors = {n: v for n, v in held if isinstance(n, str) and isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{shown} holds no named tensors; expected a model's state dict")
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise UserError(
                f"{shown}: {printable(name)} is not a plain tensor with a number of its own in each"
                " place; convert it to safetensors"
            )
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is made of as many bytes as it shows: not sparse, quantised, or one value spread.

    A tensor of a few bytes can claim any shape, and the first copy of it takes all of that.
    """
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
