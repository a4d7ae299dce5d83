"""`captune env`: what a bug report needs to say about a machine, without its secrets."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from captune.cli.console import print_json

_PACKAGES = (
    "captune-metrics",
    *("torch", "torchvision", "timm", "transformers", "open_clip_torch", "peft", "accelerate"),
    *("safetensors", "tokenizers", "huggingface_hub", "numpy", "scipy", "pillow", "pillow_heif"),
    *("matplotlib", "filelock", "platformdirs", "pip"),
)
# By name, never all of them: an environment holds tokens. Pip lists its own.
_VARIABLES = (
    *("CAPTUNE_CACHE", "CAPTUNE_OFFLINE", "HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE"),
    *("HF_ENDPOINT", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
)
_PIP_WAIT_S = 20


def run(arguments: argparse.Namespace) -> int:
    """Gather and print."""
    facts = _facts()
    if arguments.json:
        print_json("env", **facts)
        return 0
    for title, content in facts.items():
        print(f"{title}:")
        for name, value in content.items():
            print(f"  {name}: {value}")
    return 0


def _facts() -> dict[str, dict[str, Any]]:
    from captune import storage

    return {
        "versions": _versions(),
        "machine": {
            "os": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            **_devices(),
        },
        "paths": {
            "python": _masked(sys.executable),
            "captune": _masked(str(Path(__file__).parents[1])),
            "cache": _masked(str(storage.cache_folder())),
        },
        "caches": _caches(storage.cache_folder()),
        "network": {"offline": storage.is_offline(), **_pip_settings()},
        "environment": {
            name: _masked(os.environ[name]) for name in _VARIABLES if name in os.environ
        },
    }


def _versions() -> dict[str, str]:
    from captune.runs import versions

    every = dict.fromkeys(("captune", "python", *_PACKAGES), "not installed")
    return every | versions(_PACKAGES)


def _devices() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken installation is what a report is about
        return {"torch": f"cannot be imported ({error})"}
    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "threads": torch.get_num_threads(),
        "cuda": ", ".join(cuda) or "none",
        "cuda_of_torch": torch.version.cuda or "none",
        "mps": torch.backends.mps.is_available(),
    }


def _caches(folder: Path) -> dict[str, Any]:
    """Bytes of each part of captune's cache, and what of the default model is there."""
    from captune import storage
    from captune.models.lite import assets

    found: dict[str, Any] = {
        asset.what: "cached" if asset.is_cached() else "not fetched"
        for asset in assets.ASSETS["lite"]
    }
    if folder.is_dir():
        for part in sorted(folder.iterdir()):
            found[part.name] = f"{storage.bytes_below(part) / 1e6:.1f} MB"
    return found


def _pip_settings() -> dict[str, str]:
    """What `pip config list` says: every file and variable that decides where pip looks."""
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, timeout=_PIP_WAIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"pip": f"did not answer ({type(error).__name__})"}
    if said.returncode != 0:
        return {"pip": _masked((said.stderr.strip().splitlines() or ["failed"])[-1])}
    settings = (line.partition("=") for line in said.stdout.splitlines() if "=" in line)
    return {f"pip {name}": _masked(value.strip("'")) for name, _, value in settings}


def _masked(text: str) -> str:
    """Without credentials, and without the user's name where it is only the home folder's."""
    from captune.models.lite.assets import mask_credentials

    home = str(Path.home())
    masked = mask_credentials(text)
    return masked.replace(home, "~") if len(home) > 1 else masked
