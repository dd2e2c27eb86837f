from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from support.fleet import Broker
from support.proxies import Proxy, make_certificate

from finch_hub import errors
from finch_hub.workers.messaging import app, broker


@pytest.fixture
def port(valkey_url: str) -> int:
    """Port of a broker on loopback."""
    return int(valkey_url.rpartition(":")[2].partition("/")[0])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path, name="127.0.0.1")


@pytest.fixture
def tls_port(port: int, certificate: Path) -> Iterator[int]:
    """Port of the broker with TLS."""
    proxy = Proxy(port, certificate=certificate)
    yield proxy.port
    proxy.close()


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://127.0.0.1/0",
        "redis://[::1]:6379/0",
        "redis+socket:///run/valkey.sock",
        "redis://:secret@broker.example/0",
    ],
)
def test_protected_broker_is_accepted(url: str) -> None:
    broker.refuse_open_broker(url, allow_insecure=False)


@pytest.mark.parametrize("url", ["redis://broker.example/0", "redis://10.0.0.5:6379/0", "redis://user@10.0.0.5/0"])
def test_open_broker_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="no password"):
        broker.refuse_open_broker(url, allow_insecure=False)
    broker.refuse_open_broker(url, allow_insecure=True)


@pytest.mark.parametrize(
    "url", ["http://:secret@localhost", "amqp://:secret@localhost", "sentinel://:secret@localhost"]
)
def test_address_with_another_scheme_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="redis://"):
        broker.refuse_open_broker(url, allow_insecure=True)


@pytest.mark.parametrize(
    "url", ["redis://:Hun/ter2secret@127.0.0.1:1/0", "redis://127.0.0.1:abc/0", "redis://127.0.0.1/abc"]
)
@pytest.mark.parametrize("allowed", [True, False])
def test_unreadable_address_is_refused_and_not_shown(url: str, allowed: bool) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"is not the address of a broker.*%2F") as caught:
        broker.refuse_open_broker(url, allow_insecure=allowed)
    assert "Hun" not in str(caught.value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("ssl_cert_reqs=maybe", "ssl_cert_reqs=maybe is unknown.*required or none"),
        ("ssl_check_hostname=0", "ssl_check_hostname=0 is unknown.*true or false"),
        ("ssl_ca_certs=/no/such/file", "/no/such/file of ssl_ca_certs is not a file"),
        ("ssl_ca_certs=", "is not a file"),
        ("timeout=3", "option.*unknown.*ssl_ca_certs"),
        ("timeout", "is not the address of a broker"),
    ],
)
def test_unusable_option_of_an_address_is_refused(query: str, match: str) -> None:
    with pytest.raises(errors.InvalidSpec, match=match):
        broker.refuse_open_broker(f"rediss://:secret@broker.example/0?{query}", allow_insecure=False)


def test_part_of_a_password_after_a_question_mark_is_not_shown() -> None:
    with pytest.raises(errors.InvalidSpec, match="%3F") as caught:
        broker.refuse_open_broker("redis://:Hun?third=2secret@127.0.0.1/0", allow_insecure=False)
    assert not any(part in str(caught.value) for part in ("Hun", "third", "2secret"))


def test_certificate_of_a_broker_is_verified_unless_the_address_says_otherwise(
    tls_port: int, certificate: Path, tmp_path: Path
) -> None:
    """A self-signed certificate is its own authority."""
    address = f"rediss://127.0.0.1:{tls_port}/0"
    other = make_certificate(tmp_path, name="other.example")
    for query in ("", "?ssl_check_hostname=true", "?ssl_cert_reqs=required", f"?ssl_ca_certs={other}"):
        with pytest.raises(errors.Unavailable, match=r"certificate of the broker .* is not valid.*ssl_ca_certs"):
            app.check_broker(address + query)
    for query in (f"?ssl_ca_certs={certificate}", "?ssl_cert_reqs=none", "?ssl_cert_reqs=CERT_NONE"):
        app.check_broker(address + query)


def test_certificate_for_another_host_is_refused_unless_the_address_says_otherwise(port: int, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path, name="other.example")
    proxy = Proxy(port, certificate=certificate)
    try:
        address = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={certificate}"
        with pytest.raises(errors.Unavailable, match="is not valid for"):
            app.check_broker(address)
        app.check_broker(f"{address}&ssl_check_hostname=false")
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "refused: OOM"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "refused: READONLY"),
    ],
)
def test_check_finds_a_broker_that_takes_no_messages(begin: tuple[str, ...], end: tuple[str, ...], words: str) -> None:
    made = Broker()
    try:
        with made.client() as client:
            client.execute_command(*begin)
            with pytest.raises(errors.Unavailable, match=words):
                app.check_broker(made.url)
            client.execute_command(*end)
            app.check_broker(made.url)
            assert not client.dbsize()
    finally:
        made.close()


@pytest.mark.parametrize("worker", [None, "one"])
def test_clients_and_workers_verify_the_certificate(tls_port: int, worker: str | None) -> None:
    made = app.make_app(f"rediss://127.0.0.1:{tls_port}/0", deployment="a", worker=worker)
    with made.connection_for_read() as connection, pytest.raises(redis.ConnectionError, match="VERIFY_FAILED"):
        connection.connect()
    made.close()


def test_application_accepts_only_json_and_acknowledges_early() -> None:
    made = app.make_app("redis://localhost/0", deployment="a", queues=("default", "gpu"), worker="one")
    assert made.conf.accept_content == ["json"]
    assert made.conf.task_serializer == "json"
    assert not made.conf.task_acks_late
    assert made.conf.result_backend is None
    assert {queue.name for queue in made.conf.task_queues} == {"jobs.default", "jobs.gpu", "worker.one"}


@pytest.mark.parametrize("worker", [None, "one"])
def test_no_connection_waits_for_ever(worker: str | None) -> None:
    options = app.make_app("redis://localhost/0", deployment="a", worker=worker).conf.broker_transport_options
    assert options["socket_timeout"] == options["socket_connect_timeout"] == app.TIMEOUT
    assert options["socket_keepalive"]
    assert options["max_retries"] == 0
