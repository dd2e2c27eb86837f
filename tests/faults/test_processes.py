"""Faults of processes: children and workers that are killed, suspended, told to end, or hang."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from support.fleet import Fleet, wait_until

from finch_hub.registry import jobs as registry_jobs
from finch_hub.registry import workers as registry_workers
from finch_hub.specs.jobs import JobState
from finch_hub.workers.hostname import find_hostname


def test_job_of_a_killed_child_runs_again(workers: Fleet) -> None:
    workers.start()
    job = workers.probe("sleep", seconds=60, once=True)
    os.kill(workers.wait_begun(job), signal.SIGKILL)
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["failed", "succeeded"]
    workers.check(job)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["children", "worker"])
def test_signal_to_all_processes_of_a_service_costs_no_attempt(workers: Fleet, first: str) -> None:
    """As systemd and SLURM stop a service: whoever gets the signal first, the jobs go back into the queue."""
    worker = workers.start("first")
    job = workers.probe("sleep", seconds=60, once=True)
    workers.wait_begun(job)
    home = psutil.Process(worker.pid).environ()["FINCH_HOME"]
    others = [process for process in _list_processes(home) if process.pid != worker.pid]
    assert {"child", "sh"} <= {"child" if "finch_hub.workers.child" in p.cmdline() else p.name() for p in others}
    order = [*others, psutil.Process(worker.pid)]
    for process in order if first == "children" else reversed(order):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    wait_until(lambda: not any(process.is_running() for process in others), "all processes to end")
    with workers.database.read() as session:
        assert registry_jobs.get(session, job).attempts == 0
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["handed_back", "succeeded"]
    workers.check(job)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "resting"}, r"has the state 'resting' in the database, which its version does not know .start it"),
        ({"instance": "another"}, "another worker is registered as 'lost'"),
    ],
)
def test_worker_whose_registration_is_not_its_own_hands_its_jobs_back_and_fails(
    workers: Fleet, change: dict[str, str], why: str
) -> None:
    worker = workers.start("lost")
    job = workers.probe("sleep", seconds=60, once=True)
    workers.wait_begun(job)
    with workers.database.write() as session:
        session.execute(sa.update(registry_workers.workers).values(change))
    assert worker.wait() not in (0, -signal.SIGTERM), "a service manager starts it again"
    assert re.search(f"Conflict: .*{why}", worker.text)
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["handed_back", "succeeded"]
    workers.check(job)


def _list_processes(home: str) -> list[psutil.Process]:
    """Return the processes of a worker, also one that init has adopted."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("FINCH_HOME") == home:
                found.append(process)
    return found


def test_hangup_ends_a_worker_like_a_stop(workers: Fleet) -> None:
    worker = workers.start()
    job = workers.probe("sleep", seconds=60, once=True)
    workers.wait_begun(job)
    worker.send(signal.SIGHUP)
    assert worker.wait() == 0
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["handed_back"]


def test_job_of_a_killed_worker_runs_again_on_another(workers: Fleet) -> None:
    first = workers.start("first")
    job = workers.probe("sleep", seconds=60, once=True)
    child = workers.wait_begun(job)
    workers.start("second")
    first.send(signal.SIGKILL)
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [(attempt.worker, attempt.outcome) for attempt in workers.attempts(job)] == [
        ("first", "lost"),
        ("second", "succeeded"),
    ]
    wait_until(lambda: not psutil.pid_exists(child), "the first child to end with its worker")
    workers.check(job)


def test_suspended_child_ends_with_its_worker(workers: Fleet) -> None:
    worker = workers.start()
    job = workers.probe("sleep", seconds=60, once=True)
    child = workers.wait_begun(job)
    os.kill(child, signal.SIGSTOP)
    worker.send(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not psutil.pid_exists(child), "the child to end")


def test_descendant_of_a_dead_child_ends_with_its_worker(workers: Fleet) -> None:
    held = workers.folder / "held"
    worker = workers.start(finch_fault=f"supervisor.ending:hold:{held}")
    job = workers.probe("orphan")
    wait_until(held.exists, "the supervisor to see that the child has died")
    child = workers.runs_of(job)[0]
    assert _members(child), "the descendant is alive"
    worker.send(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not _members(child), "the descendant to be killed")


@pytest.mark.parametrize("end", ["success", "kill of the child", "cancel", "kill of the worker"])
def test_daemon_that_a_job_started_ends_with_its_attempt(workers: Fleet, end: str) -> None:
    """It left its process group and its parent, so it outlived every way in which an attempt can end."""
    worker = workers.start()
    job = workers.probe("daemon", seconds=0 if end == "success" else 60, once=True)
    file = Path(f"{workers.job(job).spec['out']}.daemon")
    wait_until(lambda: file.exists() and file.read_text() != "", "the daemon to start")
    daemon = int(file.read_text())
    match end:
        case "kill of the child":
            os.kill(workers.runs_of(job)[0], signal.SIGKILL)
        case "cancel":
            workers.cancel(job)
        case "kill of the worker":
            worker.send(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(daemon), "the daemon to be killed")
    if end != "kill of the worker":
        workers.wait(job)
        assert workers.wait(workers.probe()).state is JobState.SUCCEEDED


@pytest.mark.slow
def test_second_worker_with_a_name_is_refused_unless_the_first_was_killed(workers: Fleet) -> None:
    first = workers.start("one")
    again = workers.start("one", ready=False)
    assert again.wait() != 0
    assert f"runs on {find_hostname()} as process {first.pid} (choose another name" in again.text
    assert first.poll() is None
    job = workers.probe()
    assert workers.wait(job).state is JobState.SUCCEEDED, "the first goes on"
    first.end()
    workers.start("one")
    other = workers.probe()
    assert workers.wait(other).state is JobState.SUCCEEDED
    workers.check(job, other)


@pytest.mark.slow
def test_worker_that_was_stopped_for_longer_than_its_lease_writes_nothing(workers: Fleet) -> None:
    first = workers.start("first")
    job = workers.probe("sleep", seconds=4)
    child = workers.wait_begun(job)
    workers.pause(first)
    workers.start("second")
    workers.wait_begun(job, times=2)  # the first child goes on and succeeds, and its worker cannot read that
    wait_until(lambda: workers.job(job).worker == "second", "the second worker to own the job")
    first.send(signal.SIGCONT)
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["lost", "succeeded"]
    wait_until(lambda: "action=lost" in first.text, "the first worker to see that it lost the job")
    wait_until(lambda: not psutil.pid_exists(child), "the first child to be killed")
    workers.check(job)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_hands_the_job_back_without_using_up_an_attempt(workers: Fleet, number: signal.Signals) -> None:
    first = workers.start("first")
    job = workers.probe("sleep", seconds=60, once=True)
    workers.wait_begun(job)
    first.send(number)
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert first.wait() == 0
    assert workers.job(job).attempts == 1
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["handed_back", "succeeded"]
    workers.check(job)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_worker_at_once(workers: Fleet, number: signal.Signals) -> None:
    first = workers.start("first")
    job = workers.probe("sleep", seconds=60, once=True)
    child = workers.wait_begun(job)
    first.send(number)
    wait_until(lambda: "why=hand_back" in first.text, "the worker to handle the first signal")
    first.send(number)
    assert first.wait() == 128 + number
    assert f"{number.name} came, so jobs run again when their leases have ended" in first.text
    wait_until(lambda: not psutil.pid_exists(child), "the child to end")
    workers.start("second")
    assert workers.wait(job).state is JobState.SUCCEEDED
    ended, last = [attempt.outcome for attempt in workers.attempts(job)]
    assert ended in ("lost", "handed_back"), "the attempt may see that its child was killed before the worker ends"
    assert last == "succeeded"
    workers.check(job)


@pytest.mark.parametrize(
    "action",
    ["print", pytest.param("segfault", marks=pytest.mark.slow), pytest.param("orphan", marks=pytest.mark.slow)],
)
def test_job_that_kills_its_child_fails_after_its_attempts_and_others_go_on(workers: Fleet, action: str) -> None:
    worker = workers.start()
    poison, good = workers.probe(action), workers.probe()
    assert workers.wait(good).state is JobState.SUCCEEDED
    failed = workers.wait(poison)
    assert failed.state is JobState.FAILED
    assert failed.attempts == 3
    assert "exited unexpectedly" in (failed.reason or "")
    if action == "print":
        assert any("the last words of the probe" in line for line in workers.event_lines(poison))
    assert not {child.pid for child in worker.children()} & set(workers.runs_of(poison))
    workers.check(poison, good)


@pytest.mark.slow
def test_child_that_hangs_is_killed(workers: Fleet) -> None:
    workers.environment["FINCH_STALL_SECONDS"] = "5"  # longer than a child takes to start on a busy machine
    workers.start()
    job = workers.probe("hang", once=True)
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert "reported nothing for 5 s" in (workers.attempts(job)[0].reason or "")
    workers.check(job)


@pytest.mark.slow
def test_child_that_uses_too_much_memory_is_killed(workers: Fleet) -> None:
    workers.environment["FINCH_MEMORY_BYTES"] = str(600 * 2**20)
    workers.start()
    job = workers.probe("eat", once=True)
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert "of memory" in (workers.attempts(job)[0].reason or "")
    workers.check(job)


@pytest.mark.parametrize("action", ["exit", pytest.param("raise", marks=pytest.mark.slow)])
def test_plugin_that_raises_fails_its_job_with_the_traceback(workers: Fleet, action: str) -> None:
    workers.start()
    bad = workers.probe(action)
    failed = workers.wait(bad)
    assert failed.state is JobState.FAILED
    assert failed.attempts == 1, "a fault of the job is not retried"
    assert (failed.reason or "").startswith("export format probe of plugin finch-probe 1.0 failed: ")
    assert "finch_probe.py" in "".join(workers.event_lines(bad)), "the traceback names the plugin"
    good = workers.probe()
    assert workers.wait(good).state is JobState.SUCCEEDED
    workers.check(bad, good)


@pytest.mark.slow
def test_worker_that_ends_leaves_no_process(workers: Fleet) -> None:
    worker = workers.start(slots=2)
    jobs = [workers.probe() for _ in range(4)]
    for job in jobs:
        workers.wait(job)
    assert worker.children(), "a warm child waits for the next job"
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    workers.check(*jobs)
    workers.check_nothing_left()


@pytest.mark.slow
def test_idle_child_is_ended(workers: Fleet) -> None:
    workers.environment["FINCH_WARM_SECONDS"] = "0.5"
    worker = workers.start()
    first = workers.probe()
    workers.wait(first)
    wait_until(lambda: not worker.children(), "the child to end")
    second = workers.probe()
    workers.wait(second)
    assert workers.runs_of(first) != workers.runs_of(second)
    workers.check(first, second)


@pytest.mark.slow
def test_successive_jobs_share_one_child(workers: Fleet) -> None:
    workers.start()
    pids = set()
    for _ in range(3):
        job = workers.probe()
        workers.wait(job)
        pids |= set(workers.runs_of(job))
    assert len(pids) == 1


@pytest.mark.slow
def test_drained_worker_finishes_its_job_and_ends(workers: Fleet) -> None:
    worker = workers.start("draining")
    first = workers.probe("sleep", seconds=2)
    workers.wait_begun(first)
    second = workers.probe()
    with workers.database.write() as session:
        registry_workers.request_state(session, "draining", "draining")
    assert worker.wait() == 0
    assert workers.job(first).state is JobState.SUCCEEDED
    assert workers.job(second).state is JobState.QUEUED
    workers.start("other")
    assert workers.wait(second).state is JobState.SUCCEEDED
    workers.check(first, second)


def _members(group: int) -> list[int]:
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(pid) == group and psutil.Process(pid).status() != "zombie":
                found.append(pid)
    return found
