from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.workers.messaging import app, broker


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


@pytest.mark.parametrize("url", ["http://:secret@localhost", "amqp://:secret@localhost"])
def test_address_with_another_scheme_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidSpec, match="redis://"):
        broker.refuse_open_broker(url, allow_insecure=True)


@pytest.mark.parametrize("url", ["redis://:Hun/ter2secret@127.0.0.1:1/0", "redis://127.0.0.1:abc/0"])
@pytest.mark.parametrize("allowed", [True, False])
def test_unreadable_address_is_refused_and_not_shown(url: str, allowed: bool) -> None:
    with pytest.raises(errors.InvalidSpec, match=r"is not the address of a broker.*%2F") as caught:
        broker.refuse_open_broker(url, allow_insecure=allowed)
    assert "Hun" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_application_accepts_only_json_and_acknowledges_early() -> None:
    made = app.make_app("redis://localhost/0", queues=("default", "gpu"), worker="one")
    assert made.conf.accept_content == ["json"]
    assert made.conf.task_serializer == "json"
    assert not made.conf.task_acks_late
    assert made.conf.result_backend is None
    assert {queue.name for queue in made.conf.task_queues} == {"jobs.default", "jobs.gpu", "worker.one"}


def test_client_has_a_read_timeout_and_a_worker_has_none() -> None:
    client, worker = (made.conf.broker_transport_options for made in (
        app.make_app("redis://localhost/0"), app.make_app("redis://localhost/0", worker="one")))  # fmt: skip
    assert client["socket_timeout"] == app.PUBLISH_TIMEOUT
    assert "socket_timeout" not in worker
