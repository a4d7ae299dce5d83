"""Trackers: Trainer's own integrations, with the libraries themselves replaced by small ones."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.captioning.little_job import toy_data
from tests.captioning.training.test_trainer import captioner_of, options, run

from captune.captioning.training.checks import check_possible
from captune.captioning.training.state import deciding
from captune.errors import UserError

# each writes a line for every call; trackio prints on standard output, as the real one does
CALLS = """
import json, os
def call(*what, **how):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps([*what, how], default=str) + "\\n")
"""
TRACKIO = """
from types import SimpleNamespace
from calls import call
import os
__version__ = "1"
context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))
class Config(dict):
    def update(self, values, allow_val_change): call("trackio.config")
config = Config()
def init(**how):
    print("* Trackio project initialized")
    call("trackio.init", space=os.environ.get("TRACKIO_SPACE_ID"), **how)
def log(values): call("trackio.log", **values)
def finish(): call("trackio.finish")
"""
WANDB = """
from types import SimpleNamespace
from calls import call
import os
run = None
class Config(dict):
    def update(self, values, allow_val_change): call("wandb.config")
config = Config()
def init(**how):
    global run
    run = SimpleNamespace(_label=lambda **how: None, summary={})
    call("wandb.init", mode=os.environ.get("WANDB_MODE"), folder=os.environ["WANDB_DIR"], **how)
def define_metric(*what, **how): pass
def log(values): call("wandb.log", **values)
def finish():
    global run
    run = None
    call("wandb.finish")
"""
TENSORBOARD = """
from calls import call
class SummaryWriter:
    def __init__(self, log_dir): call("tensorboard.init", folder=log_dir)
    def add_text(self, name, text): pass
    def add_scalar(self, name, value, step): call("tensorboard.log", name=name, value=value)
    def flush(self): pass
    def close(self): call("tensorboard.finish")
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trackers are installed; gives what was called, as [name, keywords]."""
    place = tmp_path / "libraries"
    files = {
        "calls.py": CALLS,
        "trackio.py": TRACKIO,
        "wandb/__init__.py": WANDB,
        "wandb/sdk/lib/config_util.py": "class ConfigError(Exception): pass\n",
        "tensorboard/__init__.py": "",  # torch's writer finds nothing in it, so X is taken
        "tensorboardX.py": TENSORBOARD,
    }
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.jsonl"))
    monkeypatch.syspath_prepend(place)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield lambda: [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("calls", "trackio", "wandb", "tensorboard", "tensorboardX"):
            del sys.modules[name]


def test_a_training_is_reported_to_each_and_stays_offline(
    calls: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    out = tmp_path / "seen"
    asked = options(epochs=2, report_to="trackio,tensorboard,wandb", out=out)
    environment = dict(os.environ)
    run(captioner_of(), toy_data(), out / "lora" / "checkpoints", asked, scores=[0.75, 0.5])
    assert dict(os.environ) == environment
    assert capsys.readouterr().out == ""
    made: dict[str, list[dict[str, Any]]] = {}
    for name, how in calls():
        made.setdefault(name, []).append(how)
    for tracker in ("trackio", "tensorboard", "wandb"):
        assert len(made[f"{tracker}.init"]) == len(made[f"{tracker}.finish"]) == 1
    (trackio,), (wandb,) = made["trackio.init"], made["wandb.init"]
    assert (trackio["project"], trackio["name"]) == ("captune", "seen-lora")
    assert trackio["space"] is trackio["space_id"] is None
    assert (wandb["project"], wandb["name"], wandb["mode"]) == ("captune", "seen-lora", "offline")
    assert wandb["folder"] == str(out / "lora")
    assert made["tensorboard.init"] == [{"folder": str(out / "lora" / "tensorboard")}]
    for tracker in ("trackio", "wandb"):
        assert [one["eval/loss"] for one in made[f"{tracker}.log"] if "eval/loss" in one] == [
            0.75,
            0.5,
        ]
        assert any("train/loss" in one for one in made[f"{tracker}.log"])
    assert {"train/loss", "eval/loss", "train/learning_rate"} <= {
        one["name"] for one in made["tensorboard.log"]
    }


def test_nothing_is_reported_unasked(calls: Any, tmp_path: Path) -> None:
    run(captioner_of(), toy_data(), tmp_path / "seen" / "lora" / "checkpoints", options(epochs=1))
    assert not (tmp_path / "calls.jsonl").exists()


def test_what_is_no_tracker_or_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="must be none, or some of trackio, tensorboard, wandb"):
        options(report_to="trakio")
    given = dict.fromkeys(("images", "captions", "val_captions"), tmp_path)
    monkeypatch.setitem(sys.modules, "trackio", None)
    monkeypatch.setattr("captune.captioning.training.checks.find_spec", lambda name: None)
    asked = options(report_to="trackio", out=tmp_path / "run", **given)
    with pytest.raises(UserError, match="trackio is not installed; pip install trackio"):
        check_possible(asked)


def test_a_tracker_may_change_between_a_kill_and_going_on() -> None:
    assert deciding(options(report_to="wandb")) == deciding(options())
