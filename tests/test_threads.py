"""Threads are settled before torch is imported, where the user said nothing of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from captune import threads

SAID = "import os; print(*(os.environ.get(name) for name in ('GOMP_SPINCOUNT', 'OMP_NUM_THREADS')))"


def settled(code: str = "import captune; ", **said: str) -> str:
    """What a process of its own has in the end."""
    environment = {
        name: value for name, value in os.environ.items() if name not in threads.VARIABLES
    }
    return subprocess.run(
        [sys.executable, "-c", code + SAID],
        env=environment | said,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_what_the_user_left_open_is_settled() -> None:
    assert settled().split()[0] in ("1000", "10000")
    assert settled(OMP_NUM_THREADS="3") == "None 3"
    assert settled(OMP_WAIT_POLICY="ACTIVE") == "None None"
    assert settled("import sys; sys.modules['torch'] = sys; import captune; ") == "None None"
    # a process that captune starts has the same
    assert settled(GOMP_SPINCOUNT="77").split()[0] == "77"


def test_beside_another_computing_process_threads_hardly_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for computing, spins in ((1, "10000"), (2, "1000")):
        monkeypatch.setattr(threads, "_computing", lambda found=computing: found)
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        threads.settle_threads()
        assert os.environ["GOMP_SPINCOUNT"] == spins
    assert "OMP_NUM_THREADS" not in os.environ

    # a container that grants one and a half of eight
    monkeypatch.setattr(threads, "_allowed", lambda: 8)
    monkeypatch.setattr(threads, "_quota", lambda: 1.5)
    monkeypatch.delenv("GOMP_SPINCOUNT")
    threads.settle_threads()
    assert os.environ["OMP_NUM_THREADS"] == str(threads.processors()) == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("GOMP_SPINCOUNT")


def test_the_quota_of_a_container_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n"}
    monkeypatch.setattr(threads, "_read", lambda path: files[str(Path(path))])
    assert threads._quota() == 1.5
    files["/sys/fs/cgroup/cpu.max"] = "max 100000\n"
    monkeypatch.setattr(threads, "_allowed", lambda: 8)
    assert threads._quota() == threads.processors() == 8
