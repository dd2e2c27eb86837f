"""A server that vanished: the proxy in front of it acknowledges everything and forwards nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import registry
from support.services import Databases
from support.tcp_proxy import TcpProxy

from finch_hub import errors
from finch_hub.registry import postgresql
from finch_hub.registry.database import Database
from finch_hub.registry.postgresql_connection import Connection

OPTIONS = "?connect_timeout=2&options=-c%20statement_timeout%3D1s"


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[TcpProxy]:
    folder = sa.make_url(postgres_url).query["host"]
    if not isinstance(folder, str) or not folder.startswith("/"):
        pytest.skip("the proxy connects to a unix socket")
    made = TcpProxy(Path(folder) / ".s.PGSQL.5432")
    yield made
    made.close()


@pytest.fixture
def database(proxy: TcpProxy, postgresql_databases: Databases) -> Iterator[Database]:
    url = postgresql_databases.new()
    name = sa.make_url(url).database
    made = Database(f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}{OPTIONS}", allow_insecure=True)
    yield made
    made.close()
    postgresql_databases.drop(url)


def test_statement_ends_when_the_server_vanishes_while_it_runs(database: Database, proxy: TcpProxy) -> None:
    job = registry.submit(database)

    def write() -> None:
        with database.write() as session:
            session.execute(sa.text("SELECT 1"))
            proxy.is_silent = True
            session.execute(sa.text("SELECT 2"))

    with pytest.raises(errors.Unavailable, match=r"server did not answer within 6 s"):
        write()
    proxy.is_silent = False
    assert registry.get(database, job) == job


def test_rested_connection_is_given_up_soon(
    database: Database, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_CHECK_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(postgresql, "_CHECK_SECONDS", 0.2)
    job = registry.submit(database)
    proxy.is_silent = True
    for _ in range(2):  # neither the old connection nor a new one waits for ever
        with pytest.raises(errors.Unavailable, match="timeout expired"):
            registry.get(database, job)
    proxy.is_silent = False
    assert registry.get(database, job) == job
    assert proxy.num_connections > 1


def test_many_threads_see_the_server_again(
    database: Database, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_CHECK_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(postgresql, "_CHECK_SECONDS", 0.2)
    job = registry.submit(database)
    outcomes: list[str] = []

    def read() -> None:
        try:
            registry.get(database, job)
        except errors.Unavailable:
            outcomes.append("unavailable")

    proxy.is_silent = True
    threads = [threading.Thread(target=read) for _ in range(6)]  # twice as many as connections
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["unavailable"] * 6
    proxy.is_silent = False
    for _ in threads:
        assert registry.get(database, job) == job


def test_socket_gives_up_on_a_host_that_acknowledges_nothing(database: Database) -> None:
    with database.read() as session:
        driver = session.connection().connection.dbapi_connection
        assert isinstance(driver, Connection)
        with socket.socket(fileno=driver.fileno()) as opened:
            level, option = socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None)
            alive = opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            timeout = None if option is None else opened.getsockopt(level, option)
            opened.detach()
    assert alive
    assert timeout in (None, 15_000)


def test_answer_that_takes_longer_than_a_look_is_awaited(database: Database) -> None:
    with database.read() as session:
        assert session.scalar(sa.text("SELECT 7 FROM pg_sleep(0.3)")) == 7
