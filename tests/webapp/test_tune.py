from __future__ import annotations

import json
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.captioning.little_job import fake_frozen, write_job
from tests.webapp.app_page import opened, over, tab, text_of, typed, when, wrong

from captune.captioning.training import setup, state
from captune.captioning.training.trainer import CaptionTrainer
from captune.options.codec import words_of
from captune.options.tuning import TuneOptions
from captune.runs import read_run
from captune.webapp import queue
from captune.webapp.queue import JobQueue, QueuedJob


class InAThread:
    """As multiprocessing's context, but in this process, where models can be made up."""

    Event = staticmethod(threading.Event)
    Pipe = staticmethod(multiprocessing.Pipe)

    class Process(threading.Thread):
        exitcode = 0

        def __init__(self, target: Any, args: Any, name: str, daemon: bool) -> None:
            # a pipe's end is copied into another process, and here it would be closed twice
            copied = multiprocessing.connection.Connection(_duplicate(args[0].fileno()))
            super().__init__(target=target, args=(copied, *args[1:]), daemon=daemon)

        def close(self) -> None:
            pass


def _duplicate(number: int) -> int:
    import os

    return os.dup(number)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TuneOptions:
    monkeypatch.setattr(setup, "load_frozen", fake_frozen())
    monkeypatch.setattr(queue.multiprocessing, "get_context", lambda kind: InAThread())
    images, train, val = write_job(tmp_path / "job")
    return TuneOptions(
        images=images, captions=train, val_captions=val, out=tmp_path / "runs" / "tuned",
        method="lora", epochs=2, batch_size=4, max_tokens=12, device="cpu", save_steps=1000,
    )  # fmt: skip


def ended(jobs: JobQueue, options: TuneOptions) -> QueuedJob:
    job = jobs.submit(lambda job: queue.tune_apart(job, options), words_of("tune", options))
    end = time.monotonic() + 120
    while not job.is_over and time.monotonic() < end:
        time.sleep(0.02)
    return job


def test_it_is_the_run_of_the_command_with_its_words(options: TuneOptions) -> None:
    jobs = JobQueue()
    job = ended(jobs, options)
    assert (job.state, job.error) == ("done", "")
    assert any("trained parameters" in note for note in job.notes)
    assert any("of training" in note for note in job.notes)
    assert options.out is not None
    run = read_run(options.out)
    assert run.about["command"] == words_of("tune", options)
    assert (options.out / "plots" / "curves.png").is_file()
    jobs.close()


def test_stop_keeps_a_checkpoint_and_start_goes_on(
    options: TuneOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, real, seen = JobQueue(), CaptionTrainer.compute_loss, threading.Event()

    def slow(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 5:
            seen.set()
            time.sleep(1)
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(CaptionTrainer, "compute_loss", slow)
        job = jobs.submit(lambda job: queue.tune_apart(job, options), [])
        assert seen.wait(120)
        job.stop()
        end = time.monotonic() + 60
        while not job.is_over and time.monotonic() < end:
            time.sleep(0.02)
    assert job.state == "stopped"
    assert "the same command resumes from there" in job.error
    assert options.out is not None
    assert len(state.complete_checkpoints(options.out / "lora" / "checkpoints")) == 1
    again = ended(jobs, options)
    assert again.state == "done"
    assert any("lora: continues from update" in note for note in again.notes)
    jobs.close()


def test_what_cannot_be_tuned_is_a_sentence(options: TuneOptions, tmp_path: Path) -> None:
    options.captions = tmp_path / "none.json"
    jobs = JobQueue()
    job = ended(jobs, options)
    assert job.state == "failed"
    assert "none.json" in job.error
    jobs.close()


@pytest.mark.needs("chromium")
def test_the_tab_trains_and_shows_the_page_of_the_run(options: TuneOptions, tmp_path: Path) -> None:
    with opened(tmp_path) as (_, driver):
        tab(driver, "Tune")
        for name in ("images", "captions", "val-captions"):
            typed(driver, f"tune-{name}", str(getattr(options, name.replace("-", "_"))))
        driver.find_element("css selector", "#tune").click()
        when(driver, "document.querySelector('#result-tune progress')")
        over(driver, "tune")
        line = text_of(driver, "#result-tune code")
        assert line.startswith("captune tune ")
        assert "--out" in line
        assert when(driver, "document.querySelector('#result-tune iframe')")
        about = json.loads((tmp_path / "runs" / "tuned" / "run.json").read_text())
        assert about["kind"] == "tune"
        assert wrong(driver) == []
