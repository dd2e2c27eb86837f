"""Faults of the broker and of its messages, none of which may lose or repeat a job."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import pickle
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import celery
import pytest
import redis
from support import services
from support.fleet import Broker, Fleet, fleet, wait_until
from support.proxies import Proxy

from finch_hub.registry.database import Database
from finch_hub.specs.jobs import JobState, Requirements
from finch_hub.workers.messaging.broker import WAKE, own_queue_name, queue_name


def test_message_that_is_delivered_five_times_causes_one_claim(workers: Fleet) -> None:
    worker = workers.start(slots=2)
    job = workers.probe("sleep", seconds=1, send_message=False)
    workers.send(*[(WAKE, job, queue_name("default"))] * 5)
    workers.wait_begun(job)
    workers.wake(job)  # again while the job runs
    assert workers.wait(job).state is JobState.SUCCEEDED
    workers.wake(job)  # and after its end
    wait_until(lambda: _waiting(workers) == 0, "all messages to be taken")
    assert len(workers.runs_of(job)) == 1
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    workers.check(job)


@pytest.mark.slow
def test_message_for_an_unknown_job_does_no_harm(workers: Fleet) -> None:
    worker = workers.start()
    workers.send((WAKE, "no-such-job", queue_name("default")), ("some.other.task", "", queue_name("default")))
    wait_until(lambda: "job_id=no-such-job" in worker.text, "the unknown job to be logged")
    wait_until(lambda: "some.other.task" in worker.text, "the unknown task to be logged")
    job = workers.probe()
    assert workers.wait(job).state is JobState.SUCCEEDED
    workers.check(job)


def test_message_that_is_not_json_is_dropped_and_never_unpickled(workers: Fleet) -> None:
    worker = workers.start()
    trap = workers.folder / "unpickled"
    with workers.broker.client() as client:
        client.lpush(workers.key(queue_name("default")), _pickled_message(_Trap(str(trap))))
    job = workers.probe()
    assert workers.wait(job).state is JobState.SUCCEEDED
    wait_until(lambda: "pickle" in worker.text, "the message to be logged")
    assert not trap.exists()
    workers.check(job)


@pytest.mark.slow
def test_message_that_is_no_message_ends_no_worker(workers: Fleet) -> None:
    worker = workers.start()
    with workers.broker.client() as client:
        for number, garbage in enumerate((b"{", b"[]", b"\xff", b'{"body": 1}')):
            client.lpush(workers.key(queue_name("default")), garbage)
            wait_until(lambda: _waiting(workers) == 0, f"message {number} to be taken", report=lambda: worker.text)
    job = workers.probe()
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert worker.poll() is None
    workers.check(job)


def test_flushed_broker_loses_no_job(workers: Fleet) -> None:
    jobs = [workers.probe("sleep", seconds=0.2) for _ in range(3)]
    workers.broker.flush()
    workers.start()
    running = workers.probe("sleep", seconds=1)
    workers.wait_begun(running)
    workers.broker.flush()
    jobs += [running, workers.probe()]
    for job in jobs:
        assert workers.wait(job).state is JobState.SUCCEEDED
    assert all(len(workers.runs_of(job)) == 1 for job in jobs)
    workers.check(*jobs)


@pytest.mark.slow
def test_job_that_is_submitted_without_a_broker_starts_when_it_is_back(workers: Fleet) -> None:
    workers.start()
    running = workers.probe("sleep", seconds=2)
    workers.wait_begun(running)
    workers.broker.kill()
    submitted = workers.probe()
    assert workers.job(submitted).state is JobState.QUEUED
    assert workers.wait(running).state is JobState.SUCCEEDED, "running jobs need no broker"
    workers.broker.start()
    assert workers.wait(submitted).state is JobState.SUCCEEDED
    assert len(workers.runs_of(running)) == len(workers.runs_of(submitted)) == 1
    workers.check(running, submitted)


def test_message_at_a_worker_that_cannot_run_the_job_is_passed_on(workers: Fleet) -> None:
    plain = workers.start("plain")
    workers.start("able", labels=["a100"])
    needs_able = Requirements(labels=("a100",))
    workers.wait(workers.probe(requirements=needs_able))  # until the wake-ups at the start of the workers are over
    job = workers.probe(send_message=False, requirements=needs_able)
    workers.send((WAKE, job, own_queue_name("plain")))
    wait_until(lambda: f"job_id={job} to_worker=able" in plain.text, "the message to be passed on")
    assert workers.wait(job).state is JobState.SUCCEEDED
    assert [attempt.worker for attempt in workers.attempts(job)] == ["able"]
    workers.check(job)


def test_worker_that_ends_removes_its_own_queue(workers: Fleet) -> None:
    worker = workers.start()
    with workers.broker.client() as client:
        kept = workers.key(f"{own_queue_name('one')}.keep")
        client.lpush(kept, "another's")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
        assert [key.decode() for key in client.scan_iter()] == [kept], "nothing else is left either"


@pytest.mark.slow
def test_busy_worker_keeps_no_message_from_an_idle_one(workers: Fleet) -> None:
    workers.start("busy")
    first = workers.probe("sleep", seconds=60)
    workers.wait_begun(first)
    workers.broker.flush()  # of messages from the start of the worker
    second = workers.probe()
    time.sleep(1)  # enough for a worker that reserves messages to reserve it
    assert _waiting(workers) == 1, "the message stays with the broker"
    workers.start("idle")
    assert workers.wait(second).state is JobState.SUCCEEDED
    assert workers.job(first).state is JobState.RUNNING
    assert workers.attempts(second)[0].worker == "idle"
    workers.cancel(first)
    workers.wait(first)
    workers.check(first, second)


@pytest.mark.slow
def test_dispatcher_that_is_killed_before_its_messages_loses_no_job(workers: Fleet) -> None:
    once = workers.folder / "killed-once"
    first = workers.start("first", finch_fault=f"dispatch.held:kill:{once}")
    busy = workers.probe("hang")  # or the first worker would claim jobs without a message
    workers.wait_begun(busy)
    waiting = [workers.probe(send_message=False) for _ in range(5)]
    workers.make_due()
    assert first.wait() != 0, "it is killed after it took the due jobs, and before it sent their messages"
    assert _waiting(workers) == 0
    workers.start("second")
    workers.cancel(busy)
    for job in [busy, *waiting]:
        workers.wait(job)
    assert all(len(workers.runs_of(job)) == 1 for job in waiting)
    workers.check(busy, *waiting)


@pytest.mark.slow
def test_worker_that_is_idle_beside_a_busy_one_causes_no_messages(workers: Fleet) -> None:
    """The idle worker takes the messages of jobs that only the busy one can run."""
    workers.start("able", labels=["a100"])
    needs_able = Requirements(labels=("a100",))
    busy = workers.probe("hang", requirements=needs_able)
    workers.wait_begun(busy)
    plain = workers.start("plain")
    waiting = [workers.probe(requirements=needs_able) for _ in range(20)]
    wait_until(lambda: _waiting(workers) == 0, "the messages to be taken", report=lambda: plain.text)
    with workers.broker.client() as client:
        assert client.llen(workers.key(own_queue_name("able"))) == 0
    assert "action=pass_on" not in plain.text
    workers.cancel(busy)
    for job in waiting:
        assert workers.wait(job).state is JobState.SUCCEEDED
    assert {attempt.worker for job in waiting for attempt in workers.attempts(job)} == {"able"}
    workers.check(*waiting)


@pytest.mark.slow
def test_worker_whose_connection_died_in_silence_finds_jobs_and_stops(workers: Fleet) -> None:
    proxy = Proxy(workers.broker.socket)
    try:
        worker = workers.start(impatient="1", finch_broker_url=f"redis://127.0.0.1:{proxy.port}/0")
        proxy.hold()
        job = workers.probe()
        assert workers.wait(job).state is JobState.SUCCEEDED
        wait_until(lambda: "does not answer" in worker.text, "the silence to be noticed", report=lambda: worker.text)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    finally:
        proxy.close()
    workers.check(job)


@pytest.mark.slow
def test_worker_whose_connection_died_in_silence_connects_again(workers: Fleet) -> None:
    proxy = Proxy(workers.broker.socket)
    try:
        worker = workers.start(impatient="1", finch_broker_url=f"redis://127.0.0.1:{proxy.port}/0")
        proxy.hold()
        wait_until(lambda: "does not answer" in worker.text, "the silence to be noticed", report=lambda: worker.text)
        proxy.release()
        wait_until(lambda: "broker=well" in worker.text, "the worker to connect", report=lambda: worker.text)
        job = workers.probe()
        assert workers.wait(job).state is JobState.SUCCEEDED
    finally:
        proxy.close()
    workers.check(job)


def test_worker_follows_the_name_of_its_broker_to_another_server(workers: Fleet) -> None:
    """The old server lives on as a replica, so that connections to it stay open."""
    successor, proxy = Broker(), Proxy(workers.broker.socket)
    try:
        worker = workers.start(impatient="1", finch_broker_url=f"redis://127.0.0.1:{proxy.port}/0")
        proxy.target = successor.socket
        with workers.broker.client() as client:
            client.replicaof("127.0.0.1", 1)
        wait_until(lambda: "broker=well" in worker.text, "the other server", report=lambda: worker.text)
        with successor.client() as client:
            names = [connection["cmd"] for connection in client.client_list()]
        assert "brpop" in names, "the worker waits for messages there"
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    finally:
        proxy.close()
        successor.close()


@dataclasses.dataclass(frozen=True)
class _Trouble:
    """Trouble of a broker: how it begins and ends, given the key of a queue, and the broker's own words for it."""

    begin: Callable[[redis.Redis, str], object]
    end: Callable[[redis.Redis, str], object]
    words: str


_TROUBLES = {
    "full": _Trouble(
        lambda client, key: client.config_set("maxmemory", 1),
        lambda client, key: client.config_set("maxmemory", 0),
        "refused: OOM",
    ),
    "replica": _Trouble(
        lambda client, key: client.replicaof("127.0.0.1", 1),
        lambda client, key: client.replicaof("NO", "ONE"),
        "refused: READONLY",
    ),
    "password": _Trouble(
        lambda client, key: (client.config_set("requirepass", "new"), client.client_kill_filter(_type="normal")),
        lambda client, key: client.config_set("requirepass", ""),
        "rejected the login: NOAUTH",
    ),
    "frozen": _Trouble(
        lambda client, key: os.kill(client.info()["process_id"], signal.SIGSTOP),
        lambda client, key: None,
        "does not answer",
    ),
    "wrong key": _Trouble(
        lambda client, key: client.set(key, "a text"), lambda client, key: client.delete(key), "refused: WRONGTYPE"
    ),
}


_LIKE_FULL = ("replica", "wrong key")  # they refuse commands as a full broker does


@pytest.mark.parametrize(
    "trouble", [pytest.param(name, marks=pytest.mark.slow if name in _LIKE_FULL else ()) for name in _TROUBLES]
)
def test_worker_outlives_a_broker_that_refuses(trouble: str, workers: Fleet) -> None:
    this, key = _TROUBLES[trouble], workers.key(queue_name("default"))
    worker = workers.start(slots=2, impatient="1")
    busy = workers.probe("sleep", seconds=3)
    workers.wait_begun(busy)
    with workers.broker.client() as client:
        pid = client.info()["process_id"]
        this.begin(client, key)
        submitted = [workers.probe() for _ in range(2)]
        workers.make_due()
        wait_until(lambda: this.words in worker.text, "the trouble to be logged", report=lambda: worker.text)
        for job in (busy, *submitted):
            assert workers.wait(job).state is JobState.SUCCEEDED, "a job needs no broker"
        os.kill(pid, signal.SIGCONT)
        this.end(client, key)

        def is_well() -> bool:
            submitted.append(workers.probe(send_message=False))
            workers.make_due()
            workers.wait(submitted[-1])
            return "broker=well" in worker.text

        wait_until(is_well, "the trouble to end", report=lambda: worker.text)
        this.begin(client, key)
        running = [worker]
        if trouble != "password":  # which is said at the start, before anything runs
            running.append(workers.start("starting", ready=False, impatient="1"))
            wait_until(lambda: "action=start " in running[-1].text, "the start", report=lambda: running[-1].text)
        last = workers.probe()
        assert workers.wait(last).state is JobState.SUCCEEDED
        for process, number in zip(running, (signal.SIGTERM, signal.SIGHUP), strict=False):
            process.send(number)
        assert [process.wait() for process in running] == [0] * len(running)
        os.kill(pid, signal.SIGCONT)
        this.end(client, key)
    for text in (process.text for process in running):
        assert "Traceback" not in text
        assert text.count(this.words) <= 4, text
        assert trouble != "full" or "action=consume" not in text, "to wait for messages needs no memory of the broker"
    workers.check(busy, *submitted, last)


@pytest.mark.slow
def test_deployments_and_strangers_on_one_broker_take_nothing_from_each_other(workers: Fleet, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    url = services.Databases(folder).empty()
    database = Database(url)
    database.upgrade()
    database.close()
    stranger = celery.Celery("stranger", broker=workers.broker.url, set_as_current=False)
    with fleet(folder, url, broker_url=workers.broker.url) as other, workers.broker.client() as client:
        job = workers.probe()
        for _ in range(50):
            stranger.send_task(WAKE, args=[job], queue=queue_name("default"))
        stranger.close()
        theirs = other.start()
        assert other.wait(other.probe()).state is JobState.SUCCEEDED
        theirs.send(signal.SIGTERM)
        assert theirs.wait() == 0
        assert job not in theirs.text
        assert _waiting(workers) == 1, "the message stays for its own deployment"
        workers.start()
        assert workers.wait(job).state is JobState.SUCCEEDED
        wait_until(lambda: _waiting(workers) == 0, "the own message to be taken")
        assert client.llen(queue_name("default")) == 50, "the stranger's stay where they are"
    workers.check(job)


class _Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


def _pickled_message(body: object) -> bytes:
    headers = {"lang": "py", "task": WAKE, "id": str(uuid.uuid4()), "argsrepr": "()", "kwargsrepr": "{}"}
    properties = {
        "delivery_mode": 2,
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue_name("default")},
        "body_encoding": "base64",
        "priority": 0,
    }
    message = {
        "body": base64.b64encode(pickle.dumps(body)).decode(),
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(message).encode()


def _waiting(workers: Fleet) -> int:
    with workers.broker.client() as client:
        return int(client.llen(workers.key(queue_name("default"))))
