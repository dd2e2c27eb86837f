"""What a fleet of workers asks of PostgreSQL and of the broker in a minute, idle and busy, by how many jobs wait.

It simulates minutes of 100 workers with 8 slots each. The statements are the registry's own, on a real server, in the
order and at the rate of real workers. The time between them and the work of the jobs are left out.

A fleet that scales asks for no more if more jobs wait: the figures beside a million queued jobs stand next to those
beside ten thousand. `ratio` is the smallest quotient of the two, of statements and of WAL. The pages that statements
look at grow a little too, with the depth of indexes.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import heapq
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import psycopg
import sqlalchemy as sa
from support import services
from support.fleet import Broker

from finch_hub import settings
from finch_hub.registry import (
    attempts,
    claims,
    deployment,
    jobs,
    listeners,
    outbox,
    schema_revisions,
    settlements,
    stuck_jobs,
    values,
    workers,
)
from finch_hub.registry.database import Database, Session
from finch_hub.settings import Settings
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import ExportSpec, Job, Requirements
from finch_hub.workers.messaging import broker
from finch_hub.workers.messaging.dispatcher import Dispatcher

SPEC = ExportSpec(adapter="finches", format="probe", out="/nowhere")
LEASE_SECONDS = 86_400.0  # a simulated minute may take longer than a lease
LOOK_SECONDS = 15.0  # of idle slots at the queue
MAINTENANCE_SECONDS = 1.1
EVENT_SECONDS = 1.0  # between two commits of a worker's events
PRUNE_SECONDS = 300.0
MISFITS = 20  # groups of jobs with other needs, for which no worker has the label
WARM_UP_SECONDS = 20.0  # before the minute that is measured
GIBIBYTE = 2**30
DAY_SECONDS = 86_400.0


@dataclass
class Cost:
    """What one minute cost.

    Attributes:
        blocks: pages of 8 KiB that statements looked at, cached or not. They tell of a statement that reads what waits.
        opened: connections that were opened.
        open: connections at the end.
    """

    statements: int
    commits: int
    wal_bytes: int
    blocks: int
    messages: int
    opened: int
    open: int
    ended: int
    submitted: int


@dataclass(eq=False)
class Worker:
    """A simulated worker, with a connection to the database of its own."""

    name: str
    database: Database
    dispatcher: Dispatcher
    num_slots: int
    entry: values.Worker = field(init=False)
    running: dict[str, Job] = field(default_factory=dict)
    stuck_after: int = 0

    @property
    def num_free(self) -> int:
        return self.num_slots - len(self.running)

    @property
    def capabilities(self) -> values.Capabilities:
        return values.Capabilities(memory_bytes=GIBIBYTE, worker=self.name)

    def register(self) -> None:
        description = values.WorkerDescription(
            id=self.name,
            hostname=self.name,
            pid=1,
            version="",
            schema_revision="",
            slots=self.num_slots,
            devices=(values.Device(kind="cpu", name="cpu", memory_bytes=GIBIBYTE, free_bytes=GIBIBYTE),),
        )
        with self.database.write() as session:
            self.entry = workers.register(session, description)

    def claim(self) -> bool:
        """Claim a job for a free slot, and return whether there was one."""
        with self.database.write() as session:
            job = self._claim(session)
        return self._add(job)

    def end_job(self) -> None:
        """End the oldest job with success, and claim the next one in the same transaction."""
        job = self.running.pop(next(iter(self.running)))
        with self.database.write() as session:
            attempts.succeed(session, job, {"artifact": ""})
            claimed = self._claim(session)
        self._add(claimed)

    def _claim(self, session: Session) -> Job | None:
        return claims.claim(
            session, worker=self.name, lease_seconds=LEASE_SECONDS, capabilities=self.capabilities, warm_base=None
        )

    def _add(self, job: Job | None) -> bool:
        if job is not None:
            self.running[job.id] = job
        return job is not None

    # What a worker does by itself, and how often.

    def maintain(self) -> None:
        """Look for what is due, as a worker does every second and after each job."""
        settlements.settle_due(self.database)
        self.dispatcher.dispatch_due()

    def report(self) -> None:
        with self.database.write() as session:
            schema_revisions.check(schema_revisions.read(session, ""), "")
            workers.heartbeat(session, self.entry)

    def sweep(self) -> None:
        with self.database.write() as session:
            attempts.expire_leases(session, values.RetryPolicy(), held=self.running)
            self.stuck_after = stuck_jobs.settle(session, after=self.stuck_after)
            workers.forget(session, silent=30 * DAY_SECONDS, stopped=DAY_SECONDS)
            listeners.forget(session)

    def prune(self) -> None:
        with self.database.write() as session:
            jobs.prune(session, older_than=90 * DAY_SECONDS, beyond=None)

    def look(self) -> None:
        """Let the idle slots look for jobs."""
        with self.database.read() as session:
            has_queued = outbox.has_queued(session)
        for _ in range(self.num_free if has_queued else 0):
            self.claim()

    def renew(self) -> None:
        for job in self.running.values():
            with self.database.write() as session:
                attempts.renew(session, job, LEASE_SECONDS)

    def write_events(self) -> None:
        """Write one event of each job in one transaction."""
        if self.running:
            event = NewEvent(type="progress", data={"step": 1, "steps": 100, "loss": 1.5})
            with self.database.write() as session:
                for job in self.running.values():
                    attempts.append_events(session, job, [event])


class Model:
    """A simulated fleet on one database."""

    def __init__(self, url: str, at: Broker, home: Path, options: argparse.Namespace) -> None:
        self._url, self._broker, self._random = url, at, random.Random(0)
        self._settings: Settings = settings.load(
            home=home, database_url=url, broker_url=at.url, allow_insecure=True, artifacts_url=str(home / "artifacts")
        )
        self._client = Database(url, allow_insecure=True)
        self._dispatcher = Dispatcher(self._settings, self._client)
        self._server = psycopg.connect(
            sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False), autocommit=True
        )
        # The WAL stays the same, and simulated commits do not wait for the disk.
        self._server.execute(f'ALTER DATABASE "{self._server.info.dbname}" SET synchronous_commit = off')
        self._workers = [self._make_worker(number, options.slots) for number in range(options.workers)]
        with self._client.read() as session:
            self._queue_key = f"{broker.key_prefix(deployment.find_id(session))}{broker.queue_name('default')}"

    def _make_worker(self, number: int, num_slots: int) -> Worker:
        database = Database(self._url, allow_insecure=True)
        worker = Worker(f"worker-{number:03}", database, Dispatcher(self._settings, database), num_slots)
        worker.register()
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.database.close()
        self._dispatcher.close()
        self._client.close()
        self._server.close()

    def submit(self, *, labels: tuple[str, ...] = ()) -> Job:
        with self._client.write() as session:
            new = values.NewJob.of_spec(SPEC, requirements=Requirements(labels=labels))
            (job,) = jobs.submit_many(session, [new])
        self._dispatcher.dispatch(job)
        return job

    def fill(self) -> None:
        """Let each slot claim a job."""
        for worker in self._workers:
            while worker.num_free and worker.claim():
                pass

    def run(self, *, ends: int, submissions: int) -> Cost:
        """Simulate a minute after a start, with so many ends of jobs and submissions, and return its cost."""
        count = itertools.count()
        plan: list[tuple[float, int, Callable[[], None]]] = []
        end = WARM_UP_SECONDS + 60.0

        def add(moment: float, action: Callable[[], None], every: float) -> None:
            while moment < end:
                plan.append((moment, next(count), action))
                moment += every

        intervals = self._settings
        for worker in self._workers:
            for action, every in (
                (worker.maintain, MAINTENANCE_SECONDS),
                (worker.report, intervals.heartbeat_seconds),
                (worker.renew, intervals.heartbeat_seconds),
                (worker.write_events, EVENT_SECONDS),
                (worker.sweep, intervals.sweep_seconds),
                (worker.look, LOOK_SECONDS),
                (worker.prune, PRUNE_SECONDS),
            ):
                add(self._random.uniform(0, every), action, every)
        for number, action in ((ends, self._end_a_job), (submissions, self._submit_one)):
            if number:
                add(self._random.uniform(0, 60 / number), action, 60 / number)
        heapq.heapify(plan)
        before = self._read_counters()
        is_warm = False
        with _counting() as counts:
            while plan:
                moment, _, action = heapq.heappop(plan)
                if moment >= WARM_UP_SECONDS and not is_warm:
                    is_warm, before = True, self._read_counters()
                    counts.clear()
                action()
                self._deliver()
        after = self._read_counters()
        return Cost(
            statements=counts["statements"],
            commits=counts["commits"],
            ended=ends,
            submitted=submissions,
            open=after["open"],
            **{name: after[name] - before[name] for name in ("wal_bytes", "blocks", "messages", "opened")},
        )

    def _submit_one(self) -> None:
        self.submit()

    def _end_a_job(self) -> None:
        busy = [worker for worker in self._workers if worker.running]
        if busy:
            worker = self._random.choice(busy)
            worker.end_job()
            worker.maintain()

    def _deliver(self) -> None:
        """Give each message that waits to an idle worker."""
        idle = [worker for worker in self._workers if worker.num_free]
        with self._broker.client() as client:
            while idle and client.rpop(self._queue_key):
                worker = self._random.choice(idle)
                worker.claim()

    def _read_counters(self) -> dict[str, int]:
        time.sleep(1.1)  # sessions tell their numbers once a second
        row = self._server.execute(
            "SELECT sessions, numbackends, pg_current_wal_lsn() - '0/0'::pg_lsn, blks_hit + blks_read"
            " FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
        assert row is not None
        with self._broker.client() as client:
            pushed = client.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"]
        names = ("opened", "open", "wal_bytes", "blocks")
        return {**{name: int(value) for name, value in zip(names, row, strict=True)}, "messages": int(pushed)}


@contextlib.contextmanager
def _counting() -> Iterator[collections.Counter[str]]:
    """Count the statements and the commits that this process sends."""
    counts: collections.Counter[str] = collections.Counter()

    def add_statement(*_: object) -> None:
        counts["statements"] += 1

    def add_commit(*_: object) -> None:
        counts["commits"] += 1

    added = (("before_cursor_execute", add_statement), ("commit", add_commit))
    for event, add in added:
        sa.event.listen(sa.Engine, event, add)
    try:
        yield counts
    finally:
        for event, add in added:
            sa.event.remove(sa.Engine, event, add)


def multiply(database: Database, job: Job, count: int, *, state: str = "queued") -> None:
    """Copy a queued job by SQL, because submitting a million takes too long."""
    changes = {"id": "md5(n || id || random())", "state": f"'{state}'"}
    if state != "queued":
        changes |= {"finished_at": "created_at", "last_seq": "3"}
    with database.write() as session:
        names = [name for name in session.scalars(sa.text(_COLUMNS)) if name != "number"]
        chosen = ", ".join(changes.get(name, f'"{name}"') for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        session.execute(sa.text("SET LOCAL statement_timeout = 0"))
        source = "jobs, generate_series(1, :count) AS n WHERE id = :job"
        session.execute(
            sa.text(f"INSERT INTO jobs ({columns}) SELECT {chosen} FROM {source}"), {"count": count, "job": job.id}
        )


_COLUMNS = (
    "SELECT column_name FROM information_schema.columns WHERE table_name = 'jobs' AND is_generated = 'NEVER'"
    " ORDER BY ordinal_position"
)


def measure(url: str, at: Broker, home: Path, waiting: int, options: argparse.Namespace) -> dict[str, Cost]:
    """Return the cost of an idle minute and of busy ones, beside so many jobs that wait."""
    model = Model(url, at, home, options)
    database = Database(url, allow_insecure=True)
    try:
        at.flush()
        multiply(database, model.submit(), options.finished, state="succeeded")
        for number in range(MISFITS):
            multiply(database, model.submit(labels=(f"misfit-{number}",)), waiting // MISFITS)
        model.fill()  # so that the first jobs are gone
        with database.write() as session:
            session.execute(sa.text("SET LOCAL statement_timeout = 0"))
            session.execute(sa.text("ANALYZE"))
        costs = {"idle beside jobs that fit nobody": model.run(ends=0, submissions=0)}
        multiply(database, model.submit(), waiting)
        model.fill()
        with database.write() as session:
            session.execute(sa.text("SET LOCAL statement_timeout = 0"))
            session.execute(sa.text("ANALYZE"))
        for ends in (80, 800):
            costs[f"busy, {ends} jobs end"] = model.run(ends=ends, submissions=ends)
        return costs
    finally:
        database.close()
        model.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--waiting", type=int, nargs=2, default=[10_000, 1_000_000], help="queued jobs that wait")
    parser.add_argument("--finished", type=int, default=100_000, help="jobs of the history")
    options = parser.parse_args()
    few, many = options.waiting
    with tempfile.TemporaryDirectory() as scratch, services.postgres(durable=True) as server:
        databases = services.Databases(Path(scratch), server)
        at = Broker()
        try:
            measured = {}
            for waiting in (few, many):
                home = Path(scratch) / str(waiting)
                home.mkdir()
                measured[waiting] = measure(databases.new(), at, home, waiting, options)
        finally:
            at.close()
            databases.close()
    shares = []
    for name, cost in measured[many].items():
        other = measured[few][name]
        print(f"\na minute, {name}")
        print(f"  {'':<16}{f'{few:,} wait':>16}{f'{many:,} wait':>18}")
        for figure, value in vars(cost).items():
            print(f"  {figure:<16}{getattr(other, figure):>16,}{value:>18,}")
        shares += [other.statements / cost.statements, other.wal_bytes / cost.wal_bytes]
    ours, peer = (sum(cost.statements for cost in measured[waiting].values()) for waiting in (many, few))
    print(json.dumps({"name": "fleet_model", "ours": ours, "peer": peer, "ratio": round(min(shares), 3)}))


if __name__ == "__main__":
    main()
