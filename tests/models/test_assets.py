"""Pinned assets: fetched once, checked, converted, whole; also when processes race or die."""

from __future__ import annotations

import errno
import hashlib
import importlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from captune.errors import Offline, UserError
from captune.models.lite import assets

CONTENT = b"published weights"

# A module that other processes import, too: the asset and its converter.
TINY_ASSET = f"""
import os, sys, time
from pathlib import Path
from captune.models.lite.assets import Asset, ensure
from captune.models.lite.assets import PinnedFile

ASSET = Asset("tiny weights", "tiny-pkg", "0.1.0", "MIT",
    (PinnedFile("pkg/weights.bin", {hashlib.sha256(CONTENT).hexdigest()!r}, {len(CONTENT)}),),
    1000, "tiny_asset:convert", 1)

def convert(source, target):
    (target / "model.safetensors").write_bytes(b"half")
    if os.environ.get("STOP_HALF_WAY"):
        print("half-way", flush=True)
        time.sleep(60)
    (target / "model.safetensors").write_bytes((source / "weights.bin").read_bytes() * 2)

if __name__ == "__main__":
    print(ensure([ASSET])[0], flush=True)
"""

# Plays pip: notes that it was called, takes a while, delivers.
PIP = """
import os, shutil, sys, time
with open(os.environ["PIP_CALLS"], "a") as calls:
    calls.write("called\\n")
time.sleep(1)
shutil.copy(os.environ["PIP_DELIVERS"], sys.argv[sys.argv.index("--dest") + 1])
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The tiny asset, a wheel of it in tmp_path/wheels, and a pip that delivers that wheel."""
    modules, folder = tmp_path / "modules", tmp_path / "wheels"
    (modules / "pip").mkdir(parents=True)
    folder.mkdir()
    (modules / "pip" / "__init__.py").write_text("")
    (modules / "pip" / "__main__.py").write_text(PIP)
    (modules / "tiny_asset.py").write_text(TINY_ASSET)
    wheel = folder / "tiny_pkg-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/weights.bin", CONTENT)
    source = str(Path(assets.__file__).parents[3])
    monkeypatch.setenv("PYTHONPATH", f"{modules}{';' if sys.platform == 'win32' else ':'}{source}")
    monkeypatch.setenv("PIP_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PIP_DELIVERS", str(wheel))
    for name in ("CAPTUNE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(str(modules))
    yield importlib.import_module("tiny_asset")
    sys.modules.pop("tiny_asset", None)


def calls_of_pip(tmp_path: Path) -> int:
    calls = tmp_path / "calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def assert_whole(asset: assets.Asset) -> None:
    assert asset.is_cached()
    assert sorted(path.name for path in asset.folder.iterdir()) == [
        "asset.json",
        "model.safetensors",
    ]
    assert (asset.folder / "model.safetensors").read_bytes() == CONTENT * 2
    left = {path.name for path in asset.folder.parent.iterdir()} - {asset.folder.name}
    assert left == {f".{asset.folder.name}.lock"}


def test_fetched_once_and_said_what(
    tiny: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not tiny.ASSET.is_cached()
    assert assets.ensure([tiny.ASSET]) == [tiny.ASSET.folder]
    assert_whole(tiny.ASSET)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "fetching tiny weights, needed once (MIT, 0 MB)" in printed.err
    assets.ensure([tiny.ASSET])
    assert calls_of_pip(tmp_path) == 1
    assert capsys.readouterr().err == ""
    manifest = json.loads((tiny.ASSET.folder / "asset.json").read_text())
    assert manifest["sources"] == {"pkg/weights.bin": hashlib.sha256(CONTENT).hexdigest()}


@pytest.mark.parametrize("extracted", [False, True])
def test_from_a_folder_needs_no_network(
    extracted: bool, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTUNE_OFFLINE", "1")
    if extracted:
        (tmp_path / "wheels" / "tiny_pkg-0.1.0-py3-none-any.whl").unlink()
        (tmp_path / "wheels" / "weights.bin").write_bytes(CONTENT)
    assets.ensure([tiny.ASSET], tmp_path / "wheels")
    assert_whole(tiny.ASSET)
    assert calls_of_pip(tmp_path) == 0


def test_refusals_are_one_sentence_and_leave_nothing(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"holds neither tiny_pkg-0.1.0-.*whl nor weights"):
        assets.ensure([tiny.ASSET], empty)
    with pytest.raises(UserError, match="no such folder"):
        assets.ensure([tiny.ASSET], tmp_path / "nowhere")
    with zipfile.ZipFile(empty / "tiny_pkg-0.1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("pkg/weights.bin", CONTENT.upper())
    with pytest.raises(UserError, match="checksum is wrong"):
        assets.ensure([tiny.ASSET], empty)
    monkeypatch.setenv("CAPTUNE_OFFLINE", "1")
    with pytest.raises(Offline, match="offline and has not fetched the tiny weights yet; run"):
        assets.ensure([tiny.ASSET])
    assert not tiny.ASSET.is_cached()
    assert not list(tiny.ASSET.folder.parent.glob("tiny*"))


def test_cache_that_cannot_be_written(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CAPTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write .* name another folder in CAPTUNE_CACHE"):
        assets.ensure([tiny.ASSET])


def test_full_disk(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def convert(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny, "convert", convert)
    with pytest.raises(UserError, match="the disk is full; make room"):
        assets.ensure([tiny.ASSET], tmp_path / "wheels")
    assert not list(tiny.ASSET.folder.parent.glob("tiny*"))


def test_truncated_cache_is_made_again(tiny: ModuleType, tmp_path: Path) -> None:
    assets.ensure([tiny.ASSET], tmp_path / "wheels")
    (tiny.ASSET.folder / "model.safetensors").write_bytes(b"half")
    assert not tiny.ASSET.is_cached()
    assets.ensure([tiny.ASSET], tmp_path / "wheels")
    assert_whole(tiny.ASSET)


def test_a_changed_file_is_refused_before_it_is_read(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = assets.verified([tiny.ASSET], tmp_path / "wheels")[0]
    weights = folder / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(bytes(len(before)))
    assets.verified([tiny.ASSET])  # once a process
    monkeypatch.setattr(assets, "_verified", set())
    with pytest.raises(UserError, match=r"model\.safetensors is not what captune wrote there"):
        assets.verified([tiny.ASSET])
    weights.write_bytes(before)
    assert assets.verified([tiny.ASSET]) == [folder]


def test_processes_that_start_at_once_fetch_once(tiny: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tiny_asset"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert outputs == [str(tiny.ASSET.folder)] * 3
    assert calls_of_pip(tmp_path) == 1
    assert_whole(tiny.ASSET)


def test_killed_in_the_middle_of_the_conversion(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOP_HALF_WAY", "1")
    command = [sys.executable, "-m", "tiny_asset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half-way\n"
        process.kill()
    assert not tiny.ASSET.is_cached()
    assert not tiny.ASSET.folder.exists()
    monkeypatch.delenv("STOP_HALF_WAY")
    assets.ensure([tiny.ASSET])
    assert_whole(tiny.ASSET)


def test_the_table_is_sound() -> None:
    for parts in assets.ASSETS.values():
        for part in parts:
            names = [file.name for file in part.files]
            assert len(set(names)) == len(names)
            assert all(len(file.sha256) == 64 for file in part.files)
            module, _, function = part.converter.partition(":")
            assert callable(getattr(importlib.import_module(module), function))
