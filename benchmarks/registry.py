"""The registry with a million versions: references, ten searches, words, registrations; and beside MLflow.

MLflow registers as many versions as we do then, sets as many aliases and reads as many pages, on SQLite too. Each
registers half of the versions from one thread and half from eight, as the slots of a worker do, and its faster half
counts. `ratio` is the worst of the three over its goal: 5 times as many registrations a second, 3 times as many
aliases, 4 times as many pages.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import mlflow_peer
import psycopg
import sqlalchemy as sa
from support import registry, services

from finch_hub.registry import adapter_versions, adapters, bases, search_index, tables, values, version_search
from finch_hub.registry.database import Database
from finch_hub.registry.sqlite import _configure

PAGE = 50
QUERIES = (
    ("", "-created"),
    ("state:quarantined", "-created"),
    ("base:base-7", "name"),
    ("kind:compose tag:owner=ana", "-updated"),
    ("metric.loss_after<0.6", "metric.loss_after"),
    ("lora.r=64 state:ready", "-metric.loss_after"),
    ("tag:gold -state:quarantined created>2025-02-01", "created"),
    ("name:adapter-12* base:base-3", "-created"),
    ("parent:adapter-5/3", "-created"),
    ("data:set-77 metric.loss_after<2 preset:quality", "metric.loss_after"),
)
WORDS = ("topic17", "topic42 adapter", '"answers about topic99"', "topic5 base:base-5", "-gold topic63")
GOALS = {"register": 5.0, "alias": 3.0, "page": 4.0}
BASES, PER_ADAPTER, DATASETS = 20, 100, 1000
SPEC_RANKS = (8, 16, 16, 16, 32, 64)
COMMON = [f"word{number}" for number in range(3000)]
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)

THREADS = (1, 8)

_MLFLOW = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from mlflow import MlflowClient
count, page, threads = int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])
names = [f"adapter-{n}" for n in range(max(count // 100, 1))]
for name in names:
    client.create_registered_model(name)
def register(n):
    client.create_model_version(names[n % len(names)], source="/models/x", tags={"loss_after": str(n % 97)})
rates = {}
for number in threads:
    half = count // len(threads)
    begun = time.perf_counter()
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(register, range(half)))
    rates[f"register_{number}"] = half / (time.perf_counter() - begun)
aliases = min(count, 500)
begun, used = time.perf_counter(), time.process_time()
for n in range(aliases):
    client.set_registered_model_alias(names[n % len(names)], "best", 1 + n % 3)
alias, alias_cpu = aliases / (time.perf_counter() - begun), aliases / (time.process_time() - used)
pages, token = 40, None
begun, used = time.perf_counter(), time.process_time()
for _ in range(pages):
    found = client.search_model_versions(max_results=page, order_by=["last_updated_timestamp DESC"], page_token=token)
    token = found.token or None
read, read_cpu = pages / (time.perf_counter() - begun), pages / (time.process_time() - used)
print(json.dumps({"register": max(rates.values()), **rates, "alias": alias, "page": read,
                  "alias_cpu": alias_cpu, "page_cpu": read_cpu}))
"""


def make_rows(count: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]]:
    """Yield versions with their tags and parents. The same number gives the same rows."""
    chosen = random.Random(count)
    for number in range(count):
        key, adapter = number + 1, number // PER_ADAPTER
        kind = ("train", "train", "train", "compose", "import")[number % 5]
        rank = SPEC_RANKS[number % len(SPEC_RANKS)]
        digest = f"{key:064x}"
        made = BEGIN + timedelta(seconds=30 * number)
        loss = chosen.lognormvariate(0.5, 0.4)
        words = chosen.choices(COMMON, k=40)
        version = {
            "id": key,
            "adapter_id": adapter + 1,
            "number": number % PER_ADAPTER + 1,
            "digest": digest,
            "identity": digest,
            "base_id": chosen.randrange(BASES) + 1,
            "kind": kind,
            "state": "quarantined" if number % 100 == 7 else "ready",
            "spec": {"lora": {"rank": rank, "alpha": 32.0}, "training": {"epochs": 3, "learning_rate": 2e-4}},
            "metrics": {
                "loss_before": loss + 1,
                "loss_after": loss,
                "rank": rank,
                "bytes": 9_000_000,
                "tokens": 81_920,
            },
            "train_digest": f"{chosen.randrange(DATASETS):064x}",
            "versions": {},
            "environment": {},
            "card": f"# adapter-{adapter}\nIt answers about topic{chosen.randrange(100)}. {' '.join(words)}",
            "created_at": made,
            "owner": ("ana", "ben", "cleo", "")[number % 4],
            "preset": ("quick", "balanced", "quality")[number % 3],
            "updated_at": made + timedelta(days=number % 90) if chosen.random() < 0.1 else None,
        }
        tags = [{"version_id": key, "name": "owner", "value": ("ana", "ben", "cleo")[adapter % 3]}]
        if chosen.random() < 0.02:
            tags.append({"version_id": key, "name": "gold", "value": ""})
        parents = []
        if kind == "compose":
            parents = [{"version_id": key, "position": 0, "parent_id": chosen.randrange(key) + 1, "weight": 1.0}]
        yield version, tags, parents


def fill(database: Database, count: int) -> dict[str, float]:
    """Insert the versions in bulk, and build the index as a migration does."""
    begun = time.perf_counter()
    names = [
        {"id": n + 1, "name": f"adapter-{n}", "versions_made": PER_ADAPTER} for n in range(-(-count // PER_ADAPTER))
    ]
    bases = [
        {"name": f"base-{n}", "source": f"/b/{n}", "fingerprint": f"{n:064x}", "architecture": "L", "parameters": 1}
        for n in range(BASES)
    ]
    stored = [
        {"name": f"set-{n}", "digest": f"{n:064x}", "format": "m", "examples": 9, "bytes": 9} for n in range(DATASETS)
    ]
    with database.write() as session:
        search_index.drop(session.connection())
        session.execute(sa.insert(tables.Base.__table__), bases)
        session.execute(sa.insert(tables.Dataset.__table__), stored)
        session.execute(sa.insert(tables.Adapter.__table__), names)
    rows = make_rows(count)
    while batch := list(itertools.islice(rows, 5000)):
        with database.write() as session:
            session.execute(sa.insert(tables.AdapterVersion.__table__), [row[0] for row in batch])
            session.execute(sa.insert(tables.Tag.__table__), [tag for row in batch for tag in row[1]])
            session.execute(sa.insert(tables.Parent.__table__), [parent for row in batch for parent in row[2]])
    if not database.is_sqlite:
        with database.write() as session:
            session.execute(
                sa.text("SELECT setval(pg_get_serial_sequence('adapter_versions', 'id'), :n)"), {"n": count}
            )
            session.execute(sa.text("SELECT setval(pg_get_serial_sequence('adapters', 'id'), :n)"), {"n": len(names)})
    inserted = time.perf_counter() - begun
    begun = time.perf_counter()
    with database.migrate() as connection:
        search_index.build(connection)
    built = time.perf_counter() - begun
    if not database.is_sqlite:
        url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    return {"insert_s": round(inserted, 1), "build_index_s": round(built, 1)}


def measure(call: Callable[[int], object], times: int) -> dict[str, float]:
    """Return the 50th and 95th percentile of the milliseconds of a call, and of those of this process's CPU."""
    for number in range(3):
        call(number)
    walls, cpus = [], []
    for number in range(times):
        begun, used = time.perf_counter(), time.process_time()
        call(number)
        walls.append(1000 * (time.perf_counter() - begun))
        cpus.append(1000 * (time.process_time() - used))
    walls.sort()
    cpus.sort()
    place = min(int(times * 0.95), times - 1)
    return {
        "p50_ms": round(walls[times // 2], 2),
        "p95_ms": round(walls[place], 2),
        "cpu_p95_ms": round(cpus[place], 2),
    }


def search(database: Database, query: str, sort: str) -> values.VersionPage:
    with database.read() as session:
        return version_search.find(session, query, sort=sort, limit=PAGE)


def measure_searches(database: Database, queries: tuple[tuple[str, str], ...], times: int) -> dict[str, Any]:
    found = {}
    for query, sort in queries:
        rows = len(search(database, query, sort).versions)
        timing = measure(lambda _, query=query, sort=sort: search(database, query, sort), times)  # type: ignore[misc]
        found[f"{query} | {sort}"] = {"rows": rows, **timing}
    return {"worst_p95_ms": max(item["p95_ms"] for item in found.values()), "queries": found}


def measure_references(database: Database, count: int) -> dict[str, float]:
    chosen = random.Random(0)
    adapters_made = max(count // PER_ADAPTER, 1)

    def resolve(number: int) -> None:
        name = f"adapter-{chosen.randrange(adapters_made)}"
        reference = name if number % 2 else f"{name}/{chosen.randrange(PER_ADAPTER) + 1}"
        with database.read() as session:
            adapter_versions.resolve(session, reference)

    return measure(resolve, 500)


def raw_commits(database: Database, seconds: float) -> float:
    """Return the commits a second of the bare driver, each of one small row."""
    if database.is_sqlite:
        connection: Any = sqlite3.connect(str(database.url.database))
        _configure(connection, None, read_only=False, foreign_keys=True)
        begin, place = "BEGIN IMMEDIATE", "?"
    else:
        url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(url, autocommit=True)
        begin, place = "BEGIN", "%s"
    connection.execute("CREATE TABLE IF NOT EXISTS bench_commits (n INTEGER PRIMARY KEY, t TEXT)")
    done, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        connection.execute(begin)
        connection.execute(f"INSERT INTO bench_commits VALUES ({place}, 'a version')", (done,))
        connection.execute("COMMIT")
        done += 1
    rate = done / (time.perf_counter() - begun)
    connection.execute("DROP TABLE bench_commits")
    connection.close()
    return rate


def register(database: Database, base: values.Base, name: str, number: int) -> values.AdapterVersion:
    digest = f"{number:064x}"
    metrics = {"loss_before": 3.0, "loss_after": number % 97 / 50, "rank": 16}
    with database.write() as session:
        return adapter_versions.create(
            session,
            name=name,
            digest=digest,
            identity=digest,
            base=base,
            kind="train",
            spec={"lora": {"rank": 16}, "training": {"epochs": 3}},
            metrics=metrics,
            card=f"# {name}\nIt answers about topic{number % 100}.",
        )


def register_rate(database: Database, seconds: float) -> dict[str, float]:
    """Return registrations and bare commits a second, measured in turns."""
    with database.read() as session:
        base = bases.get(session, "base-0")
    rates: dict[str, list[float]] = {"commits": [], "registrations": [], "cpu_ms": []}
    number = 10**9
    for turn in range(3):
        rates["commits"].append(raw_commits(database, seconds))
        done, begun, used = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begun < seconds:
            number += 1
            register(database, base, f"bench-{turn}", number)
            done += 1
        rates["registrations"].append(done / (time.perf_counter() - begun))
        rates["cpu_ms"].append(1000 * (time.process_time() - used) / done)
    middle = {name: sorted(found)[1] for name, found in rates.items()}
    return {
        "commits_per_s": round(middle["commits"]),
        "registrations_per_s": round(middle["registrations"]),
        "registration_cpu_ms": round(middle["cpu_ms"], 2),
        "share": round(middle["registrations"] / middle["commits"], 2),
    }


def beside_mlflow(folder: Path, count: int) -> dict[str, Any]:
    """Return the rates of both, or why MLflow could not be installed."""
    try:
        python = str(mlflow_peer.install() / "python")
    except RuntimeError as error:
        return {"error": str(error)}
    ours = _measure_ours(folder, count)
    command = [
        python,
        "-W",
        "ignore",
        "-c",
        _MLFLOW,
        f"sqlite:///{folder / 'mlflow.db'}",
        str(count),
        str(PAGE),
        json.dumps(THREADS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"ours": ours, "error": f"MLflow failed: {done.stderr.strip()[-500:]}"}
    peer = json.loads(done.stdout.splitlines()[-1])
    times = {name: ours[name] / peer[name] for name in GOALS}
    return {
        "ours": ours,
        "mlflow": peer,
        "times": times,
        "ratio": min(times[name] / goal for name, goal in GOALS.items()),
    }


def _measure_ours(folder: Path, count: int) -> dict[str, float]:
    made = services.Databases(folder, None)
    database = Database(made.new(), allow_insecure=True)
    base = registry.add_base(database)
    names = [f"adapter-{number}" for number in range(max(count // PER_ADAPTER, 1))]
    rates: dict[str, float] = {}

    def rate(name: str, times: int, call: Callable[[int], object]) -> None:
        begun, used = time.perf_counter(), time.process_time()
        for number in range(times):
            call(number)
        rates[name] = times / (time.perf_counter() - begun)
        rates[f"{name}_cpu"] = times / (time.process_time() - used)

    def set_alias(number: int) -> None:
        with database.write() as session:
            adapters.set_alias(session, names[number % len(names)], "best", 1 + number % 3)

    cursors: list[str | None] = [None]

    def read_page(_: int) -> None:
        with database.read() as session:
            page = version_search.find(session, sort="-updated", limit=PAGE, after=cursors[-1])
        cursors.append(page.next)

    try:
        for place, threads in enumerate(THREADS):
            half = count // len(THREADS)
            begun = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                numbers = range(place * half, (place + 1) * half)
                list(pool.map(lambda number: register(database, base, names[number % len(names)], number), numbers))
            rates[f"register_{threads}"] = half / (time.perf_counter() - begun)
        rates["register"] = max(rates.values())
        rate("alias", min(count, 500), set_alias)
        rate("page", 40, read_page)
    finally:
        database.close()
        made.close()
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--beside", type=int, default=10_000, help="versions beside MLflow; 0 leaves it out")
    parser.add_argument("--times", type=int, default=40, help="repetitions of a search")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement of registrations")
    parser.add_argument("--engines", nargs="*", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    report: dict[str, Any] = {"name": "registry", "versions": options.versions, "machine": platform.platform()}
    with tempfile.TemporaryDirectory() as scratch, services.postgres(durable=True) as server:
        for engine in options.engines:
            folder = Path(scratch) / engine
            folder.mkdir()
            made = services.Databases(folder, server if engine == "postgresql" else None)
            database = Database(made.new(), allow_insecure=True)
            try:
                report[engine] = fill(database, options.versions)
                print(engine, report[engine], file=sys.stderr, flush=True)
                report[engine] |= {
                    "reference": measure_references(database, options.versions),
                    "searches": measure_searches(database, QUERIES, options.times),
                    "words": measure_searches(database, tuple((text, "-created") for text in WORDS), options.times),
                    "registering": register_rate(database, options.seconds),
                }
                print(json.dumps(report[engine], indent=1), file=sys.stderr, flush=True)
            finally:
                database.close()
                made.close()
        if options.beside:
            (Path(scratch) / "beside").mkdir()
            beside = beside_mlflow(Path(scratch) / "beside", options.beside)
            report |= {"beside": beside, "ratio": round(beside.get("ratio", 0.0), 3)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
