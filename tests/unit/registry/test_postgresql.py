from __future__ import annotations

import contextlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from support.fleet import wait_until

from finch_hub import errors
from finch_hub.registry.database import Database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://finch@db.example.com/finch",
        "postgresql+psycopg://finch@10.0.0.7:5433/finch",
        "postgresql://finch@/finch?host=127.0.0.1:5432&host=db2:5432",
    ],
)
def test_remote_server_without_password_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGPASSWORD", "PGPASSFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(errors.InvalidSpec, match=r"no password for the database at .*FINCH_ALLOW_INSECURE"):
        Database(url)
    Database(url, allow_insecure=True).close()
    monkeypatch.setenv("PGPASSWORD", "secret")
    Database(url).close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://finch@localhost/finch",
        "postgresql://finch@127.0.0.2/finch",
        "postgresql://finch@[::1]:5432/finch",
        "postgresql://finch@/finch?host=/run/postgresql",
        "postgresql:///finch",
        "postgresql://finch:secret@db.example.com/finch",
        "postgresql://finch@db.example.com/finch?passfile=/run/secrets/pgpass",
    ],
)
def test_local_server_or_credentials_are_accepted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    Database(url).close()


def administer(postgres_url: str, *statements: str) -> None:
    url = sa.make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_threads_share_the_connections_of_the_setting(postgres_url: str) -> None:
    url = sa.make_url(postgres_url).update_query_dict({"application_name": "finch-pool"})
    database = Database(url.render_as_string(hide_password=False), allow_insecure=True, connections=2)
    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'finch-pool'")

    def read(_: int) -> int:
        with database.read() as session:
            session.execute(sa.text("SELECT pg_sleep(0.05)"))
            return int(session.scalar(count) or 0)

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(read, range(16)))
    database.close()
    assert max(counts) == 2


def test_process_without_a_free_connection_says_what_to_do(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(postgres_url, allow_insecure=True, connections=1)
    monkeypatch.setattr(database._engine.pool, "_timeout", 0.1)
    with database.read() as session:
        session.execute(sa.text("SELECT 1"))
        with pytest.raises(errors.Unavailable, match=r"of this process are in use .raise FINCH_DATABASE_CONNECTIONS"):
            database.revision()
    assert database.revision() is None
    database.close()


def test_server_without_a_free_connection_says_what_to_do_and_is_used_later(postgres_url: str) -> None:
    role = f"finch_{secrets.token_hex(4)}"
    administer(postgres_url, f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    url = sa.make_url(postgres_url).set(username=role).render_as_string(hide_password=False)
    first, second = (Database(url, allow_insecure=True) for _ in range(2))
    with first.read() as session:
        session.execute(sa.text("SELECT 1"))
    advice = r"raise max_connections on the server, lower FINCH_DATABASE_CONNECTIONS, or run fewer workers"
    with pytest.raises(errors.Unavailable, match=f"too many connections.*{advice}"):
        second.revision()
    first.close()

    def is_usable() -> bool:  # the server ends the first one's process some time after the connection was closed
        with contextlib.suppress(errors.Unavailable):
            return second.revision() is None
        return False

    wait_until(is_usable, "the second client to be let in")
    second.close()
    administer(postgres_url, f"DROP ROLE {role}")


def test_statement_that_waits_too_long_for_a_lock_says_what_to_do(postgres_url: str) -> None:
    url = sa.make_url(postgres_url).update_query_dict({"options": "-c lock_timeout=50ms"})
    database = Database(url.render_as_string(hide_password=False), allow_insecure=True)
    lock = sa.text("SELECT pg_advisory_xact_lock(4711)")

    def wait() -> None:
        with database.write() as session:
            session.execute(lock)

    with database.write() as session:
        session.execute(lock)
        with pytest.raises(errors.Unavailable, match=r"lock timeout .another transaction holds the lock"):
            wait()
    wait()
    database.close()


def test_statement_that_runs_too_long_says_what_to_do(postgres_url: str) -> None:
    url = sa.make_url(postgres_url).update_query_dict({"options": "-c statement_timeout=1s"})
    database = Database(url.render_as_string(hide_password=False), allow_insecure=True)

    def sleep() -> None:
        with database.read() as session:
            session.execute(sa.text("SELECT pg_sleep(600)"))

    with pytest.raises(errors.Unavailable, match=r"statement timeout .*raise statement_timeout in FINCH_DATABASE_URL"):
        sleep()
    assert database.revision() is None
    database.close()
