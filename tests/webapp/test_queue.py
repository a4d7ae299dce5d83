from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from captune.errors import UserError
from captune.options.pages import AppOptions
from captune.webapp import queue as queue_module
from captune.webapp import views
from captune.webapp.queue import JobQueue, QueuedJob
from captune.webapp.site import AppContext


@pytest.fixture
def jobs() -> object:
    made = JobQueue()
    yield made
    made.close()


def wait(job: QueuedJob) -> None:
    for _ in range(500):
        if job.is_over:
            return
        threading.Event().wait(0.01)
    raise AssertionError(job.state)


def test_a_job_is_found_by_its_id_alone(jobs: JobQueue) -> None:
    job = jobs.submit(lambda job: 7, ["captune", "classify"])
    wait(job)
    assert (job.state, job.result) == ("done", 7)
    assert jobs.find(job.id) is job
    assert jobs.find("") is None
    assert jobs.find(None) is None
    assert len(job.id) >= 24


def test_a_mistake_of_the_user_is_the_sentence_and_ours_says_so(jobs: JobQueue) -> None:
    def mistake(job: QueuedJob) -> None:
        raise UserError("labels.txt is empty; write a name in it.")

    def bug(job: QueuedJob) -> None:
        raise KeyError("x")

    first, second = jobs.submit(mistake, []), jobs.submit(bug, [])
    wait(second)
    assert (first.state, first.error) == ("failed", "labels.txt is empty; write a name in it.")
    assert second.state == "failed"
    assert second.error.startswith("a bug in captune (KeyError: 'x'); please report")


def test_long_work_does_not_hold_up_short_work(jobs: JobQueue) -> None:
    gate = threading.Event()
    long = jobs.submit(lambda job: gate.wait(20), [], lane="long")
    wait(jobs.submit(lambda job: 1, []))
    assert not long.is_over
    gate.set()
    wait(long)


def test_jobs_of_a_lane_run_in_their_order_and_know_who_is_before_them(jobs: JobQueue) -> None:
    gate, order = threading.Event(), []
    first = jobs.submit(lambda job: gate.wait(20), [])
    others = [jobs.submit(lambda job, n=n: order.append(n), []) for n in range(5)]
    assert [jobs.waiting_before(job) for job in (first, *others)] == [0, 1, 2, 3, 4, 5]
    gate.set()
    wait(others[-1])
    assert order == [0, 1, 2, 3, 4]


def test_stop_ends_a_job_at_its_next_step_and_one_that_waits_at_once(jobs: JobQueue) -> None:
    begun, gate = threading.Event(), threading.Event()

    def work(job: QueuedJob) -> None:
        with job.bar("classifying", 3) as advance:
            advance(1)
            begun.set()
            gate.wait(20)
            advance(1)

    running, waiting = jobs.submit(work, []), jobs.submit(lambda job: 1, [])
    begun.wait(20)
    running.stop()
    waiting.stop()
    gate.set()
    wait(waiting)
    assert (running.state, running.done) == ("stopped", 1)
    assert waiting.state == "stopped"
    assert waiting.result is None


def test_old_results_are_let_go_and_a_full_lane_says_so(
    jobs: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = [jobs.submit(lambda job: "x" * 100, []) for _ in range(queue_module.JOBS_KEPT + 20)]
    wait(done[-1])
    wait(jobs.submit(lambda job: 1, []))
    assert jobs.find(done[0].id) is None
    assert jobs.find(done[-1].id) is done[-1]
    gate = threading.Event()
    monkeypatch.setattr(queue_module, "MOST_WAITING", 2)
    blocking = [jobs.submit(lambda job: gate.wait(20), [])]
    with pytest.raises(UserError, match="2 jobs are waiting already; try again"):
        for _ in range(4):
            blocking.append(jobs.submit(lambda job: 1, []))
    gate.set()


class EndsMeanwhile(list[str]):
    """A command line during whose drawing the job comes to its end."""

    job: QueuedJob

    def __iter__(self) -> Iterator[str]:
        self.job.result, self.job.state = "this is the answer", "done"
        self.job.changed()
        return super().__iter__()


def test_a_job_that_ends_while_it_is_drawn_is_never_shown_as_over_without_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_PATIENCE_S", -1)
    context = AppContext(AppOptions(runs=tmp_path / "runs"), tmp_path)
    job = QueuedJob(command := EndsMeanwhile(["captune", "compare"]), state="running")
    command.job = job

    async def shown() -> list[str]:
        panel = views.JobPanel(context, "compare", "kept")
        return [html async for html in panel._updates(job)]

    first, last = asyncio.run(shown())
    assert "job running" in first
    assert "job done" in last
    assert "this is the answer" in last
