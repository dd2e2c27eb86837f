"""Ten minutes of random faults under load on both databases, after which all jobs must be consistent.

Every run has another seed, which is printed. `FINCH_TEST_CHAOS_SEED` repeats a plan: the same faults and jobs at the
same moments. `FINCH_TEST_CHAOS_SECONDS` shortens it.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import services
from support.fleet import Fleet, WorkerProcess, fleet

from finch_hub import errors
from finch_hub.specs.jobs import JobState
from finch_hub.workers.messaging.broker import WAKE, queue_name

SECONDS = float(os.environ.get("FINCH_TEST_CHAOS_SECONDS", "600"))
WORKERS = 2
DISK_BYTES = 2**28  # of a fleet's folder, where the database is too if it is SQLite
GOOD, BAD = ("nothing", "sleep", "hang once", "print once", "segfault once"), ("raise", "exit", "print", "orphan")
POINTS = [
    *("supervisor.claimed", "child.begin", "child.end", "supervisor.ending", "supervisor.stored"),
    *("supervisor.committing", "supervisor.committed", "dispatch.held"),
]


@dataclass
class Chaos:
    """A fleet with the faults that a seed plans."""

    workers: Fleet
    random: random.Random
    server: services.PostgresServer | None
    seconds: float
    has_small_disk: bool
    jobs: dict[str, str] = field(default_factory=dict)  # kinds of the submitted probes
    cancelled: set[str] = field(default_factory=set)
    living: list[WorkerProcess] = field(default_factory=list)
    started: int = 0
    log: list[str] = field(default_factory=list)

    def run(self) -> None:
        faults: list[tuple[Callable[[], None], int]] = [
            (self.kill_a_child, 6),
            (self.kill_a_worker, 4),
            (self.pause_a_worker, 3),
            (self.end_a_worker, 3),
            (self.end_a_worker_at_once, 2),
            (self.break_a_worker_at_a_point, 6),
            (self.fill_the_disk_once, 2),
            (self.put_a_clock_off, 2),
            (self.kill_the_broker, 2),
            (self.flush_the_broker, 2),
            (self.freeze_the_broker, 3),
            (self.deliver_often, 3),
            (self.cancel_something, 4),
            (self.submit_a_chain, 3),
            *([(self.fill_the_disk, 3)] if self.has_small_disk else []),
            *([(self.kill_the_database, 2), (self.freeze_the_database, 2)] if self.server else []),
        ]
        plan = []
        moment = 0.0
        while moment < self.seconds:
            fault = self.random.choices([method for method, _ in faults], [weight for _, weight in faults])[0]
            burst = self.random.choices([*GOOD, *BAD], [20, 12, 1, 1, 1, 1, 1, 1, 1], k=self.random.randint(1, 4))
            plan.append((moment, fault, burst, self.random.randrange(2**32)))
            moment += self.random.uniform(0.5, 4.0)
        for _ in range(WORKERS):
            self.start()
        begun = time.monotonic()
        for moment, fault, burst, seed in plan:
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            self.random = random.Random(seed)  # so that a fault depends on none before it
            self.log.append(f"{moment:.1f} {fault.__name__} {burst}")
            for kind in burst:
                self.submit(kind)
            fault()
            self.replace_the_dead()
        self.settle()

    def replace_the_dead(self) -> None:
        self.living = [worker for worker in self.living if worker.poll() is None]
        while len(self.living) < WORKERS:
            self.start()

    def submit(self, kind: str, *parents: str, seconds: float = 1.0) -> str | None:
        """Submit a job, and return its id, None if the database does not answer."""
        action, _, once = kind.partition(" ")
        known = [job for job, was in self.jobs.items() if was in GOOD]
        if not parents and known and self.random.random() < 0.1:
            parents = (self.random.choice(known),)
        options: dict[str, Any] = {
            "seconds": self.random.uniform(0.1, seconds),
            "once": bool(once),
            "priority": self.random.randint(-1, 1),
        }
        with contextlib.suppress(errors.Unavailable, errors.Conflict):  # no database, or a parent that was cancelled
            job = self.workers.probe(action, send_message=self.random.random() < 0.8, depends_on=parents, **options)
            self.jobs[job] = kind
            return job
        return None

    def submit_a_chain(self) -> None:
        """Submit jobs of which each waits for the one before. If one of them fails, so do those after it."""
        last = self.submit(self.random.choice([*GOOD, *BAD]))
        for _ in range(self.random.randint(5, 30)):
            if last is not None:
                last = self.submit(self.random.choices([*GOOD[:2], "raise"], [20, 5, 1])[0], last, seconds=0.2)

    def settle(self) -> None:
        """Wait for every job, and check all of them."""
        self.workers.wait_all(self.replace_the_dead)  # some workers that were broken die only now
        self.workers.check(*self.jobs)
        for job, kind in self.jobs.items():
            ended = self.workers.job(job)
            expected = {JobState.SUCCEEDED if kind in GOOD else JobState.FAILED}
            if any(self.workers.job(parent).state is not JobState.SUCCEEDED for parent in ended.depends_on):
                expected = {JobState.CANCELLED, JobState.FAILED}
            elif job in self.cancelled:
                expected.add(JobState.CANCELLED)
            assert ended.state in expected, (kind, ended, self.workers.attempts(job))
        for worker in self.living:
            worker.send(signal.SIGTERM)
        for worker in self.living:
            status = worker.wait()
            is_unborn = status == -signal.SIGTERM and not worker.text  # a replacement that was still importing
            assert status in (0, -signal.SIGKILL) or is_unborn, worker.text[-4000:]
        self.workers.check_nothing_left()

    def start(self, **environment: str) -> WorkerProcess:
        self.started += 1
        worker = self.workers.start(f"worker-{self.started}", slots=2, ready=False, **environment)
        self.living.append(worker)
        return worker

    def replace(self, **environment: str) -> None:
        """End a worker, and start a faulty one in its place."""
        self.end_a_worker()
        self.start(**environment)

    def any_worker(self) -> WorkerProcess:
        return self.random.choice(self.living)

    def kill_a_child(self) -> None:
        children = self.any_worker().children()
        if children:
            with contextlib.suppress(psutil.Error):
                self.random.choice(children).kill()

    def kill_a_worker(self) -> None:
        self.any_worker().send(signal.SIGKILL)

    def pause_a_worker(self) -> None:
        worker = self.any_worker()
        with contextlib.suppress(errors.Unavailable):
            self.workers.pause(worker)
        time.sleep(self.random.uniform(0.5, 4.0))  # the lease is 2 s
        worker.send(signal.SIGCONT)

    def end_a_worker(self) -> None:
        worker = self.any_worker()
        worker.send(signal.SIGTERM)
        self.living.remove(worker)

    def end_a_worker_at_once(self) -> None:
        worker = self.any_worker()
        worker.send(signal.SIGTERM)
        time.sleep(self.random.uniform(0.0, 0.5))
        worker.send(signal.SIGTERM)

    def break_a_worker_at_a_point(self) -> None:
        once = self.workers.folder / f"once-{self.started}"
        self.replace(finch_fault=f"{self.random.choice(POINTS)}:kill:{once}")

    def fill_the_disk_once(self) -> None:
        once = self.workers.folder / f"once-{self.started}"
        self.replace(finch_fault=f"child.begin:full:{once}")

    def fill_the_disk(self) -> None:
        """Leave no space in home, store and database for a moment."""
        filler = self.workers.folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**12)):
                pass
        time.sleep(self.random.uniform(0.5, 4.0))
        filler.unlink()

    def put_a_clock_off(self) -> None:
        self.replace(finch_test_clock=str(self.random.choice([-3600, 3600])))

    def kill_the_broker(self) -> None:
        self.workers.broker.kill()
        time.sleep(self.random.uniform(0.0, 3.0))
        self.workers.broker.start()

    def flush_the_broker(self) -> None:
        self.workers.broker.flush()

    def freeze_the_broker(self) -> None:
        with self.workers.broker.client() as client:
            self.freeze(psutil.Process(client.info()["process_id"]))

    def freeze(self, *processes: psutil.Process) -> None:
        for process in processes:
            process.suspend()
        time.sleep(self.random.uniform(0.5, 6.0))  # longer than the lease
        for process in processes:
            process.resume()

    def deliver_often(self) -> None:
        chosen = [*self.random.choices(list(self.jobs) or [""], k=5), "no-such-job"]
        self.workers.send(*((WAKE, job, queue_name("default")) for job in chosen))

    def cancel_something(self) -> None:
        job = self.random.choice(list(self.jobs))
        with contextlib.suppress(errors.IllegalTransition, errors.Unavailable):
            self.workers.cancel(job)
            self.cancelled.add(job)

    def kill_the_database(self) -> None:
        assert self.server is not None
        self.server.kill()
        time.sleep(self.random.uniform(0.0, 4.0))
        self.server.start()

    def freeze_the_database(self) -> None:
        assert self.server is not None
        self.freeze(*self.server.processes())


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system at a folder, and yield whether this process may do so."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def faulty_fleet(folder: Path, engine: str, seed: int) -> Iterator[Chaos]:
    folder.mkdir()
    server = services.PostgresServer() if engine == "postgresql" else None
    try:
        if server is not None:
            server.start()
        databases = services.Databases(folder, server.url() if server else None)
        limits = {"max_attempts": 12, "stall_seconds": 10}
        with small_disk(folder) as has_small_disk, fleet(folder, databases.new(), **limits) as workers:
            yield Chaos(workers, random.Random(f"{seed} {engine}"), server, SECONDS, has_small_disk)
    finally:
        if server is not None:
            server.remove()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_jobs_are_consistent_after_random_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("FINCH_TEST_CHAOS_SEED") or secrets.randbelow(2**32))
    with capsys.disabled():
        print(f"\nFINCH_TEST_CHAOS_SEED={seed} FINCH_TEST_CHAOS_SECONDS={SECONDS:g}", flush=True)
    with (
        faulty_fleet(tmp_path / "sqlite", "sqlite", seed) as one,
        faulty_fleet(tmp_path / "postgresql", "postgresql", seed) as other,
        ThreadPoolExecutor() as pool,
    ):
        running = {pool.submit(chaos.run): chaos for chaos in (one, other)}
        for future, chaos in running.items():
            try:
                future.result()
            except BaseException as error:
                plan = "\n".join(chaos.log)
                raise AssertionError(f"FINCH_TEST_CHAOS_SEED={seed} {chaos.workers.database}\n{plan}") from error
        assert all(len(chaos.jobs) > SECONDS / 10 for chaos in running.values()), "there were enough jobs"
    with capsys.disabled():
        for chaos in running.values():
            print(f"{len(chaos.jobs)} jobs, {len(chaos.log)} faults, {chaos.started} workers", flush=True)
