"""Connections of senders: each has its own, and their end leaves none behind, whatever the broker does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from support.fleet import Broker, wait_until

from finch_hub.registry.database import Database
from finch_hub.workers.messaging import broker as names
from finch_hub.workers.messaging.sender import Sender

QUEUE = names.queue_name("default")


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


def count_connections(broker: Broker) -> int:
    client = broker.client()
    try:
        return len(client.client_list())
    finally:
        client.close()


def test_closed_sender_leaves_no_connection_and_others_go_on(broker: Broker, database: Database) -> None:
    before = count_connections(broker)
    first, second = (Sender(database, lambda: broker.url) for _ in range(2))
    first.send({QUEUE: ["a"]})
    second.send({QUEUE: ["b"]})
    assert count_connections(broker) > before
    first.close()
    assert second.send({QUEUE: ["c"]}) == {QUEUE: 3}
    second.close()
    wait_until(lambda: count_connections(broker) == before, "the connections to be closed")


def test_sender_can_be_closed_while_the_broker_is_frozen(broker: Broker, database: Database) -> None:
    before = count_connections(broker)
    sender = Sender(database, lambda: broker.url)
    sender.send({QUEUE: ["a"]})
    with broker.client() as client:
        pid = client.info()["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        sender.close()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: count_connections(broker) == before, "the connections to be closed")
