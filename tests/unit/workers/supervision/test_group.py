from __future__ import annotations

import select
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.children import FakeChild
from support.fleet import wait_until

from finch_hub.workers.supervision import group as module
from finch_hub.workers.supervision.group import AttemptGroup, SharedChild


class Attempt:
    """Attempt at one job that does what a test says with its child."""

    def __init__(self, job_id: str, child: SharedChild) -> None:
        self.job_id, self.child = job_id, child
        self.ended_jobs: list[Any] = []
        self.heard: list[Any] = []
        self.work: Callable[[Attempt], None] = Attempt.until_done

    def run(self) -> None:
        self.work(self)

    def until_done(self) -> None:
        """Send an order and read until the last message."""
        self.child.send(type="run", job_id=self.job_id, order={"of": self.job_id})
        while True:
            select.select([self.child.messages_fd], [], [])  # readable at the end of all messages, too
            for message in self.child.read_messages():
                self.heard.append(message)
                if message is None or message["type"] != "event":
                    return


class Trained:
    """A group of two jobs, its fake child, and the thread that runs it."""

    def __init__(self) -> None:
        self.child = FakeChild()
        claimed: list[Any] = [SimpleNamespace(job=SimpleNamespace(id=name)) for name in ("a", "b")]
        self.attempts: dict[str, Attempt] = {}
        self.taken = 0
        self.group = AttemptGroup(claimed, self._make_attempt, take_child=self._take_child)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self.group.run, daemon=True)

    def _make_attempt(self, claimed: Any, child: SharedChild) -> Attempt:
        return self.attempts.setdefault(claimed.job.id, Attempt(claimed.job.id, child))

    def _take_child(self) -> FakeChild:
        self.taken += 1
        return self.child

    def leave(self, attempt: Attempt) -> None:
        """Leave once the child has the order."""
        attempt.child.send(type="run", job_id=attempt.job_id)
        wait_until(lambda: bool(orders(self)), "the order")

    def start(self) -> None:
        self.thread.start()

    def join(self) -> None:
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def trained() -> Trained:
    return Trained()


def orders(trained: Trained) -> list[list[str]]:
    return [[job["job_id"] for job in order["jobs"]] for order in trained.child.sent if order["type"] == "run_together"]


def test_child_gets_one_order_and_each_member_the_messages_about_it(trained: Trained) -> None:
    trained.start()
    wait_until(lambda: orders(trained) == [["a", "b"]], "the order for both")
    event = {"type": "event", "event": {"type": "message", "message": "half done"}}
    trained.child.say(job="b", **event)
    trained.child.say(job="a", type="done")
    trained.child.say(job="b", type="failed", reason="it broke")
    trained.child.say(type="ended_together", warm_base="tiny")
    trained.join()
    assert trained.attempts["a"].heard == [{"type": "done"}]
    assert trained.attempts["b"].heard == [event, {"type": "failed", "reason": "it broke"}]
    assert trained.group.child is trained.child, "the child is fit for another job"
    assert trained.child.warm_base == "tiny"
    assert "kill" not in trained.child.calls


@pytest.mark.parametrize("about", [{}, {"job": "unknown"}, {"job": ["a"]}])
def test_child_that_tells_of_no_member_is_killed_and_the_members_go_on_alone(
    trained: Trained, about: dict[str, Any]
) -> None:
    trained.start()
    wait_until(lambda: orders(trained) == [["a", "b"]], "the order for both")
    trained.child.say(type="done", **about)
    trained.join()
    assert trained.child.calls[-2:] == ["refuse a message about no job of the group", "kill"]
    assert trained.group.child is None, "no other job gets it"
    assert [attempt.heard for attempt in trained.attempts.values()] == [[None], [None]]


def test_job_that_ends_before_its_order_is_left_out(trained: Trained) -> None:
    trained.attempts["a"].work = lambda attempt: None
    trained.start()
    wait_until(lambda: orders(trained) == [["b"]], "the order for the other")
    trained.child.say(job="b", type="done")
    trained.child.say(type="ended_together", warm_base=None)
    trained.join()


def test_no_child_is_taken_if_no_job_can_be_prepared(trained: Trained) -> None:
    for attempt in trained.attempts.values():
        attempt.work = lambda attempt: None
    trained.start()
    trained.join()
    assert trained.taken == 0


def test_child_that_dies_ends_all_members_and_is_killed(trained: Trained) -> None:
    trained.start()
    wait_until(lambda: bool(orders(trained)), "the order")
    trained.child.die()
    trained.join()
    for attempt in trained.attempts.values():
        assert attempt.heard == [None]
        assert (attempt.child.last_output(), attempt.child.describe_end()) == ("last words", "exit status 3")
    assert trained.child.calls == ["kill"]
    assert trained.group.child is None


def test_member_that_leaves_stops_its_own_job_and_the_others_go_on(trained: Trained) -> None:
    trained.attempts["a"].work = trained.leave
    trained.start()
    wait_until(lambda: {"type": "stop", "why": "cancel", "job": "a"} in trained.child.sent, "the stop")
    assert trained.thread.is_alive()
    trained.child.say(job="a", type="stopped")  # nobody hears it any more
    trained.child.say(job="b", type="done")
    trained.child.say(type="ended_together", warm_base=None)
    trained.join()
    assert trained.attempts["b"].heard == [{"type": "done"}]


def test_child_that_goes_on_after_all_have_left_is_killed(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_END_SECONDS", 0.1)  # several polls
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    for attempt in trained.attempts.values():
        attempt.work = trained.leave
    trained.start()
    trained.join()
    assert trained.child.calls == ["kill"]


def test_child_is_suspended_while_the_lease_of_any_member_is_in_doubt(trained: Trained) -> None:
    first, second = (trained.attempts[name].child for name in ("a", "b"))
    trained.group.child = trained.child  # type: ignore[assignment]
    first.suspend()
    second.suspend()
    first.resume()
    assert trained.child.calls == ["suspend"]
    second.resume()
    assert trained.child.calls == ["suspend", "resume"]


def test_member_that_reads_too_early_or_late_keeps_nobody_waiting(trained: Trained) -> None:
    member = trained.attempts["a"].child
    read: list[Any] = []

    def work() -> None:
        read.extend(member.read_messages())  # nothing has arrived
        for number in range(70_000):  # a pipe has room for less
            member.deliver({"number": number})
        read.extend(member.read_messages())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert [message["number"] for message in read] == list(range(70_000))
