"""Checkpoints are read without running code, and named by their tensors."""

import logging
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from captune.errors import UserError
from captune.models import weights
from captune.models.devices import resolve_device, resolve_dtype, resolve_precision

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor(2.5),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "ids": torch.arange(4),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 5, dtype=torch.float16),
}


@pytest.fixture
def files(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", {"note": "metadata is no weight"})
    torch.save(TENSORS, tmp_path / "model.bin")
    torch.save({"state_dict": {f"module.{k}": v for k, v in TENSORS.items()}}, tmp_path / "run.pt")
    return tmp_path


def test_one_id_for_one_set_of_tensors(files):
    expected = weights.weights_id_of_tensors(TENSORS)
    assert len(expected) == 64
    for name in ("model.safetensors", "model.bin", "run.pt"):
        assert weights.weights_id_of_file(files / name) == expected


def test_shards_have_the_id_of_the_whole(files):
    names = sorted(TENSORS)
    parts = [files / "model-1.safetensors", files / "model-2.safetensors"]
    save_file({n: TENSORS[n] for n in names[::2]}, parts[0])
    save_file({n: TENSORS[n] for n in names[1::2]}, parts[1])
    assert weights.weights_id_of_file(parts) == weights.weights_id_of_tensors(TENSORS)


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.tensor(2.25)},
        {"a": torch.tensor([2.5])},
        {"a": torch.tensor(2.5, dtype=torch.float64)},
        {"b": torch.arange(6, dtype=torch.float32).reshape(3, 2)},
        {"c": torch.zeros(1)},
    ],
)
def test_any_change_changes_the_id(change):
    assert weights.weights_id_of_tensors({**TENSORS, **change}) != weights.weights_id_of_tensors(
        TENSORS
    )


def test_a_known_file_is_not_read_again(files, monkeypatch):
    path = files / "model.safetensors"
    known = weights.weights_id_of_file(path)
    monkeypatch.setattr(weights, "_id_of", lambda _: "ab" * 32)
    assert weights.weights_id_of_file(path) == known
    save_file({"a": torch.zeros(1)}, path)
    assert weights.weights_id_of_file(path) == "ab" * 32


def test_a_cache_that_cannot_be_written_is_no_error(files, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAPTUNE_CACHE", str(tmp_path / "file" / "cache"))
    expected = weights.weights_id_of_tensors(TENSORS)
    assert weights.weights_id_of_file(files / "model.safetensors") == expected


def test_load_state(files, caplog):
    for name, spoken in (("model.safetensors", False), ("model.bin", True), ("run.pt", True)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "captune"):
            state = weights.load_state(files / name)
        assert state.keys() == TENSORS.keys()
        assert all(torch.equal(state[key], TENSORS[key]) for key in TENSORS)
        assert [record.getMessage() for record in caplog.records] == (
            [f"{name} is a pickle: only tensors are taken from it (weights_only=True)"]
            if spoken
            else []
        )


class Malicious:
    """Pickles to a call of print."""

    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    torch.save({"a": torch.zeros(1), "b": Malicious()}, tmp_path / "bad.pt")
    (tmp_path / "bare.bin").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("bad.pt", "bare.bin"):
        with pytest.raises(UserError, match="Python objects besides tensors"):
            weights.load_state(tmp_path / name)
    assert "code ran" not in capsys.readouterr().out


def test_torchscript_is_refused_with_the_way_out(tmp_path):
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__/model.py", "version"):
            archive.writestr(f"ViT-B-32/{name}", b"")
    with pytest.raises(UserError, match="TorchScript archive runs its own code"):
        weights.load_state(tmp_path / "ViT-B-32.pt")


def test_damaged_files_are_refused(files):
    for name in ("model.safetensors", "model.bin"):
        whole = (files / name).read_bytes()
        (files / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match="not a complete"):
            weights.load_state(files / name)
        with pytest.raises(UserError, match="not a complete"):
            weights.weights_id_of_file(files / name)
    (files / "nothing.pt").write_bytes(b"")
    with pytest.raises(UserError, match="not a complete"):
        weights.load_state(files / "nothing.pt")


def test_devices_and_dtypes(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.float16
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps", "tpu", "cuda:x"):
        with pytest.raises(UserError, match=name):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto") == torch.device("cuda")
    with pytest.raises(UserError, match="1 GPU"):
        resolve_device("cuda:1")
    with pytest.raises(UserError, match="dtype 'fp8'"):
        resolve_dtype("fp8", torch.device("cpu"))


@pytest.mark.parametrize(
    ("tiles", "products", "expected"),
    [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "bfloat16")],
)
def test_a_cpu_trains_in_what_it_multiplies_fastest(monkeypatch, tiles, products, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: products)
    assert resolve_precision("auto", torch.device("cpu")) == expected
    assert resolve_precision("float32", torch.device("cpu")) == "float32"
