"""The job queue against bare Celery on the same broker: submissions, latency, throughput, and claims with history.

It also measures the start of a job on a loaded base, and the cost of the supervisor while a job trains.

Bare Celery runs an empty task and promises nothing more. The queue claims, leases, fences, supervises a child process,
and records events, attempts and results durably.
"""

from __future__ import annotations

if __name__ == "queue":
    # `python benchmarks/switch.py` puts this folder first on the path, so `import queue` in any library finds this
    # file. It passes on the standard module.
    import importlib.util
    import sys
    import sysconfig
    from pathlib import Path

    _spec = importlib.util.spec_from_file_location("queue", Path(sysconfig.get_path("stdlib")) / "queue.py")
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["queue"] = _module
    _spec.loader.exec_module(_module)
else:
    import argparse
    import contextlib
    import json
    import os
    import secrets
    import signal
    import statistics
    import subprocess
    import sys
    import tempfile
    import time
    from collections.abc import Callable, Iterator
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

    import psutil
    import sqlalchemy as sa
    from support import services
    from support.fleet import Broker, Fleet, fleet, wait_until
    from support.models import DEFAULT, save_model

    from finch_hub.engine.data.reading import dump_examples
    from finch_hub.registry import claims, jobs, values
    from finch_hub.registry.database import Database
    from finch_hub.specs.events import Event
    from finch_hub.specs.examples import Example
    from finch_hub.specs.jobs import BaseModelSource, ExportSpec, JobState, TrainSpec
    from finch_hub.specs.training import TrainingConfig

    TRAINING_SECONDS = 10.0  # of each of two measurements of the supervisor

    BARE = """
import time, celery, redis
app = celery.Celery(broker={url!r})
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=4, accept_content=["json"])
client = redis.Redis(unix_socket_path={socket!r})
@app.task(name="probe")
def probe(sent):
    client.rpush("latencies", time.time() - sent)
app.Worker(concurrency=4, pool={pool!r}, loglevel="WARNING", quiet=True, without_gossip=True, without_mingle=True,
           without_heartbeat=True).start()
"""

    SPEC = ExportSpec(adapter="probe-adapter", format="probe", out="/nowhere")

    @contextlib.contextmanager
    def bare_celery(broker: Broker, pool: str) -> Iterator[Callable[[int, float], list[float]]]:
        """Yield a function that sends `count` empty tasks, `pause` seconds apart, and returns their latencies."""
        import celery

        source = BARE.format(url=broker.url, socket=str(broker.socket), pool=pool)
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", source], start_new_session=True)
        app = celery.Celery(broker=broker.url, set_as_current=False)

        def run(count: int, pause: float) -> list[float]:
            with broker.client() as client:
                client.delete("latencies")
                with app.producer_or_acquire() as producer:
                    for _ in range(count):
                        app.send_task("probe", args=[time.time()], producer=producer, ignore_result=True)
                        time.sleep(pause)
                wait_until(lambda: client.llen("latencies") >= count, "the bare tasks", 120)
                return [float(seconds) for seconds in client.lrange("latencies", 0, -1)]

        try:
            run(20, 0.0)
            yield run
        finally:
            app.close()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def submissions(url: str) -> dict[str, float]:
        """Return submissions a second, one by one and a hundred in a transaction."""
        database = Database(url, allow_insecure=True)
        try:
            count, begun = 200, time.perf_counter()
            for _ in range(count):
                with database.write() as session:
                    jobs.submit_many(session, [values.NewJob.of_spec(SPEC)])
            single = count / (time.perf_counter() - begun)
            batches, begun = 10, time.perf_counter()
            for _ in range(batches):
                with database.write() as session:
                    jobs.submit_many(session, [values.NewJob.of_spec(SPEC)] * 100)
            return {"single": single, "batch": batches * 100 / (time.perf_counter() - begun)}
        finally:
            database.close()

    def latency(workers: Fleet, count: int) -> list[float]:
        """Return seconds from a submission to the child's first instruction, on a warm worker."""
        latencies = []
        for _ in range(count):
            begun = time.time()
            job = workers.probe()
            workers.wait(job)
            line = Path(f"{workers.job(job).spec['out']}.pids").read_text().split()
            latencies.append(float(line[1]) - begun)
        return latencies

    def throughput(workers: Fleet, count: int) -> float:
        """Return empty jobs a second through the warm slots, from the first submission to the last result."""
        begun = time.perf_counter()
        submitted = workers.probes(count)
        with workers.database.read() as session:
            last = [job.id for job in jobs.find(session, limit=count)]
        assert set(submitted) == set(last)
        wait_until(lambda: _have_ended(workers.database), "the jobs", 600)
        rate = count / (time.perf_counter() - begun)
        with workers.database.read() as session:
            ended = jobs.find(session, limit=count)
        assert all(job.state is JobState.SUCCEEDED and job.attempts == 1 for job in ended)
        return rate

    def _have_ended(database: Database) -> bool:
        time.sleep(0.05)
        with database.read() as session:
            states = jobs.count(session)
        return states[JobState.QUEUED] + states[JobState.RUNNING] == 0

    def claim_seconds(url: str, history: int) -> float:
        """Return the median seconds of a claim beside finished jobs."""
        database = Database(url, allow_insecure=True)
        try:
            with database.write() as session:
                jobs.submit_many(session, [values.NewJob.of_spec(SPEC)])
            _make_history(database, history)
            with database.write() as session:
                jobs.submit_many(session, [values.NewJob.of_spec(SPEC)] * 60)
            capabilities = values.Capabilities(memory_bytes=2**40)
            seconds = []
            for _ in range(60):
                begun = time.perf_counter()
                with database.write() as session:
                    assert claims.claim(session, worker="w", lease_seconds=600, capabilities=capabilities)
                seconds.append(time.perf_counter() - begun)
            return statistics.median(seconds[10:])
        finally:
            database.close()

    def training(workers: Fleet, base: Path) -> dict[str, float]:
        """Return the start times of two trainings of one base, and the cost of their supervisor."""
        worker = workers.start("trainer")
        supervisor = psutil.Process(worker.pid)
        examples = [Example.of_pair(f"What does finch {n} eat?", f"Finch {n} eats {n} seeds.") for n in range(64)]
        digest = workers.artifacts.put(dump_examples(examples))
        config = TrainingConfig(epochs=10_000, batch_size=8, evaluate_every=10_000, dtype="float32", threads=1)
        spec = TrainSpec(adapter="finches", base=BaseModelSource(source=str(base)), train=digest, training=config)
        starts, used, passed = [], 0.0, 0.0
        for _ in range(2):
            job = workers.submit(spec)
            wait_until(lambda job=job: bool(_steps(workers, job)), "the first step", 120)  # type: ignore[misc]
            first = _steps(workers, job)[0].at
            starts.append((first - workers.job(job).created_at).total_seconds())
            before, begun = supervisor.cpu_times(), time.perf_counter()
            time.sleep(TRAINING_SECONDS)
            assert workers.job(job).state is JobState.RUNNING, "the training ended too soon"
            after = supervisor.cpu_times()
            used += after.user + after.system - before.user - before.system
            passed += time.perf_counter() - begun
            memory = worker.memory()
            workers.cancel(job)
            workers.wait(job)
        return {
            "first_start_s": starts[0],
            "second_start_s": starts[1],
            "warm_ratio": starts[0] / starts[1],
            "supervisor_percent_of_a_core": 100 * used / passed,
            "supervisor_pss_mb": memory / 1e6,
        }

    def _steps(workers: Fleet, job: str) -> list[Event]:
        with workers.database.read() as session:
            return [event for event in jobs.list_events(session, job) if event.type == "progress"]

    def _make_history(database: Database, count: int) -> None:
        """Copy the only job into finished jobs by SQL, because submitting a million takes too long."""
        with database.write() as session:
            row = dict(session.execute(sa.text("SELECT * FROM jobs LIMIT 1")).one()._mapping)
            for name in ("spec", "labels"):
                if not isinstance(row[name], str):
                    row[name] = json.dumps(row[name])
            row |= {"state": "succeeded", "ring_at": None, "finished_at": row["created_at"], "last_seq": 3}
            columns = [name for name in row if name != "number"]
            insert = sa.text(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join(':' + c for c in columns)})")
            while count > 0:
                copies = [{**row, "id": secrets.token_hex(8)} for _ in range(min(count, 10_000))]
                session.execute(insert, copies)
                count -= len(copies)
        with database.write() as session:
            session.execute(sa.text("ANALYZE"))

    def main() -> None:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--jobs", type=int, default=1000, help="empty jobs of the throughput")
        parser.add_argument("--samples", type=int, default=60, help="jobs of the latency")
        parser.add_argument(
            "--history", type=int, default=1_000_000, help="finished jobs beside which claims are measured"
        )
        options = parser.parse_args()
        report: dict[str, object] = {"name": "queue"}
        with tempfile.TemporaryDirectory() as scratch, services.postgres(durable=True) as server:
            for engine in ("sqlite", "postgresql"):
                folder = Path(scratch) / engine
                folder.mkdir()
                databases = services.Databases(folder, server if engine == "postgresql" else None)
                try:
                    report[engine] = _measure(folder, databases, options)
                finally:
                    databases.close()
        sqlite = report["sqlite"]
        report |= {"ours": sqlite["jobs_per_second"], "peer": sqlite["celery_tasks_per_second"]}  # type: ignore[index]
        report["ratio"] = report["ours"] / report["peer"]  # type: ignore[operator]
        print(json.dumps(report))

    def _measure(folder: Path, databases: services.Databases, options: argparse.Namespace) -> dict[str, float]:
        rates = submissions(databases.new())
        few, many = claim_seconds(databases.new(), 1000), claim_seconds(databases.new(), options.history)
        for name in ("fleet", "trainer"):
            (folder / name).mkdir()
        normal = {"lease_seconds": 60, "heartbeat_seconds": 5, "sweep_seconds": 15}
        with fleet(folder / "fleet", databases.new(), **normal) as workers:
            workers.start(slots=4)
            throughput(workers, 40)  # warms all four slots
            ours_latency, ours_rates, bare_latency, bare_rates = [], [], [], []
            for pool in ("threads", "prefork"):  # the peer at its better setting
                with bare_celery(workers.broker, pool) as run:
                    ours_latency += latency(workers, options.samples // 2)
                    bare_latency += run(options.samples // 2, 0.02)
                    ours_rates.append(throughput(workers, options.jobs))
                    begun = time.perf_counter()
                    run(options.jobs, 0.0)
                    bare_rates.append(options.jobs / (time.perf_counter() - begun))
        with fleet(folder / "trainer", databases.new(), **normal) as workers:
            trained = training(workers, save_model(DEFAULT, folder / "base"))
        figures = {
            "submissions_per_second": rates["single"],
            "submissions_per_second_in_batches": rates["batch"],
            "latency_p50_ms": 1e3 * statistics.median(ours_latency),
            "latency_p95_ms": 1e3 * _p95(ours_latency),
            "celery_latency_p95_ms": 1e3 * _p95(bare_latency),
            "jobs_per_second": statistics.median(ours_rates),
            "celery_tasks_per_second": max(bare_rates),
            "claim_ms_after_1000": 1e3 * few,
            f"claim_ms_after_{options.history}": 1e3 * many,
            **trained,
        }
        print(f"\n{folder.name}")
        for name, value in figures.items():
            print(f"  {name:<36}{value:>12.2f}")
        return figures

    def _p95(values_: list[float]) -> float:
        return sorted(values_)[int(0.95 * (len(values_) - 1))]

    if __name__ == "__main__":
        main()
