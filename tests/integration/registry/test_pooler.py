"""A pooler in transaction mode between the hub and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from support import pooler, registry
from support.services import Databases

from finch_hub import errors
from finch_hub.registry import attempts
from finch_hub.registry.database import Database
from finch_hub.specs.events import NewEvent
from finch_hub.specs.jobs import JobState

Open = Callable[..., Database]


@pytest.fixture(params=list(pooler.POOLERS))
def open_database(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Iterator[Open]:
    """Return the function that opens a new database through the pooler."""
    folder = sa.make_url(postgres_url).query["host"]
    if not isinstance(folder, str) or not folder.startswith("/"):
        pytest.skip("the pooler connects to a unix socket")
    databases = Databases(tmp_path, postgres_url)
    opened: list[Database] = []
    with pooler.POOLERS[request.param](Path(folder), pool_size=2) as port:

        def open_(options: str, *, is_empty: bool = False) -> Database:
            name = sa.make_url(databases.empty() if is_empty else databases.new()).database
            url = f"postgresql://postgres@127.0.0.1:{port}/{name}?{options}"
            opened.append(Database(url, allow_insecure=True))
            return opened[-1]

        yield open_
        for database in opened:
            database.close()
    databases.close()


def live_one_life(database: Database) -> None:
    registry.submit(database)
    job = registry.claimed(database)
    with database.write() as session:
        attempts.renew(session, job, 60)
    with database.write() as session:
        attempts.append_events(session, job, [NewEvent(type="message", message="half done")])
    assert registry.succeed(database, job).state is JobState.SUCCEEDED
    assert registry.get(database, job).state is JobState.SUCCEEDED


def test_jobs_live_through_a_pooler(open_database: Open) -> None:
    database = open_database("prepare_threshold=none")
    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(live_one_life, database) for _ in range(18)]:
            future.result()


def test_sessions_of_a_pooler_keep_no_setting(open_database: Open) -> None:
    database = open_database("prepare_threshold=none&options=-c%20lock_timeout%3D7s")
    for begin in (database.read, database.write):
        with begin() as session:
            assert session.scalar(sa.text("SHOW lock_timeout")) == "7s"
    assert database.url.port is not None
    host = f"host=127.0.0.1 port={database.url.port} user=postgres dbname={database.url.database}"
    with psycopg.connect(host, autocommit=True, prepare_threshold=None) as other:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout") * 2:
            row = other.execute(f"SHOW {name}").fetchone()  # type: ignore[arg-type, unused-ignore]
            assert row is not None
            assert row[0] == "0", name


@pytest.mark.slow
def test_schema_is_upgraded_through_a_pooler(open_database: Open) -> None:
    database = open_database("prepare_threshold=none", is_empty=True)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(database.upgrade) for _ in range(2)]:
            future.result()
    database.check()


def test_lost_prepared_statement_is_an_error_that_says_what_to_do(open_database: Open) -> None:
    database = open_database("prepare_threshold=0")

    def use_all_sessions() -> None:
        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(live_one_life, database) for _ in range(18)]:
                future.result()

    with pytest.raises(errors.Unavailable, match=r"add prepare_threshold=none to the options of FINCH_DATABASE_URL"):
        use_all_sessions()


def test_option_that_the_pooler_refuses_is_an_error_that_says_what_to_do(open_database: Open) -> None:
    database = open_database("options=-c%20search_path%3Dpublic")
    with pytest.raises(errors.Unavailable, match=r"unsupported startup parameter.*the pooler refuses an option"):
        database.check()
