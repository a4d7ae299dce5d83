"""The cache folder, the offline switch, and folders that appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from captune import storage
from captune.errors import Offline, UserError


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAPTUNE_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_cache_folder_is_named_by_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTUNE_CACHE", str(tmp_path / "mine"))
    assert storage.cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("CAPTUNE_CACHE", "")
    assert storage.cache_folder().name in ("captune", "Cache")


@pytest.mark.parametrize("name", ["CAPTUNE_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False)])
def test_offline_by_variable(
    name: str, value: str, expected: bool, online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert storage.is_offline() is expected


def test_offline_by_flag_reaches_the_hub_library(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    storage.set_offline(True)
    try:
        assert storage.is_offline()
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert constants.HF_HUB_OFFLINE is True
        with pytest.raises(Offline, match="captune is offline and lacks it; fetch it"):
            storage.refuse_offline("lacks it", "fetch it")
    finally:
        storage.set_offline(False)
    assert not storage.is_offline()
    assert "HF_HUB_OFFLINE" not in os.environ
    assert constants.HF_HUB_OFFLINE is False
    storage.refuse_offline("lacks it", "fetch it")


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing"

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise UserError("no")

    with pytest.raises(UserError):
        storage.install_folder(target, fail)
    assert list(target.parent.glob("thing*")) == []

    assert storage.install_folder(target, lambda folder: (folder / "a").write_text("a") and None)
    assert (target / "a").read_text() == "a"
    assert not storage.install_folder(target, fail)


def test_incomplete_folder_and_leftovers_are_replaced(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    target.mkdir()
    leftover = tmp_path / "thing.part-1-dead"
    leftover.mkdir()
    (leftover / "big").write_text("half")
    storage.install_folder(
        target,
        lambda folder: (folder / "a").write_text("a") and None,
        is_complete=lambda folder: (folder / "a").is_file(),
    )
    assert (target / "a").is_file()
    assert not leftover.exists()


def test_threads_build_once(tmp_path: Path) -> None:
    built: list[Path] = []
    threads = [
        threading.Thread(target=storage.install_folder, args=(tmp_path / "thing", built.append))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_lock_is_let_go_by_a_killed_process_and_says_when_it_waits(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from captune.storage import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    lock = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with storage.locked(lock, on_wait=holder.kill):
            assert holder.wait(10) != 0


def test_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model needs 1000000000000 MB, but the disk of .* has"):
        storage.require_space(tmp_path / "not" / "yet", 10**18, "model")
    storage.require_space(tmp_path, 1, "model")
