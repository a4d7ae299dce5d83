"""A model folder that somebody else may have made, looked through before a library reads it.

A library is shown a folder of its own, with nothing in it but what was looked at. Whatever it then
makes of that is a sentence about the folder. Weights in pickles are read by weights.py.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from threading import Thread, get_ident
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as registrations

from captune.errors import UserError
from captune.files import writing
from captune.json_yaml import read_object
from captune.models.quantised import check_stated, check_tensors
from captune.models.weights import (
    DTYPE_NAMES,
    FLOATING,
    TRANSFORMERS_WEIGHTS,
    TensorInfo,
    describe_tensors,
    refuse_torchscript,
    require_floating,
    stored_tensors,
    total_elements,
    warn_pickle,
    weights_files,
)
from captune_metrics.display import printable, shorten

_DEEPEST = 32
# what is built, or run, so many times
_REPEATED = re.compile(r".*(layer|depth|block|repeat|stage)s?")
_MOST_REPEATS = 1024
_COUNTED = re.compile(r"(num|n)_.*")
_MOST_COUNTED = 2**24
_LARGEST_NUMBER = 2**53
_KERNELS = ("eager", "sdpa", None)
_MOST_BUFFER_BYTES = 2**29
_LONGEST_S = 10
T = TypeVar("T")


def read_config(path: Path, *, quantised: bool = False) -> dict[str, Any]:
    """What a model's config says, with numbers that a model can have.

    quantised: weights may be so (`models.quantised`). Raises UserError as `read_object`, and for
    what captune never does: code, files and kernels from elsewhere, and weights that are not stored
    as numbers of their own.
    """
    config = read_object(path)
    check_numbers(config, path)
    for name in ("quantization_config", "transformers_weights"):
        if config.get(name) is not None and not (quantised and name.startswith("quant")):
            raise UserError(
                f"{printable(path)}: states {name}, which captune does not read; take the"
                " model as it was published in float16, bfloat16 or float32"
            )
    for name, value in _walk(config, path):
        if name in ("attn_implementation", "_attn_implementation") and value not in _KERNELS:
            raise UserError(f"{printable(path)}: {name} is {_shown(value)}; captune runs sdpa")
    return config


def check_numbers(config: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for numbers that would be built or run without end, and for deep nesting."""
    for name, value in _walk(config, path):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        most: float = _LARGEST_NUMBER
        if isinstance(value, int) and _REPEATED.fullmatch(name):
            most = _MOST_REPEATS
        elif isinstance(value, int) and _COUNTED.fullmatch(name):
            most = _MOST_COUNTED
        elif isinstance(value, float):
            most = math.inf
        if abs(value) > most:
            raise UserError(
                f"{printable(f'{path}: {name}')} is {_shown(value)}; {most:,} is the most that"
                " captune reads there"
            )


def require_numbers(values: Any, count: int, where: str, *, above: float = -math.inf) -> None:
    """Raise UserError unless it is a list of so many finite numbers, each larger than `above`."""
    is_list = isinstance(values, list | tuple) and len(values) == count
    if not is_list or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and above < v < math.inf
        for v in values
    ):
        more = f" above {above:g}" if above > -math.inf else ""
        raise UserError(f"{where} is {_shown(values)}; expected {count} finite numbers{more}")


@contextmanager
def staged(files: Mapping[str, Path | Mapping[str, Any]]) -> Iterator[Path]:
    """A folder that holds these files and no others: links, and JSON as it was looked at."""
    with ExitStack() as stack:
        with writing(Path(gettempdir()), "no model was read"):
            place = Path(stack.enter_context(TemporaryDirectory(prefix="captune-")))
            for name, content in files.items():
                _put(content, place / name)
        yield place


def _put(content: Path | Mapping[str, Any], target: Path) -> None:
    if not isinstance(content, Path):
        target.write_text(json.dumps(content), encoding="utf-8")
        return
    try:
        target.symlink_to(content.absolute())
    except OSError:  # not everybody may make links, on Windows
        shutil.copyfile(content, target)


def staged_weights(files: Sequence[Path]) -> dict[str, Path | Mapping[str, Any]]:
    """Weights, or the shards of one index, under the names that transformers looks for."""
    suffix = files[0].suffix
    name = f"{'model' if suffix == '.safetensors' else 'pytorch_model'}{suffix}"
    if len(files) == 1:
        return {name: files[0]}
    # which tensor is where, every shard says itself
    places = {str(number): file.name for number, file in enumerate(files)}
    index = {"metadata": {}, "weight_map": places}
    return {f"{name}.index.json": index, **{file.name: file for file in files}}


@contextmanager
def library_errors(what: str, *hidden: Path) -> Iterator[None]:
    """Turns whatever a model library raises over somebody's files into a sentence.

    what: the beginning of the sentence. hidden: staged folders, whose names tell a reader nothing.
    Nothing but calls of the library belongs within: a mistake of captune's must stay one.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        # tokenizers is Rust, whose panics are no Exception
        is_panic = type(error).__name__ == "PanicException"
        if not isinstance(error, Exception) and not is_panic:
            raise
        text = str(error)
        for place in hidden:
            text = text.replace(f"{place}/", "").replace(str(place), "the folder")
        reason = printable(" ".join(text.split())[:160]) or type(error).__name__
        if "trust_remote_code" in text:
            reason = "it needs code from its repository, which captune never runs"
        if "ignore_mismatched_sizes" in text:  # the shapes stand in a table that nobody sees
            reason = "its weights have other shapes than its config.json asks for"
        raise UserError(f"{what} ({reason})") from error


@contextmanager
def no_larger_than(
    tensors: Mapping[str, TensorInfo], where: object, room: int = 2
) -> Iterator[None]:
    """Within: a model is built that these weights can fill, or UserError is raised.

    Tied weights are built twice and merged ones apart, so there is room for twice as much.
    """
    thread = get_ident()

    def counting(most: int, what: str, size_of: Callable[[Any], int]) -> Callable[..., None]:
        """A hook that refuses more than `most` in all. what: there would be, for the sentence."""
        sizes: dict[tuple[int, str], int] = {}
        total = 0

        def count(module: nn.Module, name: str, value: Any) -> None:
            nonlocal total
            if value is None or get_ident() != thread:
                return
            key = (id(module), name)  # of what is replaced, the new one counts
            size = size_of(value)
            total += size - sizes.get(key, 0)
            sizes[key] = size
            if total > most:
                raise UserError(
                    f"{printable(where)}: its config asks for {what} than its weights hold; they"
                    " are not of one model"
                )

        return count

    elements = room * total_elements(tensors.values()) + 2**24
    limits: dict[str, tuple[int, str, Callable[[Any], int]]] = {
        "parameter": (elements, "more, or larger, layers", torch.Tensor.numel),
        "buffer": (_MOST_BUFFER_BYTES, "larger tables", lambda value: value.nbytes),
        "module": (64 * len(tensors) + 20_000, "more layers", lambda value: 1),
    }
    with ExitStack() as stack:
        for kind, limit in limits.items():
            register = getattr(registrations, f"register_module_{kind}_registration_hook")
            stack.enter_context(register(counting(*limit)))
        yield


def vetted_weights(
    files: Sequence[Path], dtype: torch.dtype, where: object, *, bits: str | None = None
) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint that can be read without running code and fits into memory.

    bits: 8bit or 4bit, of weights that are quantised. Warns of a pickle. Raises UserError for a
    TorchScript archive, a damaged file, a precision of too few bits, and for more than this
    machine's memory can hold in `dtype`.
    """
    for file in files:
        refuse_torchscript(file)
    warn_pickle(*files)
    tensors = describe_tensors(files)
    if bits is None:
        require_floating(tensors, where)
    else:
        check_tensors(files, tensors, bits, where)
    require_memory(tensors, dtype if bits is None else torch.int8, where)
    return tensors


@dataclass(frozen=True)
class Checkpoint:
    """The config and the weights of a folder in the layout of save_pretrained, looked through.

    tensors: what the weights hold. dtype: what the model is built in.
    """

    files: list[Path]
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    dtype: torch.dtype
    spec: object

    @property
    def parts(self) -> dict[str, Path | Mapping[str, Any]]:
        """For `staged`."""
        return {"config.json": self.config, **staged_weights(self.files)}

    def build(self, auto_class: Any, place: Path, config: Any, broken: str, **how: Any) -> Any:
        """The model on the CPU, in eval mode, every parameter from the checkpoint.

        auto_class: of transformers. place: where `parts` are staged. broken: begins the sentence
        about what transformers cannot build. how: as of `quantised.how_to_load`.
        """
        # layers of packed numbers are built beside those that they replace
        room = 8 if how else 2
        with library_errors(broken, place), no_larger_than(self.tensors, self.spec, room):
            model, report = auto_class.from_pretrained(
                place,
                config=config,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **{"dtype": self.dtype, **how},
            )
        untrained = sorted(report["missing_keys"]) + [str(m) for m in report["mismatched_keys"]]
        if untrained:
            raise UserError(
                f"{self.spec}: the weights leave {len(untrained)} parameters of"
                f" {type(model).__name__} at random ({untrained[0]}, ...); this checkpoint is of"
                " another model"
            )
        return model.eval()

    def require_finite(self, model: nn.Module) -> None:
        """As `vetting.require_finite`, of the model that `build` made and nothing changed.

        What is stored in the precision that was asked for is looked at in its files: in the model
        it is a mapping of them, of which only that part takes memory which something has read, and
        a pass reads a few rows of an embedding.
        """
        precisions = {tensor.dtype for tensor in self.tensors.values()} & FLOATING
        is_mapped = all(file.suffix == ".safetensors" for file in self.files)
        is_same = is_mapped and precisions == {DTYPE_NAMES.get(self.dtype)}
        if not is_same or not all(_is_finite(t) for _, _, t in stored_tensors(self.files)):
            require_finite(model, self.spec)  # which holds no more of them than it takes


def read_checkpoint(
    folder: Path, dtype: torch.dtype, spec: object, *, quantised: bool = False
) -> Checkpoint:
    """Look through a folder in the layout of save_pretrained; of weights only sizes are read."""
    files = weights_files(folder, TRANSFORMERS_WEIGHTS)
    if not files:
        raise UserError(f"{printable(spec)}: its weights are not a file")
    config = read_config(folder / "config.json", quantised=quantised)
    bits = check_stated(config, folder / "config.json")
    return Checkpoint(files, config, vetted_weights(files, dtype, spec, bits=bits), dtype, spec)


def in_time(what: str, work: Callable[..., T], *given: Any, **named: Any) -> T:
    """What `work` makes of these, of somebody's file that may keep it busy for ever.

    Raises UserError where it takes too long; its thread ends with the process.
    """
    made: Future[T] = Future()

    def run() -> None:
        try:
            made.set_result(work(*given, **named))
        except BaseException as error:
            made.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return made.result(timeout=_LONGEST_S)
    except TimeoutError:
        raise UserError(f"{printable(what)} takes more than {_LONGEST_S} s") from None


def require_memory(tensors: Mapping[str, TensorInfo], dtype: torch.dtype, where: object) -> None:
    """Raise UserError for weights that this machine's memory cannot hold, before they are read."""
    try:
        has = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows does not say
        return
    needed = total_elements(tensors.values()) * dtype.itemsize
    if needed > has:
        raise UserError(
            f"{printable(where)}: its weights take {needed / 1e9:.0f} GB of memory, and this"
            f" machine has {has / 1e9:.0f} GB"
        )


def require_finite(module: nn.Module, where: object) -> None:
    """Raise UserError where a parameter holds NaN or infinity; one pass over each."""
    with torch.inference_mode():
        for name, parameter in module.named_parameters():
            require_finite_tensor(parameter, name, where)


def require_finite_tensor(tensor: torch.Tensor, name: str, where: object) -> None:
    """The same for one tensor."""
    if not _is_finite(tensor):
        raise UserError(
            f"{printable(f'{where}: {name}')} holds values that are not finite numbers; the weights"
            " are damaged, or beyond the precision (--dtype float32)"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    # a sum takes half the time and no memory; it can overflow where no value does
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return bool(tensor.sum(dtype=wide).isfinite()) or bool(tensor.isfinite().all())


def _walk(content: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of an object and of what is in it; items of a list under its key."""
    left: list[tuple[str, Any, int]] = [(str(k), v, 1) for k, v in content.items()]
    while left:
        name, value, depth = left.pop()
        if depth > _DEEPEST:
            raise UserError(f"{printable(path)} is nested too deeply")
        yield name, value
        if isinstance(value, dict):
            left += [(str(k), v, depth + 1) for k, v in value.items()]
        elif isinstance(value, list):
            left += [(name, v, depth + 1) for v in value]


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        return "an absurd number"
    return printable(shorten(text, 40))
