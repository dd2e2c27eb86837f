"""Faults of one worker: a store that is wrong, away or read-only, and children that cannot start."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from support.fleet import PATIENCE, Fleet, WorkerProcess, wait_until

from finch_hub.artifacts.store import MARKER
from finch_hub.registry import placement
from finch_hub.registry import workers as registry_workers
from finch_hub.registry.values import Worker
from finch_hub.specs.jobs import JobState


def entry(workers: Fleet, name: str) -> Worker:
    with workers.database.read() as session:
        return registry_workers.get(session, name)


def wait_remark(workers: Fleet, worker: WorkerProcess, text: str) -> None:
    """Wait until a worker says in the registry and in its log why it claims no jobs."""
    wait_until(
        lambda: text in (entry(workers, worker.name).remark or ""),
        f"{worker.name} to say {text!r}",
        report=lambda: f"{entry(workers, worker.name).remark}\n{worker.text}",
    )
    assert text in worker.text


def check_all_ran(workers: Fleet, jobs: list[str]) -> None:
    for job in jobs:
        ended = workers.wait(job)
        assert ended.state is JobState.SUCCEEDED, ended.reason
        assert ended.attempts == 1, "no failure here counts"
    workers.check(*jobs)


def workers_of(workers: Fleet, jobs: list[str]) -> set[str]:
    return {attempt.worker for job in jobs for attempt in workers.attempts(job) if attempt.outcome == "succeeded"}


@pytest.mark.slow
def test_worker_with_an_unmounted_store_claims_nothing_and_another_runs_all_jobs(workers: Fleet) -> None:
    good = workers.start("good")
    workers.probes(1)  # the store has the marker and an adapter
    wait_until((workers.folder / "artifacts" / MARKER).exists, "the marker")
    mount = workers.folder / "mount"
    mount.mkdir()
    bad = workers.start("bad", finch_artifacts_url=str(mount))
    wait_remark(workers, bad, "has no marker of deployment")
    workers.pause(good)  # so that the bad worker is the idle one
    jobs = workers.probes(30)
    good.send(signal.SIGCONT)
    check_all_ran(workers, jobs)
    assert {attempt.worker for job in jobs for attempt in workers.attempts(job)} == {"good"}
    assert list(mount.iterdir()) == [], "nothing is written to a mount point without a store"
    shutil.copytree(workers.folder / "artifacts", mount, dirs_exist_ok=True)
    wait_until(lambda: entry(workers, "bad").remark is None, "the worker to go on")
    good.end()
    check_all_ran(workers, later := workers.probes(2))
    assert workers_of(workers, later) == {"bad"}
    assert "store=well" in bad.text


@pytest.mark.slow
def test_store_that_is_away_for_a_while_fails_nobody(workers: Fleet) -> None:
    worker = workers.start("one", finch_max_attempts="1")
    first = workers.probe()
    workers.wait(first)
    store, aside = workers.folder / "artifacts", workers.folder / "aside"
    running = workers.probe("sleep", seconds=2)
    workers.wait_begun(running)
    store.rename(aside)
    jobs = [running, *workers.probes(5)]
    wait_remark(workers, worker, "has no marker of deployment")
    assert not store.exists(), "nothing makes the folder of an unmounted store"
    with workers.database.read() as session:
        obstacles = placement.list_obstacles(workers.job(jobs[-1]), registry_workers.find(session))
    assert "claims no jobs: artifact store" in obstacles["one"][0]
    aside.rename(store)
    check_all_ran(workers, jobs)


def test_worker_with_the_store_of_another_deployment_claims_nothing(workers: Fleet) -> None:
    other = workers.folder / "other"
    other.mkdir()
    (other / MARKER).write_text("feedfeedfeedfeed\n")
    bad = workers.start("bad", finch_artifacts_url=str(other))
    wait_remark(workers, bad, "belongs to deployment 'feedfeedfeedfeed'")
    jobs = workers.probes(3)
    workers.start("good")
    check_all_ran(workers, jobs)
    assert workers_of(workers, jobs) == {"good"}
    assert [path.name for path in other.iterdir()] == [MARKER]
    bad.send(signal.SIGTERM)
    assert bad.wait() == 0


def test_worker_whose_store_is_read_only_claims_nothing_until_it_can_write(workers: Fleet) -> None:
    switch = workers.folder / "read-only"
    switch.touch()
    pattern = r"artifacts/tmp/"
    worker = workers.start("one", finch_test_open=f"readonly:{switch}:{pattern}")
    wait_remark(workers, worker, "Read-only file system")
    jobs = workers.probes(2)
    switch.unlink()
    check_all_ran(workers, jobs)


def test_artifact_that_every_worker_lacks_fails_the_job(workers: Fleet) -> None:
    for name in ("one", "two"):
        workers.start(name)
    workers.wait(workers.probe())
    lost = [path for path in (workers.folder / "artifacts" / "blobs").rglob("*") if path.is_file()]
    for path in lost:
        path.unlink()
    for folder in workers.settings.cache.iterdir():
        shutil.rmtree(folder)
    job = workers.probe()
    failed = workers.wait(job)
    assert failed.state is JobState.FAILED
    assert "no worker that can run this job finds it in the store" in (failed.reason or "")
    assert [attempt.outcome for attempt in workers.attempts(job)] == ["handed_back", "failed"]
    assert {attempt.worker for attempt in workers.attempts(job)} == {"one", "two"}
    assert any("cannot run this job now" in line for line in workers.event_lines(job))
    workers.check(job)


def break_children(workers: Fleet) -> tuple[Path, str]:
    """Return a file, and the variable that lets children fail at their start as long as the file exists."""
    switch = workers.folder / "broken-library"
    switch.touch()
    return switch, f"{switch}:finch_hub.workers.child"


@pytest.mark.slow
def test_worker_whose_children_cannot_start_pauses_and_another_runs_its_jobs(workers: Fleet) -> None:
    workers.environment["FINCH_RETRY_SECONDS"] = "1"
    _, broken = break_children(workers)
    bad = workers.start("bad", finch_test_import=broken)
    workers.start("good")
    jobs = workers.probes(30)
    check_all_ran(workers, jobs)
    assert workers_of(workers, jobs) == {"good"}
    tried = {job for job in jobs for attempt in workers.attempts(job) if attempt.worker == "bad"}
    assert len(tried) < 15, "it does not try every job"
    while entry(workers, "bad").remark is None:
        check_all_ran(workers, [workers.probe()])
    wait_remark(workers, bad, "jobs in a row failed")


@pytest.mark.slow
def test_lone_worker_whose_children_cannot_start_keeps_its_jobs_and_recovers(workers: Fleet) -> None:
    workers.environment |= {"FINCH_RETRY_SECONDS": "1", "FINCH_MAX_ATTEMPTS": "2"}
    switch, broken = break_children(workers)
    worker = workers.start("one", finch_test_import=broken)
    jobs = workers.probes(5)
    wait_remark(workers, worker, "jobs in a row failed")
    wait_until(lambda: sum(len(workers.attempts(job)) for job in jobs) >= 5, "single jobs to be tried after pauses")
    for job in jobs:
        assert workers.job(job).state in (JobState.QUEUED, JobState.RUNNING), "no job fails of it"
    with workers.database.read() as session:
        obstacles = placement.list_obstacles(workers.job(jobs[-1]), registry_workers.find(session))
    assert "exited unexpectedly" in obstacles["one"][0], "the job shows why it waits"
    switch.unlink()
    for job in jobs:
        assert workers.wait(job).state is JobState.SUCCEEDED
    workers.check(*jobs)
    wait_until(lambda: entry(workers, "one").remark is None, "the worker to be well")


@pytest.mark.slow
def test_worker_with_a_bad_store_ends_within_its_grace(workers: Fleet) -> None:
    mount = workers.folder / "mount"
    mount.mkdir()
    (mount / MARKER).write_text("of a store that hangs")
    hang = f"hang::{mount}/{MARKER}"
    worker = workers.start("one", finch_artifacts_url=str(mount), finch_grace_seconds="5", finch_test_open=hang)
    wait_until(lambda: "did not answer" in worker.text, "the worker to give up", PATIENCE)
    worker.send(signal.SIGTERM)
    assert worker.wait(30.0) == 0
