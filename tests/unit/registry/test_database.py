from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from support import registry
from support.services import Databases, PostgresServer

from finch_hub import errors
from finch_hub.registry import bases, jobs, sqlite
from finch_hub.registry.database import Database


@pytest.fixture
def empty(databases: Databases) -> Database:
    return Database(databases.empty(), allow_insecure=True)


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    kept = registry.submit(database)
    with pytest.raises(errors.NotFound), database.write() as session:
        assert jobs.get(session, jobs.submit(session, registry.train_spec()).id + "x")
    with database.read() as session:
        assert jobs.find(session) == [kept]


def test_a_reading_session_can_change_nothing(database: Database) -> None:
    with (
        pytest.raises((errors.Unavailable, sa.exc.DBAPIError), match=r"readonly|read-only"),
        database.read() as session,
    ):
        jobs.submit(session, registry.train_spec())
    registry.submit(database)  # and the next writer gets a connection that can


def test_a_reading_session_sees_one_state(database: Database) -> None:
    with database.read() as session:
        before = jobs.count(session)
        registry.submit(database)
        assert jobs.count(session) == before
    with database.read() as session:
        assert jobs.count(session) != before


def test_sqlite_is_durable_and_shared(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'finch.db'}")
    database.upgrade()
    with database.read() as session:
        pragmas = {name: session.scalar(sa.text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")}
        pragmas["foreign_keys"] = session.scalar(sa.text("PRAGMA foreign_keys"))
    database.close()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_writer_waits_for_the_other_one(tmp_path: Path) -> None:
    file = tmp_path / "finch.db"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    with subprocess.Popen([sys.executable, "-c", _HOLD_LOCK, str(file)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        registry.submit(database)
    assert other.returncode == 0
    database.close()


_HOLD_LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(0.3)
connection.execute("COMMIT")
"""


def test_looking_for_a_database_makes_none(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'home' / 'finch.db'}")
    assert database.revision() is None
    with pytest.raises(errors.SchemaMismatch, match=r"has no tables yet .run `finch-hub db upgrade`"):
        database.check()
    assert list(tmp_path.iterdir()) == []
    database.upgrade()
    database.check()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    database.close()


def test_a_database_without_tables_says_what_to_do(empty: Database) -> None:
    with pytest.raises(errors.SchemaMismatch, match="finch-hub db upgrade"):
        empty.check()
    with pytest.raises(errors.SchemaMismatch, match="finch-hub db upgrade"), empty.read() as session:
        bases.find(session)
    empty.close()


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://u@localhost/finch",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "postgresql://finch:secret@127.0.0.1:notaport/finch",
        "postgresql://finch:secret@piece/secret@db.example/finch",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="use sqlite:///FILE or postgresql://") as caught:
        Database(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://finch@db.example.com/finch",
        "postgresql+psycopg://finch@10.0.0.7:5433/finch",
        "postgresql://finch@/finch?host=127.0.0.1:5432&host=db2:5432",
    ],
)
def test_an_open_server_off_this_machine_is_refused(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
def test_a_local_server_or_one_with_credentials_is_let_in(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    Database(url).close()


def test_a_server_that_does_not_answer_is_unavailable_and_its_password_stays_secret() -> None:
    database = Database("postgresql://finch:hunter2@127.0.0.1:9/finch?password=hunter2")
    with pytest.raises(errors.Unavailable, match=r"finch:\*\*\*@127.0.0.1:9/finch.*check that the server") as caught:
        database.check()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def test_a_server_that_comes_back_is_used_again() -> None:
    server = PostgresServer()
    database = Database(server.url())
    try:
        server.start()
        database.upgrade()
        job = registry.submit(database)
        server.kill()
        with pytest.raises(errors.Unavailable):
            registry.submit(database)
        server.start()
        assert registry.get(database, job) == job
    finally:
        database.close()
        server.remove()


def test_a_damaged_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "finch.db").write_bytes(b"no database" * 1000)
    with pytest.raises(errors.Unavailable, match="file is not a database"):
        Database(f"sqlite:///{tmp_path / 'finch.db'}").check()


def test_a_full_disk_is_unavailable_and_loses_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'finch.db'}")
    database.upgrade()
    job = registry.submit(database)
    with database.write() as session:
        session.execute(sa.text("PRAGMA max_page_count = 1"))  # the least is what it has; of the pool's one connection
    with pytest.raises(errors.Unavailable, match="full"):
        registry.submit(database, spec=registry.train_spec(base="b" * 100_000))
    assert registry.get(database, job) == job
    database.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_sqlite_on_a_network_file_system_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The one thing that a test machine does not have; what is asked of the system is asked for real below.
    monkeypatch.setattr(sqlite, "get_file_system", lambda path: kind)
    with pytest.raises(errors.InvalidSpec, match=f"network file system \\({kind}\\).*FINCH_HOME to a local disk"):
        Database(f"sqlite:///{tmp_path / 'finch.db'}")


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "not" / "yet" / "there.db"
    assert sqlite.get_file_system(missing) == sqlite.get_file_system(tmp_path) != ""
    (tmp_path / "share").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "share")
    mounts = [
        ("/", "ext4"),
        (str(tmp_path), "xfs"),
        (str(tmp_path / "share"), "ext4"),
        (str(tmp_path / "share"), "nfs4"),
    ]
    partitions = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]
    monkeypatch.setattr("psutil.disk_partitions", lambda **_: partitions)
    assert sqlite.get_file_system(missing) == "xfs"
    assert sqlite.get_file_system(tmp_path / "shared.db") == "xfs"
    assert sqlite.get_file_system(tmp_path / "share" / "finch.db") == "nfs4", "the last mount of a place is on top"
    assert sqlite.get_file_system(tmp_path / "link" / "finch.db") == "nfs4"
    assert sqlite.get_file_system(Path("/")) == "ext4"
