"""Wake-up messages, with a real broker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import Broker
from support.proxies import Proxy

from finch_hub import settings
from finch_hub.registry import deployment, jobs, outbox, values, workers
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import ExportSpec, Requirements
from finch_hub.workers.messaging import dispatcher as module
from finch_hub.workers.messaging.broker import key_prefix
from finch_hub.workers.messaging.dispatcher import Dispatcher, UnreachableBrokerWarning


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'finch.db'}")
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def dispatcher(broker: Broker, database: Database, tmp_path: Path) -> Iterator[Dispatcher]:
    made = Dispatcher(settings.load(home=tmp_path, broker_url=broker.url), database)
    yield made
    made.close()


SPEC = ExportSpec(adapter="finch", format="peft", out="/nowhere")


def sent(broker: Broker, queue: str = "default") -> list[str]:
    """Return the arguments of the messages in a queue, of any deployment."""
    with broker.client() as client:
        waiting = [message for key in client.keys(f"finch:*:jobs.{queue}") for message in client.lrange(key, 0, -1)]
    bodies = [json.loads(message)["headers"] for message in waiting]
    return [body["argsrepr"] for body in bodies]


def test_submitted_job_gets_a_message_in_its_queue(broker: Broker, database: Database, dispatcher: Dispatcher) -> None:
    with database.write() as session:
        plain = jobs.submit(session, SPEC)
        other = jobs.submit(session, SPEC, requirements=Requirements(queue="gpu"))
        waiting = jobs.submit(session, SPEC, depends_on=[plain.id])
    dispatcher.dispatch(plain, other, waiting)
    assert sent(broker) == [f"['{plain.id}']"]
    assert sent(broker, "gpu") == [f"['{other.id}']"]


def test_job_whose_message_could_not_be_sent_is_due_again(
    broker: Broker, database: Database, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WAKE_UP_GRACE_SECONDS", 0.0)
    broker.kill()
    with database.write() as session:
        job = jobs.submit(session, SPEC)
    begun = time.monotonic()
    with pytest.warns(UnreachableBrokerWarning, match=r"are stored.*does not answer.*FINCH_BROKER_URL"):
        dispatcher.dispatch(job)
    assert time.monotonic() - begun < 10, "a client does not wait for a broker that does not answer"
    broker.start()
    dispatcher.close()
    assert dispatcher.dispatch_due() == 1
    assert sent(broker) == [f"['{job.id}']"]
    assert dispatcher.dispatch_due() == 0, "the next message is not due at once"


def test_job_is_stored_if_the_broker_refuses_its_message(
    broker: Broker,
    database: Database,
    dispatcher: Dispatcher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(jobs, "WAKE_UP_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    with database.write() as session:
        job = jobs.submit(session, SPEC)
    with broker.client() as client:
        for begin, end, words in (
            (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "refused: OOM"),
            (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "refused: READONLY"),
        ):
            client.execute_command(*begin)
            with pytest.warns(UnreachableBrokerWarning, match=f"are stored.*{words}"):
                dispatcher.dispatch(job)
            assert [dispatcher.dispatch_due() for _ in range(3)] == [0, 0, 0]
            assert caplog.text.count(words) == 1, "it is said once"
            client.execute_command(*end)
    assert dispatcher.dispatch_due() == 1
    assert sent(broker) == [f"['{job.id}']"]


def test_message_reaches_the_server_that_took_over(
    broker: Broker, database: Database, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """The old one lives on as a replica, and connections to it stay open."""
    successor, proxy = Broker(), Proxy(broker.socket)
    made = Dispatcher(settings.load(home=tmp_path, broker_url=f"redis://127.0.0.1:{proxy.port}/0"), database)
    try:
        with database.write() as session:
            first, second = (jobs.submit(session, SPEC) for _ in range(2))
        made.dispatch(first)
        assert sent(broker) == [f"['{first.id}']"]
        with broker.client() as client:
            client.replicaof("127.0.0.1", 1)
        proxy.target = successor.socket
        made.dispatch(second)
        assert sent(successor) == [f"['{second.id}']"]
    finally:
        made.close()
        proxy.close()
        successor.close()
    assert not recwarn.list


def test_dispatch_writes_nothing_after_its_messages(
    broker: Broker, database: Database, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that is woken skips locked rows, so it would find no job."""
    monkeypatch.setattr(jobs, "WAKE_UP_GRACE_SECONDS", 0.0)
    with database.write() as session:
        job = jobs.submit(session, SPEC)
    send = dispatcher._send

    def send_and_forbid_writing(messages: list[tuple[str, str]]) -> None:
        send(messages)
        monkeypatch.setattr(database, "write", None)

    monkeypatch.setattr(dispatcher, "_send", send_and_forbid_writing)
    assert dispatcher.dispatch_due() == 1
    assert sent(broker) == [f"['{job.id}']"]


def test_job_is_due_soon_after_a_failed_dispatch(
    broker: Broker, database: Database, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WAKE_UP_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    with database.write() as session:
        job = jobs.submit(session, SPEC)
    broker.kill()
    assert dispatcher.dispatch_due() == 0
    broker.start()
    dispatcher.close()
    assert dispatcher.dispatch_due() == 1
    assert sent(broker) == [f"['{job.id}']"]


def register(database: Database, name: str, *, slots: int = 1, labels: tuple[str, ...] = ()) -> values.Worker:
    with database.write() as session:
        return workers.register(
            session,
            values.WorkerDescription(
                id=name,
                hostname="box",
                pid=1,
                version="1",
                schema_revision="1",
                slots=slots,
                devices=(values.Device(kind="cpu", name="cpu", memory_bytes=2**40, free_bytes=2**40),) * slots,
                labels=labels,
            ),
        )


def test_wake_up_is_passed_on_to_each_slot_of_the_active_workers_that_fit(
    broker: Broker, database: Database, dispatcher: Dispatcher
) -> None:
    register(database, "fits", slots=2, labels=("big",))
    register(database, "unfit")
    for state in ("draining", "stopping"):
        register(database, state, labels=("big",))
        with database.write() as session:
            workers.request_state(session, state, state)
    with database.write() as session:
        job = jobs.submit(session, SPEC, requirements=Requirements(labels=("big",)))
        candidates = workers.find(session)
    assert dispatcher.wake_fitting(job, candidates) == ["fits"]
    with broker.client() as client:
        names = [worker.id for worker in candidates]
        with database.read() as session:
            prefix = key_prefix(deployment.find_id(session))
        lengths = {name: client.llen(f"{prefix}worker.{name}") for name in names}
    assert lengths == dict.fromkeys(names, 0) | {"fits": 2}


def test_messages_are_as_many_as_the_slots_if_there_are_many_jobs(
    broker: Broker, database: Database, dispatcher: Dispatcher
) -> None:
    """A slot that is awake works until no job is left."""
    with database.write() as session:
        many = [jobs.submit(session, SPEC) for _ in range(30)]
        few = [jobs.submit(session, SPEC, requirements=Requirements(queue="gpu")) for _ in range(3)]
    dispatcher.dispatch(*many, *few)
    assert (len(sent(broker)), len(sent(broker, "gpu"))) == (16, 3), "without workers, a few are sent"
    register(database, "one", slots=20)
    dispatcher.dispatch(*many, *few)
    assert (len(sent(broker)), len(sent(broker, "gpu"))) == (16 + 20, 3 + 3)


@pytest.mark.parametrize("lease_seconds", [30.0, 90.0])
def test_message_is_sent_again_after_a_minute_or_a_lease(
    broker: Broker, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease_seconds: float
) -> None:
    taken: list[float] = []
    monkeypatch.setattr(jobs, "WAKE_UP_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(outbox, "take_due", lambda session, *, limit, again_seconds: taken.append(again_seconds))
    with database.write() as session:
        jobs.submit(session, SPEC)
    made = Dispatcher(settings.load(home=tmp_path, broker_url=broker.url, lease_seconds=lease_seconds), database)
    assert made.dispatch_due() == 0
    assert taken == [min(60.0, lease_seconds)]
