"""Wake-up messages, with a real broker."""

from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import registry
from support.fleet import Broker
from support.logs import list_said
from support.proxies import Proxy

from finch_hub import settings
from finch_hub.registry import attempts, claims, deployment, values, workers
from finch_hub.registry.database import Database
from finch_hub.specs.jobs import ExportSpec, Job, Requirements
from finch_hub.workers.messaging.broker import key_prefix, own_queue_name
from finch_hub.workers.messaging.dispatcher import Dispatcher, FailedWorkerWarning, UnreachableBrokerWarning


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


def test_job_is_stored_although_the_home_cannot_be_written(database: Database, tmp_path: Path) -> None:
    """The disk is full, for instance."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "logs").write_text("no folder")
    job = registry.submit(database)
    dispatcher = Dispatcher(settings.load(home=home), database)
    with pytest.warns(FailedWorkerWarning, match=f"could not start.*{home}.*: File exists"):
        dispatcher.dispatch(job)
    dispatcher.close()


def test_submitted_job_gets_a_message_in_its_queue(broker: Broker, database: Database, dispatcher: Dispatcher) -> None:
    with database.write() as session:
        plain = registry.submit_job(session, SPEC)
        other = registry.submit_job(session, SPEC, requirements=Requirements(queue="gpu"))
        waiting = registry.submit_job(session, SPEC, depends_on=[plain.id])
    dispatcher.dispatch(plain, other, waiting)
    assert sent(broker) == [f"['{plain.id}']"]
    assert sent(broker, "gpu") == [f"['{other.id}']"]


def make_due(database: Database, *queued: Job) -> None:
    """Let a worker claim jobs and hand them back, so that workers send their messages."""
    with database.write() as session:
        for _ in queued:
            job = claims.claim(session, worker="w", lease_seconds=60, capabilities=registry.ANY_SLOT)
            assert job is not None
            attempts.hand_back(session, job)


def test_client_does_not_wait_for_a_broker_that_does_not_answer(
    broker: Broker, database: Database, dispatcher: Dispatcher
) -> None:
    broker.kill()
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
    with pytest.warns(UnreachableBrokerWarning, match=r"are stored.*does not answer.*FINCH_BROKER_URL"):
        dispatcher.dispatch(job)
    broker.start()
    dispatcher.dispatch(job)
    assert sent(broker) == [f"['{job.id}']"]


def test_job_that_is_due_gets_one_message(broker: Broker, database: Database, dispatcher: Dispatcher) -> None:
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
    make_due(database, job)
    assert [dispatcher.dispatch_due() for _ in range(3)] == [1, 0, 0]
    assert sent(broker) == [f"['{job.id}']"]


def test_job_is_stored_if_the_broker_refuses_its_message(
    broker: Broker, database: Database, dispatcher: Dispatcher, caplog: pytest.LogCaptureFixture
) -> None:
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
    with broker.client() as client:
        for begin, end, words in (
            (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "refused: OOM"),
            (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "refused: READONLY"),
        ):
            client.execute_command(*begin)
            with pytest.warns(UnreachableBrokerWarning, match=f"are stored.*{words}"):
                dispatcher.dispatch(job)
            for _ in range(3):
                make_due(database, job)
                assert dispatcher.dispatch_due() == 0
            assert str(list_said(caplog)).count(words) == 1, "it is said once"
            client.execute_command(*end)
    make_due(database, job)
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
            first, second = (registry.submit_job(session, SPEC) for _ in range(2))
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
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
    make_due(database, job)
    send = dispatcher._sender.send

    def send_and_forbid_writing(messages: dict[str, list[str]]) -> dict[str, int]:
        lengths = send(messages)
        monkeypatch.setattr(database, "write", None)
        return lengths

    monkeypatch.setattr(dispatcher._sender, "send", send_and_forbid_writing)
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


def own_queue_lengths(broker: Broker, database: Database) -> dict[str, int]:
    """Return the number of messages in the own queue of each worker."""
    with database.read() as session:
        prefix = key_prefix(deployment.find_id(session))
        names = [worker.id for worker in workers.find(session)]
    with broker.client() as client:
        return {name: client.llen(f"{prefix}{own_queue_name(name)}") for name in names}


def test_one_idle_worker_that_fits_is_woken(broker: Broker, database: Database, dispatcher: Dispatcher) -> None:
    for name, labels in (("unfit", ()), ("busy", ("big",)), ("fits", ("big",)), ("fits too", ("big",))):
        register(database, name, labels=labels)
    for state in ("draining", "stopping"):
        register(database, state, labels=("big",))
        with database.write() as session:
            workers.request_state(session, state, state)
    with database.write() as session:
        running, job = (
            registry.submit_job(session, SPEC, requirements=Requirements(labels=("big",))) for _ in range(2)
        )
        able = registry.ANY_SLOT.evolve(labels=("big",))
        claimed = claims.claim(session, worker="busy", lease_seconds=60, capabilities=able)
        assert claimed is not None
        assert claimed.id == running.id
    with database.read() as session:
        idle = workers.find_idle(session)
    woken = dispatcher.wake_fitting(job, idle)
    assert woken in ("fits", "fits too")
    assert own_queue_lengths(broker, database) == {
        name: int(name == woken) for name in ("unfit", "busy", "fits", "fits too", "draining", "stopping")
    }
    assert {woken, dispatcher.wake_fitting(job, idle)} == {"fits", "fits too"}, "the one with fewer messages is next"


def test_own_queue_holds_no_more_messages_than_the_worker_has_slots(
    broker: Broker, database: Database, dispatcher: Dispatcher
) -> None:
    register(database, "one", slots=2)
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
        idle = workers.find_idle(session)
    assert [dispatcher.wake_fitting(job, idle) for _ in range(4)] == ["one", "one", None, None]
    assert own_queue_lengths(broker, database) == {"one": 2}
    assert dispatcher.wake_fitting(job, []) is None


def test_messages_that_nobody_takes_are_as_many_as_the_slots_at_most(
    broker: Broker, database: Database, dispatcher: Dispatcher
) -> None:
    with database.write() as session:
        many = [registry.submit_job(session, SPEC) for _ in range(30)]
        few = [registry.submit_job(session, SPEC, requirements=Requirements(queue="gpu")) for _ in range(3)]
    dispatcher.dispatch(*many, *few)
    assert (len(sent(broker)), len(sent(broker, "gpu"))) == (16, 3), "without workers, a few are sent"
    register(database, "one", slots=20)
    for _ in range(3):
        dispatcher.dispatch(*many, *few)
        for job in many:
            dispatcher.dispatch(job)
    assert (len(sent(broker)), len(sent(broker, "gpu"))) == (20, 12), "and of another queue's jobs, a few"
    for _ in range(10):
        dispatcher.dispatch(*few)
    assert len(sent(broker, "gpu")) == 16


def test_jobs_of_all_needs_are_among_few_messages(broker: Broker, database: Database, dispatcher: Dispatcher) -> None:
    """Workers that fit the last job are woken too."""
    with database.write() as session:
        alike = [registry.submit_job(session, SPEC) for _ in range(30)]
        other = registry.submit_job(session, SPEC, requirements=Requirements(labels=("big",)))
    dispatcher.dispatch(*alike, other)
    messages = sent(broker)
    assert len(messages) == 16
    assert f"['{other.id}']" in messages


def test_messages_of_many_clients_at_once_stay_few(broker: Broker, database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        queued = [registry.submit_job(session, SPEC) for _ in range(100)]
    loaded = settings.load(home=tmp_path, broker_url=broker.url)
    clients = [Dispatcher(loaded, database) for _ in range(8)]
    with concurrent.futures.ThreadPoolExecutor(len(clients)) as threads:
        for _ in threads.map(lambda client: [client.dispatch(job) for job in queued], clients):
            pass
    for client in clients:
        client.close()
    assert len(sent(broker)) == 16


def test_every_queue_in_the_broker_expires(broker: Broker, database: Database, dispatcher: Dispatcher) -> None:
    """A killed worker leaves a queue of its own, and a queue of jobs may be served by nobody."""
    register(database, "one")
    with database.write() as session:
        job = registry.submit_job(session, SPEC)
        other = registry.submit_job(session, SPEC, requirements=Requirements(queue="gpu"))
        idle = workers.find_idle(session)
    dispatcher.dispatch(job, other)
    assert dispatcher.wake_fitting(job, idle) == "one"
    with broker.client() as client:
        keys = client.keys("*")
        assert len(keys) == 3
        assert all(0 < client.ttl(key) <= 60 for key in keys)
