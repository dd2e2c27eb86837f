from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support import registry
from support.children import FakeChild

from finch_hub import settings
from finch_hub.registry.database import Database
from finch_hub.workers.supervision import child_watch, clock
from finch_hub.workers.supervision.child_watch import ChildWatch
from finch_hub.workers.supervision.lease import ClaimedJob
from finch_hub.workers.supervision.lease import Lease as RealLease

EVENT = {"type": "event", "event": {"type": "message", "message": "half done"}}


class Lease:
    """Lease whose time goes on by `step` seconds at every look."""

    def __init__(self) -> None:
        self.now, self.step = 0.0, 0.0
        self.reason: str | None = None

    def elapsed(self) -> float:
        self.now += self.step
        return self.now

    def stop_reason(self) -> str | None:
        return self.reason

    def recover(self) -> None:
        pass


class Record:
    """Record that keeps the events in a list."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def seconds_until_due(self) -> float:
        return 0.0

    def add_event(self, event: Any) -> None:
        self.messages.append(event.message)

    def write_due_events(self) -> None:
        pass

    def log(self, action: str, **fields: object) -> None:
        pass


class Checkpoint:
    """Copy of a checkpoint that counts how often it was looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def copy_if_due(self) -> None:
        self.looks += 1


Watching = SimpleNamespace


@pytest.fixture
def watching() -> Watching:
    """A child, its lease, its record, and the watch over them: 900 s until a stall, 20 s of grace, 1,000 bytes."""
    child, lease, record, checkpoint = FakeChild(), Lease(), Record(), Checkpoint()
    in_force = settings.load(stall_seconds=900.0, grace_seconds=20.0)
    arguments: tuple[Any, ...] = (child, lease, record, checkpoint, in_force)
    run: Callable[[], dict[str, Any]] = lambda: ChildWatch(*arguments, memory_limit=1000).run()  # noqa: E731
    return Watching(child=child, lease=lease, record=record, checkpoint=checkpoint, run=run)


def test_events_are_recorded_until_the_last_message(watching: Watching) -> None:
    watching.child.say(**EVENT)
    watching.child.say(type="done", outcome={"adapter": "here"})
    assert watching.run() == {"type": "done", "outcome": {"adapter": "here"}}
    assert watching.record.messages == ["half done"]


def test_child_that_ends_without_a_last_message_has_died(watching: Watching) -> None:
    watching.child.say(**EVENT)
    watching.child.die()
    assert watching.run() == {"type": "died"}
    assert watching.record.messages == ["half done"]


def test_child_that_reports_nothing_for_too_long_hangs(watching: Watching) -> None:
    watching.lease.step = 100.0
    assert watching.run() == {"type": "hung", "reason": "reported nothing for 900 s"}
    assert watching.lease.now >= 900.0
    assert watching.checkpoint.looks > 0, "the checkpoint is copied while the child works"


def test_child_that_uses_too_much_memory_hangs(watching: Watching) -> None:
    watching.child.resident = 1001
    watching.lease.step = 6.0
    reason = "used 1,001 bytes of memory (the limit is 1,000)"
    assert watching.run() == {"type": "hung", "reason": reason}


def test_child_within_its_memory_goes_on(watching: Watching) -> None:
    watching.child.resident = 1000
    watching.lease.step = 100.0
    assert watching.run()["reason"].startswith("reported nothing")


@pytest.mark.parametrize(
    ("reason", "sent"), [("cancel", "cancel"), ("time_limit", "cancel"), ("hand_back", "hand_back")]
)
def test_stop_is_sent_once_and_the_childs_answer_carries_the_reason(
    watching: Watching, reason: str, sent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching.lease.reason = reason
    send = watching.child.send

    def answer(**message: Any) -> None:
        send(**message)
        watching.child.say(type="stopped", why=message["why"])

    monkeypatch.setattr(watching.child, "send", answer)
    assert watching.run() == {"type": "stopped", "why": reason}
    assert watching.child.sent == [{"type": "stop", "why": sent}]


@pytest.mark.parametrize(("reason", "grace"), [("cancel", child_watch._CANCEL_GRACE), ("hand_back", 20.0)])
def test_child_that_ignores_a_stop_is_to_be_killed_after_its_grace(
    watching: Watching, reason: str, grace: float
) -> None:
    watching.lease.reason, watching.lease.step = reason, 0.5
    assert watching.run() == {"type": "stopped", "why": reason, "killed": True}
    assert grace <= watching.lease.now <= grace + 3.0


def test_time_in_doubt_is_not_silence(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is suspended for longer than a stall cannot report anything."""
    now, doubts = [1000.0], [500.0, 1200.0]
    monkeypatch.setattr(clock, "elapsed", lambda: now[0])
    registry.submit(database, time_limit=400.0)
    in_force = settings.load(stall_seconds=900.0, lease_seconds=60.0, heartbeat_seconds=5.0)
    claimed = ClaimedJob(job=registry.claimed(database, lease=3600.0), requested_at=now[0])
    lease, child, record = RealLease(database, claimed, in_force, stopping=threading.Event()), FakeChild(), Record()
    lease.guard(child)

    def resume() -> None:
        now[0] += 30.0  # the child works on
        if not doubts:
            child.say(type="done", outcome={})

    def suspend() -> None:
        now[0] += doubts.pop() if doubts else 0.0  # the database does not answer

    def write_due_events() -> None:
        now[0] = lease.certain_until

    monkeypatch.setattr(child, "suspend", suspend)
    monkeypatch.setattr(child, "resume", resume)
    monkeypatch.setattr(record, "write_due_events", write_due_events)
    arguments: tuple[Any, ...] = (child, lease, record, Checkpoint(), in_force)
    assert ChildWatch(*arguments, memory_limit=1000).run() == {"type": "done", "outcome": {}}
    assert child.sent == [], "no limit was reached"


@pytest.mark.parametrize("wrong", [{"invented": 1}, {"data": {"deep": json.loads("[" * 200 + "]" * 200)}}])
def test_child_that_sends_what_is_no_event_is_to_be_killed(watching: Watching, wrong: dict[str, Any]) -> None:
    watching.child.say(type="event", event={"type": "message", **wrong})
    watching.child.say(type="done", outcome={})
    found = watching.run()
    assert found["type"] == "hung"
    assert found["reason"].startswith("sent what is no event (")


def test_memory_is_measured_every_few_seconds(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read the memory of all descendants takes a while."""
    measured: list[float] = []

    def resident_bytes() -> int:
        measured.append(watching.lease.now)
        return 0

    monkeypatch.setattr(watching.child, "resident_bytes", resident_bytes)
    watching.lease.step = 1.0
    monkeypatch.setattr(watching.record, "write_due_events", lambda: watching.lease.now < 60.0 or watching.child.die())
    watching.run()
    assert measured
    assert all(later - earlier > 5.0 for earlier, later in itertools.pairwise([0.0, *measured]))
